//! Direct, fanout, topic and headers.

use std::error::Error;

use serde::{Deserialize, Serialize};
use worker_core::{
    Headers,
    broker::Topology,
    exchange::{Binding, ExchangeKind},
    prelude::*,
};

use super::exchanges::tests::Journal;

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "logs_direct", kind = "direct", key = "{severity}")]
struct Entry {
    severity: String,
    text: String,
}

#[job(on = "logs_direct", kind = "direct", bind = ["error"])]
async fn alarms(Payload(entry): Payload<Entry>, journal: State<Journal>) {
    journal.write("alarms", entry.text);
}

#[job(on = "logs_direct", kind = "direct", bind = ["info", "warning", "error"])]
async fn log_file(Payload(entry): Payload<Entry>, journal: State<Journal>) {
    journal.write("log_file", entry.text);
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "announcements", kind = "fanout")]
struct Announcement {
    text: String,
}

#[job(on = "announcements", kind = "fanout")]
async fn by_mail(Payload(news): Payload<Announcement>, journal: State<Journal>) {
    journal.write("by_mail", news.text);
}

#[job(on = "announcements", kind = "fanout")]
async fn by_text(Payload(news): Payload<Announcement>, journal: State<Journal>) {
    journal.write("by_text", news.text);
}

#[derive(Serialize, Deserialize, Event)]
#[event(exchange = "shop", key = "order.created.{country}")]
struct OrderCreated {
    order_id: u64,
    country: String,
}

#[job(on = "shop", bind = ["order.*.eu"])]
async fn europe(Payload(order): Payload<OrderCreated>, journal: State<Journal>) {
    journal.write("europe", order.order_id);
}

#[job(on = "shop", bind = ["order.#"])]
async fn orders_of_all(Payload(order): Payload<OrderCreated>, journal: State<Journal>) {
    journal.write("orders_of_all", order.order_id);
}

async fn publish(client: &Client) -> Result<(), Box<dyn Error>> {
    client.publish(Entry { severity: "error".into(), text: "disk full".into() }).await?;
    client.publish(Entry { severity: "info".into(), text: "started".into() }).await?;
    client.publish(Announcement { text: "closed on Sunday".into() }).await?;
    client.publish(OrderCreated { order_id: 1, country: "eu".into() }).await?;
    client.publish(OrderCreated { order_id: 2, country: "us".into() }).await?;
    Ok(())
}

#[job(queue = "pdf_reports")]
async fn pdf_reports(page: u64, journal: State<Journal>, cx: Context) {
    journal.write(cx.queue().as_str(), page);
}

#[job(queue = "pdfs_or_reports")]
async fn pdfs_or_reports(page: u64, journal: State<Journal>, cx: Context) {
    journal.write(cx.queue().as_str(), page);
}

async fn declare_documents(client: &Client) -> Result<(), Box<dyn Error>> {
    let mut wanted = Headers::default();
    wanted.insert("format", "pdf");
    wanted.insert("kind", "report");
    let documents = || "documents".parse().unwrap();
    let topology = Topology::queues(["pdf_reports".parse()?, "pdfs_or_reports".parse()?])
        .exchange(documents(), ExchangeKind::Headers)
        .bind(Binding::by_all_headers(documents(), "pdf_reports".parse()?, wanted.clone()))
        .bind(Binding::by_any_header(documents(), "pdfs_or_reports".parse()?, wanted));
    client.declare(&topology).await?;
    Ok(())
}

async fn publish_documents(client: &Client) -> Result<(), Box<dyn Error>> {
    let page = |number| pdf_reports::new(number).via("documents", "").header("format", "pdf");
    client.enqueue(page(1).header("kind", "report")).await?;
    client.enqueue(page(2).header("kind", "invoice")).await?;
    Ok(())
}

mod tests {
    use std::{
        collections::BTreeMap,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use worker_core::Registry;
    use worker_tests::{eventually::eventually, rabbit::shared_vhost};

    use super::*;
    use crate::{bench::Running, from_pika::run};

    /// What each job wrote, in any order.
    #[derive(Default)]
    pub(super) struct Journal(Mutex<BTreeMap<String, Vec<Value>>>);

    impl Journal {
        pub(super) fn write(&self, who: &str, what: impl Into<Value>) {
            let mut written = self.0.lock().unwrap();
            let of = written.entry(who.to_owned()).or_default();
            of.push(what.into());
            of.sort_by_key(Value::to_string);
        }
    }

    /// The queue of each kind of exchange, and what both programs send into it.
    fn expected() -> Value {
        json!({
            "alarms": ["disk full"],
            "by_mail": ["closed on Sunday"],
            "by_text": ["closed on Sunday"],
            "europe": [1],
            "log_file": ["disk full", "started"],
            "orders_of_all": [1, 2],
            "pdf_reports": [1],
            "pdfs_or_reports": [1, 2],
        })
    }

    fn worker(client: &Client, journal: &Arc<Journal>) -> Running {
        let registry = Registry::new()
            .with::<alarms>()
            .with::<log_file>()
            .with::<by_mail>()
            .with::<by_text>()
            .with::<europe>()
            .with::<orders_of_all>()
            .with::<pdf_reports>()
            .with::<pdfs_or_reports>();
        Running::start(Worker::builder(client).registry(registry).state_arc(Arc::clone(journal)))
    }

    async fn assert_written(journal: &Journal) {
        eventually("everybody had what was meant for them", async || {
            let written = json!(*journal.0.lock().unwrap());
            (written == expected()).then_some(())
        })
        .await;
    }

    #[tokio::test]
    async fn each_job_runs_for_what_python_sends_to_its_exchange() {
        let vhost = shared_vhost();
        run("exchanges.py", &[vhost.url(), "declare"]).await;
        let (client, journal) = (Client::connect(vhost.url()).await.unwrap(), Arc::default());
        let running = worker(&client, &journal);
        run("exchanges.py", &[vhost.url(), "publish"]).await;
        assert_written(&journal).await;
        running.stop().await;
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_published_here_is_in_the_queues_that_python_has_bound() {
        let vhost = shared_vhost();
        run("exchanges.py", &[vhost.url(), "declare"]).await;
        let client = Client::connect(vhost.url()).await.unwrap();
        publish(&client).await.unwrap();
        publish_documents(&client).await.unwrap();
        let taken = run("exchanges.py", &[vhost.url(), "take"]).await;
        let mut taken: BTreeMap<String, Vec<Value>> = serde_json::from_str(&taken[0]).unwrap();
        for value in taken.values_mut().flatten() {
            *value = ["text", "order_id", "page"].iter().find_map(|key| value.get(key)).unwrap().clone();
        }
        assert_eq!(json!(taken), expected());
        client.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_published_and_bound_here_alone_reaches_the_same_jobs() {
        let vhost = shared_vhost();
        let (client, journal) = (Client::connect(vhost.url()).await.unwrap(), Arc::default());
        declare_documents(&client).await.unwrap();
        let running = worker(&client, &journal);
        // The queues are bound by the time that the worker consumes all of them.
        eventually("the worker consumes", async || {
            let queues = worker_tests::rabbit::shared_node().list_queues(vhost.name()).await;
            let consumed = |name: &str| queues.iter().any(|queue| queue.name == name && queue.consumers > 0);
            expected().as_object().unwrap().keys().all(|name| consumed(name)).then_some(())
        })
        .await;
        publish(&client).await.unwrap();
        publish_documents(&client).await.unwrap();
        assert_written(&journal).await;
        running.stop().await;
        client.close().await.unwrap();
    }
}
