//! P1 to P4: what RabbitMQ lets through, beside bare `lapin` in the same run.

use tokio::task::JoinSet;

use crate::{
    bare::amqp::{self, Acks},
    measure::{Goal, Line, Sample},
    ours::{self, Kind, Site, Size},
    stage::{Contest, Stage},
};

/// The bare loop's queue.
const QUEUE: &str = "bare";

const BARE: &str = "bare lapin";
const EACH: &str = "bare lapin, acking one by one";
const THEIRS: &str = "bare lapin, the framework's messages";
const OURS: &str = "framework";

/// The two sides on one virtual host, with connections and queues that are there already.
struct Rabbit {
    site: Site,
    publishing: lapin::Connection,
    consuming: lapin::Connection,
    publisher: lapin::Channel,
}

impl Rabbit {
    async fn new(stage: &Stage) -> Self {
        let site = Site::new(stage, Kind::RabbitMq).await;
        let (publishing, consuming) = (amqp::connect(&site.url).await, amqp::connect(&site.url).await);
        let publisher = amqp::publisher(&publishing).await;
        amqp::declare(&publisher, QUEUE).await;
        ours::warm_up(&site.client).await;
        let rabbit = Self { site, publishing, consuming, publisher };
        amqp::publish(&rabbit.publisher, QUEUE, 0..100).await;
        rabbit.consume(QUEUE, 100, 64, Acks::Every(16)).await;
        rabbit
    }

    async fn consume(&self, queue: &str, jobs: u64, prefetch: u16, acks: Acks) {
        let channel = self.consuming.create_channel().await.unwrap();
        amqp::consume(&channel, queue, jobs, prefetch, acks).await;
        channel.close(200, "done".into()).await.unwrap();
    }

    /// That nothing waits: a queue that is not empty was not measured to its end.
    async fn assert_empty(&self) {
        for queue in [QUEUE, "default"] {
            assert_eq!(amqp::waiting(&self.publisher, queue).await, 0, "{queue} is not empty");
        }
    }

    /// Empties the queues without a look at the clock.
    async fn drain(&self) {
        for queue in [QUEUE, "default"] {
            let waiting = u64::from(amqp::waiting(&self.publisher, queue).await);
            if waiting > 0 {
                self.consume(queue, waiting, 1_024, Acks::Every(256)).await;
            }
        }
        self.assert_empty().await;
    }

    async fn close(self) {
        self.publishing.close(200, "done".into()).await.unwrap();
        self.consuming.close(200, "done".into()).await.unwrap();
        self.site.close().await;
    }
}

/// P1.
pub(crate) async fn process(stage: &Stage) -> Vec<Line> {
    let rabbit = Rabbit::new(stage).await;
    let mut lines = Vec::new();
    for (prefetch, group) in [(256, 64), (1_024, 256)] {
        lines.extend(process_with(stage, &rabbit, prefetch, group).await);
    }
    rabbit.close().await;
    lines
}

async fn process_with(stage: &Stage, rabbit: &Rabbit, prefetch: u16, group: u64) -> Vec<Line> {
    // So many that how a worker begins is no part of it.
    let jobs = stage.jobs(200_000, 1_000);
    let bare = async |queue: &str, acks: Acks, jobs: u64| {
        let meter = stage.meter();
        rabbit.consume(queue, jobs, prefetch, acks).await;
        let sample = meter.rate(jobs);
        rabbit.assert_empty().await;
        vec![sample]
    };
    let size = Size::of_prefetch(prefetch.into());
    let publish = async |jobs| amqp::publish(&rabbit.publisher, QUEUE, 0..jobs).await;
    let enqueue = async || ours::enqueue_all(&rabbit.site.client, 0..jobs).await;
    let contest = Contest::new(stage, "P1");
    let contest = contest.side(BARE, async || {
        publish(jobs).await;
        bare(QUEUE, Acks::Every(group), jobs).await
    });
    let contest = contest.side(EACH, async || {
        publish(jobs / 2).await;
        bare(QUEUE, Acks::Each, jobs / 2).await
    });
    let contest = contest.side(THEIRS, async || {
        enqueue().await;
        bare("default", Acks::Every(group), jobs).await
    });
    let contest = contest.side(OURS, async || {
        enqueue().await;
        let meter = stage.meter();
        let done = ours::process(&rabbit.site.client, jobs, size).await;
        let sample = meter.rate_until(jobs, done);
        rabbit.assert_empty().await;
        vec![sample]
    });
    let results = contest.run().await;
    let ours = results.of(OURS, 0);
    let line = |what: &str, goal| Line::rate(format!("prefetch {prefetch}{what}"), goal, ours.clone());
    vec![
        results.beside(line("", Goal::RatioAtLeast(0.85)), BARE, 0),
        results.beside(line(", beside acking one by one", Goal::None), EACH, 0),
        results.beside(line(", beside a bare loop on the same messages", Goal::None), THEIRS, 0),
    ]
}

/// P2.
pub(crate) async fn enqueue_all(stage: &Stage) -> Vec<Line> {
    let rabbit = Rabbit::new(stage).await;
    let jobs = stage.jobs(100_000, 1_000);
    let contest = bare_publish(stage, "P2", &rabbit, jobs).side(OURS, async || {
        let meter = stage.meter();
        ours::enqueue_all(&rabbit.site.client, 0..jobs).await;
        let sample = meter.rate(jobs);
        rabbit.drain().await;
        vec![sample]
    });
    let results = contest.run().await;
    let line = Line::rate("enqueue_all", Goal::RatioAtLeast(0.85), results.of(OURS, 0));
    let lines = vec![results.beside(line, BARE, 0)];
    rabbit.close().await;
    lines
}

/// P3.
pub(crate) async fn enqueue_from_tasks(stage: &Stage) -> Vec<Line> {
    const TASKS: u64 = 256;
    let rabbit = Rabbit::new(stage).await;
    let jobs = stage.jobs(100_000, 1_000) / TASKS * TASKS;
    let contest = bare_publish(stage, "P3", &rabbit, jobs).side(OURS, async || {
        let meter = stage.meter();
        ours::enqueue_from_tasks(&rabbit.site.client, TASKS, jobs).await;
        let sample = meter.rate(jobs);
        rabbit.drain().await;
        vec![sample]
    });
    let results = contest.run().await;
    let line = Line::rate("256 tasks", Goal::RatioAtLeast(0.70), results.of(OURS, 0));
    let lines = vec![results.beside(line, BARE, 0)];
    rabbit.close().await;
    lines
}

fn bare_publish<'a>(stage: &'a Stage, row: &'a str, rabbit: &'a Rabbit, jobs: u64) -> Contest<'a> {
    Contest::new(stage, row).side(BARE, async move || {
        let meter = stage.meter();
        amqp::publish(&rabbit.publisher, QUEUE, 0..jobs).await;
        let sample = meter.rate(jobs);
        rabbit.drain().await;
        vec![sample]
    })
}

/// P4.
pub(crate) async fn end_to_end(stage: &Stage) -> Vec<Line> {
    let jobs = stage.jobs(100_000, 1_000);
    let line = |samples| Line::rate("enqueue_all and a worker, prefetch 256", Goal::RatioAtLeast(0.85), samples);
    at_once(stage, "P4", jobs, (jobs, 1, 256), line).await
}

/// P12.
pub(crate) async fn bundles(stage: &Stage) -> Vec<Line> {
    let jobs = stage.jobs(500_000, 10_000);
    let line = |samples| Line::rate("bundles of 100, prefetch 10 messages", Goal::RatioAtLeast(10.0), samples);
    at_once(stage, "P12", jobs / 5, (jobs, 100, 10), line).await
}

/// Enqueues and runs at the same time: the bare loop so many jobs, and the framework as many as it is told, of which so
/// many share a message, with this prefetch.
async fn at_once(
    stage: &Stage,
    row: &str,
    bare: u64,
    (jobs, bundle, prefetch): (u64, u16, usize),
    line: impl FnOnce(Vec<Sample>) -> Line,
) -> Vec<Line> {
    let rabbit = Rabbit::new(stage).await;
    let contest = Contest::new(stage, row);
    let contest = contest.side(BARE, async || {
        let meter = stage.meter();
        let mut publishing = JoinSet::new();
        let channel = rabbit.publisher.clone();
        publishing.spawn(async move { amqp::publish(&channel, QUEUE, 0..bare).await });
        rabbit.consume(QUEUE, bare, 256, Acks::Every(64)).await;
        publishing.join_all().await;
        finish(&rabbit, meter.rate(bare)).await
    });
    let contest = contest.side(OURS, async || {
        let meter = stage.meter();
        let mut enqueueing = JoinSet::new();
        let client = rabbit.site.client.clone();
        enqueueing.spawn(async move { ours::enqueue_bundles(&client, 0..jobs, bundle).await });
        let done = ours::process(&rabbit.site.client, jobs, Size { slots: 128, prefetch: Some(prefetch) }).await;
        enqueueing.join_all().await;
        finish(&rabbit, meter.rate_until(jobs, done)).await
    });
    let results = contest.run().await;
    let lines = vec![results.beside(line(results.of(OURS, 0)), BARE, 0)];
    rabbit.close().await;
    lines
}

async fn finish(rabbit: &Rabbit, sample: Sample) -> Vec<Sample> {
    rabbit.assert_empty().await;
    vec![sample]
}
