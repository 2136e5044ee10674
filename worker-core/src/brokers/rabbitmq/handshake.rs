//! Learns which server this is, before connecting to it.
//!
//! `lapin` does not show what the server says of itself. The first frame of
//! every connection does, before any credentials are sent: this opens one,
//! reads that frame, and closes it.
//!
//! Source: AMQP 0-9-1, section 1.4.2.1, `connection.start`.

use std::io;

use amq_protocol::{
    frame::{AMQPFrame, parse_frame},
    protocol::{AMQPClass, connection::AMQPMethod},
};
use lapin::{
    tcp::OwnedTLSConfig,
    types::{AMQPValue, FieldTable},
    uri::AMQPUri,
};

use crate::brokers::rabbitmq::{
    link::{LinkError, LinkErrorKind},
    tls,
    version::Server,
};

/// The protocol header that a client begins with.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The most bytes of a first frame; RabbitMQ's has about 500.
const FRAME_BYTES_MAX: usize = 64 << 10;

/// Asks the server at `uri` what it is. Call it inside the runtime that shall carry it.
pub(super) async fn introduce(
    uri: &AMQPUri,
    tls: &OwnedTLSConfig,
    server_name: Option<&str>,
) -> Result<Server, LinkError> {
    use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};

    let runtime = async_rs::Runtime::tokio_current();
    let mut stream = tls::open(uri, tls, server_name, &runtime).await.map_err(failed)?;
    stream.write_all(HEADER).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut received = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.map_err(failed)?;
        received.extend_from_slice(&chunk[..count]);
        match read_start(&received) {
            Some(Ok(server)) => {
                drop(stream.close().await); // The server drops what does not go on.
                return Ok(server);
            }
            Some(Err(what)) => return Err(LinkError::new(LinkErrorKind::Hopeless, what)),
            None if count == 0 || received.len() > FRAME_BYTES_MAX => {
                return Err(LinkError::new(
                    LinkErrorKind::Gone,
                    "the connection was closed before the server introduced itself",
                ));
            }
            None => {}
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of `map_err`")]
fn failed(error: io::Error) -> LinkError {
    tls::explain(&error, tls::PLAIN_AMQP).unwrap_or_else(|| LinkError::new(LinkErrorKind::Gone, error.to_string()))
}

/// What the first frame says; `None` while it is not complete.
fn read_start(received: &[u8]) -> Option<Result<Server, String>> {
    if tls::is_record(received) {
        return Some(Err("what answers there speaks TLS; write `amqps://`, or use the port without (5672)".into()));
    }
    if received.len() >= 4 && !received.starts_with(b"AMQP") && received[0] != 1 {
        return Some(Err("what answers there does not speak AMQP".into()));
    }
    if received.len() >= 8 && received.starts_with(b"AMQP") {
        return Some(Err("the server does not speak AMQP 0-9-1".into()));
    }
    let (_, frame) = parse_frame(received).ok()?;
    let AMQPFrame::Method(_, AMQPClass::Connection(AMQPMethod::Start(start))) = frame else {
        return Some(Err("the server did not introduce itself".into()));
    };
    let text = |name: &str| text_of(&start.server_properties, name);
    Some(Ok(Server::new(&text("product"), &text("version"))))
}

fn text_of(table: &FieldTable, name: &str) -> String {
    match table.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        _ => "unknown".into(),
    }
}
