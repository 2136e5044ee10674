//! What shares a message, what comes out of it, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::{
    brokers::rabbitmq::headers::integer,
    envelope::{Due, PAYLOAD_BYTES_MAX},
    time::{Timestamp, seconds},
};

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

fn job(queue: &str, id: &str, most: u16, body: &str) -> Envelope {
    let name = "count".parse().ok();
    let mut envelope = Envelope::new(id.parse().unwrap(), queue.parse().unwrap(), name, body.to_owned(), NOW);
    envelope.bundle = std::num::NonZeroU16::new(most).filter(|most| most.get() > 1);
    envelope
}

fn jobs(queue: &str, count: usize, most: u16) -> Vec<Envelope> {
    (0..count).map(|n| job(queue, &format!("{queue}-{n}"), most, &format!("{{\"n\":{n}}}"))).collect()
}

fn places(packed: &[Packed]) -> Vec<&[usize]> {
    packed.iter().map(|packed| &*packed.jobs).collect()
}

fn carrier(message: &Message) -> Envelope {
    *wire::decode(message, &"q".parse().unwrap(), NOW).unwrap().envelope
}

fn read(message: &Message) -> Result<Vec<Envelope>, String> {
    unpack(message, &carrier(message))
}

#[test]
fn a_bundle_says_when_its_jobs_were_enqueued_whatever_their_ids_say() {
    let enqueued_at = Timestamp::from_unix_ms(1_645_557_742_000);
    let batch = jobs("q", 3, 10).into_iter().map(|job| Envelope { enqueued_at, ..job }).collect();
    let [mut packed] = <[Packed; 1]>::try_from(pack(batch)).unwrap_or_else(|_| panic!("not one message"));
    // The example of RFC 9562, made just then: by itself it would say it, and leave out the header.
    packed.envelope.id = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap();
    let message = encode(&packed, "test");
    assert_eq!(message.date(wire::ENQUEUED_AT), Some(enqueued_at));
    let jobs = read(&message).unwrap();
    assert_eq!(jobs.len(), 3);
    for job in &jobs {
        assert_eq!(job.enqueued_at, enqueued_at);
        assert_eq!(carrier(&single(&message, job).message()).enqueued_at, enqueued_at, "and each by itself");
    }
}

/// The only message that a batch becomes.
fn packed(batch: Vec<Envelope>) -> Message {
    let [packed] = &*pack(batch) else { panic!("not one message") };
    encode(packed, "test")
}

fn ids(jobs: &[Envelope]) -> Vec<String> {
    jobs.iter().map(|job| job.id.to_string()).collect()
}

#[test]
fn jobs_share_messages_up_to_what_they_ask_for() {
    let packed = pack(jobs("q", 7, 3));
    assert_eq!(places(&packed), [&[0, 1, 2][..], &[3, 4, 5], &[6]]);
    assert!(is_bundle(&encode(&packed[0], "test")));
    assert!(!is_bundle(&encode(&packed[2], "test")), "one alone is a message as any other");
    assert_eq!(packed[2].envelope.name.as_ref().unwrap(), "count");
}

#[test]
fn what_asks_for_no_company_travels_alone_and_in_its_place() {
    let mut batch = jobs("q", 5, 10);
    batch[2].bundle = None;
    let mut elsewhere = jobs("other", 1, 10);
    batch.append(&mut elsewhere);
    assert_eq!(places(&pack(batch)), [&[0, 1][..], &[2], &[3, 4], &[5]]);
}

#[test]
fn a_bundle_goes_to_one_queue_at_one_time() {
    let mut batch: Vec<_> = jobs("a", 2, 10).into_iter().zip(jobs("b", 2, 10)).flat_map(|(a, b)| [a, b]).collect();
    batch.extend(jobs("a", 2, 10).into_iter().map(|job| Envelope { due: Due::In(seconds(9)), ..job }));
    let packed = pack(batch);
    assert_eq!(places(&packed), [&[0, 2][..], &[1, 3], &[4, 5]]);
    assert_eq!(packed[2].envelope.due, Due::In(seconds(9)));
}

#[test]
fn what_is_large_or_no_json_or_awaited_travels_alone() {
    let mut batch = jobs("q", 4, 10);
    batch[0].body = Body(format!("\"{}\"", "x".repeat(SHARED_BYTES_MAX)).into());
    batch[1].body = Body("{\"n\":".into());
    batch[2].body = Body(Bytes::new());
    batch[3].caller = Some(crate::envelope::Caller { address: "a".into(), correlation: "c".into(), retries: false });
    assert_eq!(places(&pack(batch)), [[0], [1], [2], [3]]);
}

#[test]
fn no_bundle_is_larger_than_its_limit() {
    let body = format!("\"{}\"", "x".repeat(SHARED_BYTES_MAX - 2));
    let batch: Vec<_> = (0..9).map(|n| job("q", &format!("q-{n}"), 100, &body)).collect();
    let packed = pack(batch);
    assert_eq!(places(&packed), [&[0, 1, 2][..], &[3, 4, 5], &[6, 7, 8]]);
    assert!(packed.iter().all(|packed| packed.envelope.body.0.len() <= BUNDLE_BYTES_MAX));
    const { assert!(READ_BYTES_MAX <= PAYLOAD_BYTES_MAX) };
}

#[test]
fn each_job_comes_out_as_it_went_in() {
    let mut batch = jobs("q", 3, 10);
    batch[0].headers.insert("tenant", serde_json::json!({"a": [1, 2.5, null]}));
    batch[1].expires_at = Some(NOW + seconds(60));
    batch[2].name = "other".parse().ok();
    let message = packed(batch.clone());
    let stored: Vec<_> = batch.into_iter().map(|job| Envelope { bundle: None, ..job }).collect();
    assert_eq!(read(&message), Ok(stored.clone()));
    assert_eq!(message.header(BUNDLE).and_then(integer), Some(3));

    // Alone it says the same, in the words of any message.
    for job in &stored {
        let single = single(&message, job).message();
        assert_eq!(&carrier(&single), job);
        assert!(!is_bundle(&single));
    }
}

#[test]
fn what_is_left_of_a_bundle_is_a_bundle_or_the_one_job() {
    let message = packed(jobs("q", 4, 10));
    let all = read(&message).unwrap();
    let [left] = &*rest(&message, &[&all[1], &all[3]]) else { panic!("one message") };
    assert_eq!(read(left).map(|jobs| ids(&jobs)), Ok(vec!["q-1".into(), "q-3".into()]));
    assert_ne!(left.id(), message.id(), "another message");
    let [left] = &*rest(&message, &[&all[2]]) else { panic!("one message") };
    assert!(!is_bundle(left));
    assert_eq!(carrier(left).id.to_string(), "q-2");
}

#[test]
fn what_others_wrote_on_a_bundle_is_none_of_its_jobs() {
    let mut message = packed(jobs("q", 2, 10));
    let mut table = message.properties.headers().clone().unwrap();
    table.insert("x-shovelled".into(), lapin::types::AMQPValue::Boolean(true));
    // Workers from before bundles do not know it.
    table.insert(wire::UNKNOWN_SINCE.into(), lapin::types::AMQPValue::LongLongInt(1));
    message.properties = message.properties.with_headers(table);
    let jobs = read(&message).unwrap();
    assert!(jobs[0].headers.is_empty());
    let alone = carrier(&single(&message, &jobs[0]).message());
    assert!(alone.headers.is_empty() && alone.unknown_since.is_none());
}

#[test]
fn what_is_no_bundle_is_refused_with_the_reason() {
    let good = packed(jobs("q", 2, 10));
    let with = |body: &str| read(&Message { body: Bytes::from(body.to_owned()), ..good.clone() }).unwrap_err();
    assert!(with("{}").starts_with("it is no bundle of jobs: invalid type: map"));
    assert!(with("[]").contains("a bundle of 0 jobs"));
    assert!(with(r#"[{"id":"a","job":"b","body":1}]"#).contains("a bundle of 1 jobs, and its header `x-bundle`"));
    let two = |second: &str| with(&format!(r#"[{{"id":"a","job":"b","body":1}},{second}]"#));
    assert!(two(r#"{"id":"a b","job":"b","body":1}"#).starts_with("job 2 of the bundle: its `id`"));
    assert!(two(r#"{"id":"a","job":"no name","body":1}"#).starts_with("job 2 of the bundle: its `job`"));
    assert!(two(r#"{"id":"a","job":"b","headers":{"x-death":1},"body":1}"#).contains("`x-death`"));
    assert!(two(r#"{"id":"a","job":"b"}"#).contains("missing field `body`"));
    assert!(with(&"[".repeat(300_000)).starts_with("it is no bundle"), "however deep");
    assert!(with(&" ".repeat(READ_BYTES_MAX + 1)).contains("the limit is 524288"));
}

proptest! {
    #[test]
    fn every_job_is_in_one_message_and_those_of_a_queue_in_their_order(
        asked in prop::collection::vec((0_u8..3, 0_u16..5, 0_u8..2), 0..60)
    ) {
        let batch: Vec<_> = asked.iter().enumerate().map(|(n, (queue, most, due))| {
            let mut job = job(&format!("q{queue}"), &format!("job-{n}"), *most, "1");
            if *due == 1 { job.due = Due::In(seconds(5)); }
            job
        }).collect();
        let packed = pack(batch.clone());
        let mut sent: Vec<_> = packed.iter().flat_map(|packed| packed.jobs.clone()).collect();
        for queue in ["q0", "q1", "q2"] {
            let of_queue = |place: &&usize| asked[**place].2 == 0 && format!("q{}", asked[**place].0) == queue;
            let places: Vec<_> = sent.iter().filter(of_queue).collect();
            prop_assert!(places.is_sorted(), "{queue}: {places:?}");
        }
        sent.sort_unstable();
        prop_assert_eq!(sent, (0..batch.len()).collect::<Vec<_>>());
        for packed in &packed {
            let most = packed.jobs.iter().map(|job| asked[*job].1).max().unwrap_or(1).max(1);
            prop_assert!(packed.jobs.len() <= usize::from(most));
        }
    }
}
