//! What a failure of TLS means, and what to do about it; and whether a file is what TLS needs.
//!
//! `rustls` names exactly what is wrong; whoever sets up a certificate also
//! needs to know where to say otherwise.

use std::io;

use async_rs::{
    Runtime,
    traits::{Reactor, RuntimeKit},
};
use lapin::{
    tcp::{AMQPUriTcpExt as _, AsyncTcpStream, OwnedIdentity, OwnedTLSConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls::{
    AlertDescription, CertificateError, Error,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::brokers::rabbitmq::{
    link::{LinkError, LinkErrorKind},
    options::Tls,
};

/// What to write where a broker does no TLS.
pub(super) const PLAIN_AMQP: &str = "`amqp://`, or use the port for TLS (5671)";

const NAME_AUTHORITY: &str = "if it is one of your own authority's, name that one's file \
                              (WORKER_RABBITMQ_CA_FILE, or `cacertfile` in the URL)";
const NAME_IDENTITY: &str = "name the files of one and its key (WORKER_RABBITMQ_CERT_FILE and \
                             WORKER_RABBITMQ_KEY_FILE, or `certfile` and `keyfile` in the URL)";

/// What is wrong, if it is about TLS. None of it gets well by trying again. `plain` is what to write where there is none.
pub(super) fn explain(error: &io::Error, plain: &str) -> Option<LinkError> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let advice = match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("the server's certificate is signed by nobody we trust; {NAME_AUTHORITY}")
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "connect by a name that the server's certificate has, say which one it has (WORKER_RABBITMQ_SERVER_NAME), or have one made for this name".into(),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server needs a new certificate, or the clock of this machine is wrong".into()
        }
        Error::InvalidCertificate(_) => "the server's certificate cannot be used".into(),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            format!("the server asks for a certificate of ours; {NAME_IDENTITY}")
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied,
        ) => format!("the server does not accept our certificate; {NAME_IDENTITY}"),
        // Before TLS 1.3 this is all that a server says which misses a certificate.
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            format!("no version of TLS is common to both, or the server asks for a certificate; {NAME_IDENTITY}")
        }
        Error::InvalidMessage(_) => {
            format!("what answers there does not speak TLS; write {plain}")
        }
        Error::InconsistentKeys(_) => "the certificate and the key are not each other's".into(),
        _ => return None,
    };
    Some(LinkError::new(LinkErrorKind::Hopeless, format!("{error}: {advice}")))
}

/// What we trust and show, as `lapin` takes it.
pub(super) fn owned(tls: Option<&Tls>) -> OwnedTLSConfig {
    let tls = tls.cloned().unwrap_or_default();
    OwnedTLSConfig {
        identity: tls.identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
        cert_chain: tls.authorities,
    }
}

/// Opens the transport to the server at `uri`, whose certificate is for its host or for `server_name`.
pub(super) async fn open<R: RuntimeKit + Send + Sync>(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
    server_name: Option<&str>,
    runtime: &Runtime<R>,
) -> io::Result<AsyncTcpStream<<R as Reactor>::TcpStream>> {
    let Some(name) = server_name.filter(|_| uri.scheme == AMQPScheme::AMQPS) else {
        return uri.connect_with_config_async(tls.as_ref(), runtime).await;
    };
    // Without TLS first, which would ask for the host's name.
    let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
    let stream = plain.connect_with_config_async(tls.as_ref(), runtime).await?;
    stream.into_tls(name, tls.as_ref()).await
}

/// Whether bytes of an unencrypted answer are TLS: an alert or a handshake of any version.
///
/// Source: RFC 8446, section 5.1, and 5.2 of the versions before.
pub(super) fn is_record(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

/// Whether `pem` holds certificates.
///
/// # Errors
///
/// What it holds instead.
pub(crate) fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate.map_err(|error| format!("holds a certificate that cannot be read: {error}"))?;
        count += 1;
    }
    if count == 0 { Err("holds no certificate; write PEM: `-----BEGIN CERTIFICATE-----`".into()) } else { Ok(()) }
}

/// Whether `pem` holds a key that is not encrypted.
///
/// # Errors
///
/// What it holds instead.
pub(crate) fn check_key(pem: &[u8]) -> Result<(), String> {
    let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
    PrivateKeyDer::from_pem_slice(pem).map(drop).map_err(|_| {
        let what = if encrypted { "holds a key that is encrypted" } else { "holds no key" };
        format!("{what}; write PEM: `-----BEGIN PRIVATE KEY-----`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: Error) -> Option<String> {
        explain(&io::Error::new(io::ErrorKind::InvalidData, error), PLAIN_AMQP).map(|error| {
            assert_eq!(error.kind, LinkErrorKind::Hopeless);
            error.text
        })
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_with_the_way_out() {
        for (error, way_out) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "WORKER_RABBITMQ_CA_FILE"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "by a name"),
            (Error::InvalidCertificate(CertificateError::Expired), "clock"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "WORKER_RABBITMQ_CERT_FILE"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "WORKER_RABBITMQ_CERT_FILE"),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "`amqp://`"),
        ] {
            let said = error.to_string();
            let text = told(error).unwrap();
            assert!(text.starts_with(&said) && text.contains(way_out), "{text}");
        }
        assert_eq!(told(Error::General("something else".into())), None);
        assert!(explain(&io::Error::from(io::ErrorKind::ConnectionReset), PLAIN_AMQP).is_none());
    }

    #[test]
    fn what_is_no_certificate_or_key_is_told() {
        assert!(check_certificates(b"").unwrap_err().contains("no certificate"));
        let torn = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(check_certificates(torn).unwrap_err().contains("cannot be read"));
        assert!(check_key(b"nothing").unwrap_err().contains("no key"));
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(check_key(encrypted).unwrap_err().contains("encrypted"));
    }
}
