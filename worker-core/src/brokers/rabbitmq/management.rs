//! What only the server's management API tells: how many jobs of a queue workers hold.
//!
//! Its numbers are up to 5 s old (`collect_statistics_interval`), so nothing is decided by them: they are for people.
//! A connection is made for each look, and another where the server ends it after each answer. No redirect is followed
//! and no proxy of the environment used: the request has a password in it.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use lapin::uri::{AMQPScheme, AMQPUri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::{compat::FuturesAsyncReadCompatExt as _, task::AbortOnDropHandle};

use crate::{
    brokers::rabbitmq::{
        options::{Credentials, Management, RabbitOptions},
        tls,
    },
    error::{BrokerError, BrokerErrorKind},
};

/// How long all answers may take together: they take milliseconds, and health has 5 s for everything.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// The most bytes of one answer: that about a queue with thousands of consumers, where a server ignores `columns`.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Asks the management API of one server.
#[derive(Clone)]
pub(super) struct Api {
    at: Management,
    credentials: Credentials,
    vhost: String,
    runtime: Handle,
}

/// What an answer says of a queue.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// So many are held; `None` where that is not counted.
    Count(Option<u64>),
    Absent,
}

/// What is asked for of a queue. A server that has just started, or counts nothing, leaves it out.
#[derive(Deserialize)]
struct Numbers {
    messages_unacknowledged: Option<u64>,
}

impl Api {
    /// As `options` say; `None` where they name no API.
    pub(super) fn new(options: &RabbitOptions, runtime: Handle) -> Option<Self> {
        let at = options.management.clone()?;
        let credentials = at.credentials.clone().unwrap_or_else(|| options.credentials.clone());
        Some(Self { at, credentials, vhost: options.vhost.clone(), runtime })
    }

    /// How many messages consumers hold of each of `queues`, which exist, and of those `perhaps` that do; of one that it
    /// does not count, nothing.
    ///
    /// # Errors
    ///
    /// It could not be asked, did not answer, or knows another server's queues: with what to change.
    pub(super) async fn held(
        &self,
        queues: Vec<String>,
        perhaps: Vec<String>,
    ) -> Result<BTreeMap<String, u64>, BrokerError> {
        let api = self.clone();
        // Its sockets belong to the runtime of the broker, whoever asks.
        let asking = self.runtime.spawn(async move { api.ask(queues, perhaps).await });
        let why = match timeout(ANSWERS_WITHIN, AbortOnDropHandle::new(asking)).await {
            Ok(Ok(Ok(held))) => return Ok(held),
            Ok(Ok(Err(why))) => why,
            Ok(Err(panicked)) => panicked.to_string(),
            Err(_) => format!("no answer within {}", humantime::format_duration(ANSWERS_WITHIN)),
        };
        Err(BrokerError::new(
            BrokerErrorKind::Transient,
            format!("the management API at {self} cannot be asked: {why}"),
        ))
    }

    async fn ask(&self, queues: Vec<String>, perhaps: Vec<String>) -> Result<BTreeMap<String, u64>, String> {
        let mut sender = self.connect().await?;
        let mut held = BTreeMap::new();
        let all = queues.into_iter().map(|queue| (queue, true)).chain(perhaps.into_iter().map(|queue| (queue, false)));
        for (queue, exists) in all {
            // A proxy may end the connection after each answer, or while the next question is on its way.
            if sender.ready().await.is_err() {
                sender = self.connect().await?;
            }
            let answer = match self.ask_about(&mut sender, &queue).await {
                Err(_) if sender.is_closed() => {
                    sender = self.connect().await?;
                    self.ask_about(&mut sender, &queue).await
                }
                answer => answer,
            };
            match answer? {
                Answer::Count(Some(count)) => drop(held.insert(queue, count)),
                Answer::Count(None) => {}
                Answer::Absent if !exists => {}
                Answer::Absent => {
                    return Err(format!(
                        "it has no queue `{queue}` in the virtual host `{}`, or the path is another (404); \
                         name the API of the broker's own server",
                        self.vhost
                    ));
                }
            }
        }
        Ok(held)
    }

    /// Opens the transport as that of AMQP is: the same resolver, the same TLS.
    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let mut uri = AMQPUri::default();
        (uri.authority.host, uri.authority.port) = (self.at.host.clone(), self.at.port);
        uri.scheme = if self.at.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
        let runtime = async_rs::Runtime::tokio_with_handle(self.runtime.clone());
        let stream =
            tls::open(&uri, &tls::owned(self.at.tls.as_ref()), None, &runtime).await.map_err(|error| told(&error))?;
        let (sender, connection) = handshake(TokioIo::new(stream.compat())).await.map_err(|error| error.to_string())?;
        // It ends with the sender, and its failure is that of the request.
        drop(self.runtime.spawn(async move { drop(connection.await) }));
        Ok(sender)
    }

    async fn ask_about(&self, sender: &mut SendRequest<Empty<Bytes>>, queue: &str) -> Result<Answer, String> {
        let [vhost, name] = [&*self.vhost, queue].map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
        let path = format!("{}/api/queues/{vhost}/{name}?columns=messages_unacknowledged", self.at.path);
        let request = Request::get(path)
            .header(HOST, format!("{}:{}", bracketed(&self.at.host), self.at.port))
            .header(AUTHORIZATION, self.authorization()?)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
        read(head.status, &body.to_bytes())
    }

    fn authorization(&self) -> Result<HeaderValue, String> {
        let Credentials { user, password } = &self.credentials;
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut value = HeaderValue::try_from(basic).map_err(|_| "the password cannot be sent".to_owned())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Its address, without who asks.
impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.at.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", bracketed(&self.at.host), self.at.port, self.at.path)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn read(status: StatusCode, body: &[u8]) -> Result<Answer, String> {
    match status {
        StatusCode::OK => serde_json::from_slice(body)
            .map(|Numbers { messages_unacknowledged: count }| Answer::Count(count))
            .map_err(|_| "its answer is not that of RabbitMQ's management API; check host, port and path".into()),
        StatusCode::NOT_FOUND => Ok(Answer::Absent),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(format!(
            "it does not let the user in ({}): it takes one with the tag `management` and a right in the virtual host, \
             who can be named in the URL, `http://USER:PASSWORD@HOST:15672`",
            status.as_u16()
        )),
        other => Err(format!("it answers with {other}")),
    }
}

fn told(error: &io::Error) -> String {
    tls::explain(error, "`http://`, or use the port for TLS (15671)").map_or_else(|| error.to_string(), |e| e.text)
}

/// An error of `hyper` with what is behind it, which its own words leave out.
fn chain(error: &hyper::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_or_none_or_says_what_to_change() {
        assert_eq!(read(StatusCode::OK, br#"{"messages_unacknowledged":7}"#), Ok(Answer::Count(Some(7))));
        assert_eq!(read(StatusCode::OK, b"{}"), Ok(Answer::Count(None)));
        assert_eq!(read(StatusCode::NOT_FOUND, br#"{"error":"Object Not Found"}"#), Ok(Answer::Absent));
        for (status, body, said) in [
            (StatusCode::OK, "<html>", "check host, port and path"),
            (StatusCode::UNAUTHORIZED, "", "the tag `management`"),
            (StatusCode::MOVED_PERMANENTLY, "", "301"),
        ] {
            let told = read(status, body.as_bytes()).unwrap_err();
            assert!(told.contains(said), "{told}");
        }
    }
}
