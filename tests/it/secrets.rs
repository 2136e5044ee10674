//! A password and a payload that nothing shows of what a program can print: no `Debug`, no error.
//!
//! What is logged is watched where it is made: `cli::run`, `cli::rabbit`, `rabbit_faults::refused`, and in every run of
//! the torture. Whatever surrounds a password in a URL is the fuzzer's, `fuzz`.

use std::time::Duration;

use worker_core::{
    CallError, EnqueueErrorKind, QueueName, Timestamp,
    broker::{Delivery, Receipt},
    brokers::rabbitmq::{Credentials, Management, RabbitBroker, RabbitOptions, Tls},
    cli::App,
    config::{BrokerUrl, SettingsReader},
    envelope::{Body, Envelope},
    outcome::Outcome,
    prelude::*,
    reply::Reply,
    settlement::Settlement,
    testing::TestQueue,
};

const PASSWORD: &str = "cAnArY-password";
const PAYLOAD: &str = "cAnArY-payload";

/// Takes a card.
#[job(max_retries = 0)]
async fn charge(card: String) -> JobResult {
    Err(format!("no money on a card of {} digits", card.len()).into())
}

#[track_caller]
fn assert_unshown(texts: impl IntoIterator<Item = String>) {
    for text in texts {
        assert!(!text.contains(PASSWORD) && !text.contains(PAYLOAD), "{text}");
        assert!(!text.is_empty());
    }
}

/// An error as it is printed, with its causes, and as it is debugged.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| format!("{error} {error:?} ")).collect()
}

#[test]
fn nothing_that_is_made_of_a_url_shows_its_password() {
    let (url, api) = (format!("amqp://ops:{PASSWORD}@mq/v"), format!("https://ops:{PASSWORD}@mq"));
    let reader = SettingsReader::new().default_broker_url(&url).flag("--broker", &url);
    let shown = format!("{reader:?}");
    let environment = [("WORKER_RABBITMQ_MANAGEMENT_URL", &*api), ("RABBITMQ_PASSWORD", PASSWORD)];
    let settings = reader.read(environment.map(|(name, value)| (name.into(), value.into()))).unwrap();
    let amqp = settings.broker_url.amqp().unwrap();
    assert_eq!(amqp.password.expose(), PASSWORD, "it is there");
    assert_unshown([
        shown,
        format!("{settings:?} {:?} {:?}", settings.entries(), settings.warnings()),
        format!("{0} {0:?} {1} {1:?} {2:?}", settings.broker_url, amqp, amqp.password),
        format!("{0} {0:?}", settings.rabbitmq_management_url.as_ref().unwrap()),
        format!("{:?}", App::new().default_broker_url(&url)),
        format!("{:?}", settings.configure(Worker::builder(&TestQueue::new().client()))),
    ]);
    for wrong in ["amqp", "amqps:", "http:", "sqlite:", "amqp:/", "amqp://mq?"] {
        let refused = format!("{wrong}//ops:{PASSWORD}@mq:x").parse::<BrokerUrl>().unwrap_err();
        let variable = ("WORKER_BROKER_URL".into(), format!("{wrong}//ops:{PASSWORD}@mq:x").into());
        assert_unshown([told(&refused), told(&SettingsReader::new().read([variable]).unwrap_err())]);
    }
}

#[tokio::test]
async fn nobody_who_cannot_connect_shows_with_what() {
    let mut options = RabbitOptions::default();
    // Nothing listens there, and nobody waits for it.
    (options.hosts, options.connect_timeout) = (vec![("127.0.0.1".into(), 1)], Duration::from_millis(1));
    options.credentials = Credentials::new("ops", PASSWORD);
    let mut management = Management::new("mq");
    management.credentials = Some(Credentials::new("ops", PASSWORD));
    let mut tls = Tls::default();
    tls.identity = Some((PASSWORD.into(), PASSWORD.into()));
    management.tls = Some(tls.clone());
    options.management = Some(management);
    let shown = format!("{options:?}");
    let refused = RabbitBroker::connect(options.clone()).await.unwrap_err();
    options.tls = Some(tls);
    let with_a_key_that_is_none = RabbitBroker::connect(options).await.unwrap_err();
    let url = format!("amqp://ops:{PASSWORD}@127.0.0.1:1/?connection_timeout=1");
    let by_url = Client::connect(&url).await.unwrap_err();
    assert_unshown([shown, told(&refused), told(&with_a_key_that_is_none), told(&by_url)]);
}

#[tokio::test]
async fn nothing_that_carries_a_payload_shows_it() {
    let body = || Body(format!("{{\"card\":\"{PAYLOAD}\"}}").into());
    let (id, queue): (JobId, QueueName) = (JobId::new(), "q".parse().unwrap());
    let envelope = Envelope::new(id.clone(), queue.clone(), None, body().0, Timestamp::default());
    let receipt = Receipt { epoch: 1, tag: 1, part: 1 };
    let lost = tokio_util::sync::CancellationToken::new();
    let delivery = Delivery::new(envelope.clone(), queue, (1, 0), receipt, lost);
    let settlement = Settlement::Ack { reply: Some(Reply::Returned(body())) };
    let undecodable = CallError::Undecodable { name: "j".into(), id, problem: "no number".into(), body: body() };
    assert_unshown([
        format!("{:?} {envelope:?} {delivery:?} {settlement:?}", body()),
        format!("{:?} {}", Outcome::Completed(Some(body())), told(&undecodable)),
    ]);

    let queue = TestQueue::new();
    let client = queue.client();
    let prepared = charge::new(PAYLOAD).prepare().unwrap();
    assert_unshown([format!("{prepared:?}")]);
    let refused = client.enqueue(charge::new(PAYLOAD).priority(99)).await.unwrap_err();
    assert_eq!(refused.kind(), EnqueueErrorKind::Invalid);
    assert_unshown([told(&refused), format!("{client:?} {queue:?}")]);
}
