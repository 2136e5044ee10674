//! Requests to a node's management API.

use std::{io, net::Ipv4Addr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a request may take; usually it takes milliseconds.
const REQUEST_MAX: Duration = Duration::from_secs(20);

/// As whom a request is made: the value of an `Authorization` header.
///
/// The tests have a user of their own, so that they may do to `guest` what they like.
pub(super) const HARNESS: &str = "Basic aGFybmVzczpoYXJuZXNz"; // harness:harness
pub(super) const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q="; // guest:guest

/// The management API of one node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api {
    port: u16,
}

impl Api {
    pub(super) const fn new(port: u16) -> Self {
        Self { port }
    }

    /// Asks, and insists on an answer.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        match self.request(HARNESS, method, path, body).await {
            Ok((200..=299, answer)) => answer,
            refused => panic!("{method} {path} {body:?}: {refused:?}"),
        }
    }

    /// Asks, and gives the status and the answer.
    pub(super) async fn request(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        // 1.0: the answer ends where the connection does, and comes in one piece.
        let request = format!(
            "{method} /api/{path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: {who}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = Vec::new();
        timeout(REQUEST_MAX, async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.read_to_end(&mut answer).await
        })
        .await??;
        parse(&answer).ok_or_else(|| io::Error::other(format!("not HTTP: {}", String::from_utf8_lossy(&answer))))
    }
}

/// The status and the body of an answer.
fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = str::from_utf8(&answer[..end]).ok()?.split(' ').nth(1)?.parse().ok()?;
    // No body is no answer, a text is an error's.
    let body = &answer[end + 4..];
    let text = || String::from_utf8_lossy(body).into_owned().into();
    Some((status, serde_json::from_slice(body).unwrap_or_else(|_| text())))
}

/// `segment` as a part of a path.
pub(super) fn escape(segment: &str) -> String {
    let mut escaped = String::new();
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
