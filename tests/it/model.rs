//! The SQLite broker held against the memory broker, its model: whatever is done to both, they show the same.

use std::time::Duration;

use proptest::{prelude::*, test_runner::Config};
use worker_core::{
    FailureKind,
    broker::Delivery,
    envelope::{Due, Priority},
    settlement::Settlement,
};
use worker_tests::{
    consumer::Consumer,
    fixture::{BrokerFixture, MemoryFixture, SqliteFixture, run},
    sample::{QUEUE, bury, job, release, retry, selection},
};

/// Further away than any test lasts.
const FAR: Duration = Duration::from_secs(3_600);

/// Owned at most.
const PREFETCH: u16 = 6;

/// Something that is done to a broker.
#[derive(Debug, Clone)]
enum Deed {
    Enqueue {
        priority: u8,
        delayed: bool,
    },
    /// Takes the next job, if one waits and there is room.
    Take,
    /// Settles one of those that were taken, if there are any.
    Settle {
        which: usize,
        how: How,
    },
    /// Settles it once more, which must be too late.
    SettleAgain {
        how: How,
    },
    /// The process that consumes ends in an orderly way, and another comes.
    Restart,
    Replay {
        limit: usize,
    },
    Drop {
        limit: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum How {
    Ack,
    DeadLetter,
    Release,
    ReleaseLater,
    Retry,
    RetryLater,
}

impl How {
    fn settlement(self) -> Settlement {
        match self {
            Self::Ack => Settlement::Ack { reply: None },
            Self::DeadLetter => bury(FailureKind::Error),
            Self::Release => release(Duration::ZERO),
            Self::ReleaseLater => release(FAR),
            Self::Retry => retry(Duration::ZERO),
            Self::RetryLater => retry(FAR),
        }
    }
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Ack),
        2 => Just(How::DeadLetter),
        2 => Just(How::Release),
        1 => Just(How::ReleaseLater),
        2 => Just(How::Retry),
        1 => Just(How::RetryLater),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..=31_u8, proptest::bool::weighted(0.1))
            .prop_map(|(priority, delayed)| Deed::Enqueue { priority, delayed }),
        6 => Just(Deed::Take),
        6 => (0..8_usize, how()).prop_map(|(which, how)| Deed::Settle { which, how }),
        1 => how().prop_map(|how| Deed::SettleAgain { how }),
        1 => Just(Deed::Restart),
        1 => (1..4_usize).prop_map(|limit| Deed::Replay { limit }),
        1 => (1..4_usize).prop_map(|limit| Deed::Drop { limit }),
    ]
}

/// A delivery as both brokers must show it.
fn shown(delivery: &Delivery) -> String {
    let Delivery { envelope, attempt, starts, .. } = delivery;
    format!("{} attempt {attempt} starts {starts} priority {}", envelope.id, envelope.priority.level())
}

/// What a broker shows after each deed.
fn observe<F: BrokerFixture>(deeds: &[Deed]) -> Vec<String> {
    let mut seen = Vec::new();
    run(async |fixture: &F| {
        let asking = fixture.process().await;
        let mut consuming = fixture.process().await;
        let mut consumer: Consumer = consuming.consume(PREFETCH).await;
        let (mut taken, mut settled): (Vec<Delivery>, Option<Delivery>) = (Vec::new(), None);
        for (n, deed) in deeds.iter().enumerate() {
            let came = match deed {
                Deed::Enqueue { priority, delayed } => {
                    let mut job = job(format!("job-{n}"));
                    job.priority = Priority::new(*priority).unwrap();
                    if *delayed {
                        job.due = Due::In(FAR);
                    }
                    asking.enqueue([job]).await;
                    String::new()
                }
                Deed::Take if taken.len() < PREFETCH.into() && asking.stats().await.ready > 0 => {
                    let delivery = consumer.one().await;
                    consumer.begin(&delivery);
                    let came = shown(&delivery);
                    taken.push(delivery);
                    came
                }
                Deed::Settle { which, how } if !taken.is_empty() => {
                    let delivery = taken.remove(which % taken.len());
                    settled = Some(worker_tests::sample::copy(&delivery));
                    let answer = consumer.try_settle(delivery, how.settlement()).await;
                    format!("{answer:?}")
                }
                Deed::SettleAgain { how } => match settled.take() {
                    None => String::new(),
                    Some(delivery) => {
                        let answer = consumer.try_settle(delivery, how.settlement()).await;
                        format!("late: {}", answer.is_err())
                    }
                },
                Deed::Restart => {
                    for delivery in taken.drain(..) {
                        consumer.settle(delivery, release(Duration::ZERO)).await;
                    }
                    consumer.stop().await;
                    consuming = fixture.process().await;
                    consumer = consuming.consume(PREFETCH).await;
                    settled = None;
                    String::new()
                }
                Deed::Replay { limit } => {
                    let answer = asking.inspector().replay(&selection(|_| {}), *limit).await;
                    format!("{:?}", answer.unwrap())
                }
                Deed::Drop { limit } => {
                    let answer = asking.inspector().drop_dead(&selection(|_| {}), *limit).await;
                    format!("{:?}", answer.unwrap())
                }
                Deed::Take | Deed::Settle { .. } => String::new(),
            };
            let stats = asking.stats_of(QUEUE).await;
            let counts = (stats.ready, stats.running, stats.delayed, stats.retrying, stats.dead);
            let dead = asking.dead().await;
            let dead: Vec<_> = dead.iter().map(|dead| (dead.id.to_string(), dead.attempts, dead.starts)).collect();
            seen.push(format!("{n} {deed:?}: {came} {counts:?} {dead:?}"));
        }
        drop(consuming);
    });
    seen
}

#[test]
fn whatever_is_done_to_them_the_sqlite_broker_shows_what_the_memory_broker_does() {
    // Each case makes a file and flushes it some thirty times.
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    proptest!(config, |(deeds in proptest::collection::vec(deed(), 1..40))| {
        let (model, real) = (observe::<MemoryFixture<true>>(&deeds), observe::<SqliteFixture>(&deeds));
        prop_assert_eq!(model, real);
    });
}
