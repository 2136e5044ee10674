//! Certificates for a node and its clients, from an authority of the test's own.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::ports::Ports;

/// An authority that nobody trusts who was not told to.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// How a node does TLS.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Whom it believes about its clients, PEM.
    pub authority: String,
    /// What it shows.
    pub identity: Identity,
    /// Whether a client must show a certificate.
    pub client_certificates: bool,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When there is no randomness.
    pub fn new() -> Self {
        let mut params = params("the tests' authority", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority can sign itself");
        Self { issuer }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// For a server or client of these names or addresses, good for many years.
    ///
    /// # Panics
    ///
    /// When there is no randomness.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.sign(&params(names[0], names))
    }

    /// The same, expired for years.
    ///
    /// # Panics
    ///
    /// As [`issue`](Self::issue).
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names[0], names);
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed").pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerTls {
    /// The lines of `rabbitmq.conf`, for files that the node finds in `folder`.
    pub(super) fn settings(&self, ports: &Ports, folder: &Path) -> String {
        let (amqps, api) = (ports.amqps(), ports.api_tls());
        let folder = folder.display();
        let required = self.client_certificates;
        format!(
            "listeners.ssl.1 = 127.0.0.1:{amqps}\n\
             ssl_options.cacertfile = {folder}/ca.pem\n\
             ssl_options.certfile = {folder}/server.pem\n\
             ssl_options.keyfile = {folder}/key.pem\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = {required}\n\
             management.ssl.ip = 127.0.0.1\n\
             management.ssl.port = {api}\n\
             management.ssl.cacertfile = {folder}/ca.pem\n\
             management.ssl.certfile = {folder}/server.pem\n\
             management.ssl.keyfile = {folder}/key.pem\n"
        )
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness")
}

fn params(name: &str, alternatives: &[&str]) -> CertificateParams {
    let alternatives: Vec<_> = alternatives.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(alternatives).expect("these are names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}
