//! The options, each alone and all at once.

use std::time::Duration;

use worker_core::{
    DEFAULT_QUEUE, Job, JobOptions, On, RetryPolicy, days, exchange::ExchangeKind, hours, job, minutes,
    queue::QueueType, seconds,
};

#[job]
async fn ui_no_option() {}

#[job()]
async fn ui_empty_options() {}

#[job(
    queue = "emails:eu",
    name = "ui.every-option",
    aliases = ["ui_old", "ui_older"],
    max_retries = 1_000,
    backoff = "2s..10m",
    timeout = "1h 30m",
    priority = 31,
    queue_type = "classic",
    max_priority = 31,
    dead_letter_queue = "emails:dead",
    dead_letter_ttl = "7d",
    shards = 64,
    concurrency = 2,
    crate = worker_core,
)]
async fn ui_every_option() {}

#[job(max_retries = 0)]
async fn ui_never_again() {}

#[job(backoff = "90m")]
async fn ui_base_above_the_default_cap() {}

#[job(backoff = "500ms")]
async fn ui_base_alone() {}

#[job(timeout = "366d", aliases = [])]
async fn ui_longest() {}

#[job(queue = "ui_safe", queue_type = "quorum")]
async fn ui_replicated() {}

#[job(on = "ui_events")]
async fn ui_on_everything() {}

#[job(on = "ui_events", bind = ["order.*", "#.created"], queue = "ui_audits")]
async fn ui_on_some() {}

#[job(on = "ui_all", kind = "fanout", name = "ui.fanned")]
async fn ui_on_fanout() {}

#[job(on = "ui_errors", kind = "direct", bind = ["error"])]
async fn ui_on_direct() {}

#[test]
fn a_job_that_runs_for_an_exchange_has_a_queue_of_its_own_unless_one_is_named() {
    assert_eq!(ui_on_everything::QUEUE, "ui_on_everything");
    assert_eq!(ui_on_everything::OPTIONS.on, Some(On::new("ui_events", ExchangeKind::Topic, &[])));
    assert_eq!(ui_on_some::QUEUE, "ui_audits");
    assert_eq!(ui_on_some::OPTIONS.on, Some(On::new("ui_events", ExchangeKind::Topic, &["order.*", "#.created"])));
    assert_eq!((ui_on_fanout::NAME, ui_on_fanout::QUEUE), ("ui.fanned", "ui.fanned"));
    assert_eq!(ui_on_fanout::OPTIONS.on, Some(On::new("ui_all", ExchangeKind::Fanout, &[])));
    assert_eq!(ui_on_direct::OPTIONS.on, Some(On::new("ui_errors", ExchangeKind::Direct, &["error"])));
    assert_eq!(ui_every_option::OPTIONS.on, None);
}

#[test]
fn without_options_the_defaults_hold() {
    assert_eq!((ui_no_option::NAME, ui_no_option::QUEUE), ("ui_no_option", DEFAULT_QUEUE));
    assert_eq!(ui_no_option::OPTIONS, JobOptions::DEFAULT);
    assert_eq!(ui_empty_options::OPTIONS, JobOptions::DEFAULT);
}

#[test]
fn every_option_reaches_the_job() {
    let JobOptions { retry, timeout, priority, concurrency, aliases, .. } = ui_every_option::OPTIONS;
    let JobOptions { queue_type, max_priority, dead_letter_queue, dead_letter_ttl, shards, .. } =
        ui_every_option::OPTIONS;
    assert_eq!((ui_every_option::NAME, ui_every_option::QUEUE), ("ui.every-option", "emails:eu"));
    assert_eq!(retry, RetryPolicy::new(1_000, seconds(2), minutes(10)));
    assert_eq!(retry.max_retries(), 1_000, "the largest count is not cut");
    assert_eq!(timeout, minutes(90));
    assert_eq!(priority.level(), 31);
    assert_eq!((queue_type, max_priority), (Some(QueueType::Classic), Some(priority)));
    assert_eq!((dead_letter_queue, dead_letter_ttl), (Some("emails:dead"), Some(days(7))));
    assert_eq!(shards.map(Into::into), Some(64_u8));
    assert_eq!(concurrency.map(Into::into), Some(2_usize));
    assert_eq!(aliases, ["ui_old", "ui_older"]);
    assert_eq!(ui_longest::OPTIONS.timeout, days(366));
    assert_eq!(ui_replicated::OPTIONS.queue_type, Some(QueueType::Quorum));
    assert_eq!(ui_replicated::OPTIONS.max_priority, None);
}

#[test]
fn what_is_not_said_about_retries_is_the_default() {
    let default = RetryPolicy::DEFAULT;
    let once = ui_never_again::OPTIONS.retry;
    assert_eq!((once.max_retries(), once.base(), once.cap()), (0, default.base(), default.cap()));
    let quick = ui_base_alone::OPTIONS.retry;
    assert_eq!((quick.base(), quick.cap()), (Duration::from_millis(500), default.cap()));
    let slow = ui_base_above_the_default_cap::OPTIONS.retry;
    assert_eq!((slow.max_retries(), slow.base(), slow.cap()), (default.max_retries(), minutes(90), hours(3) / 2));
}
