//! What the fuzzers have kept, as messages on a real server: each runs or is dead, and no neighbour notices.
#![expect(clippy::print_stdout, reason = "what is not tried is said")]

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::basic::parse_properties,
    types::{
        AMQPValue, FieldTable,
        parsing::{parse_field_table, parse_value},
    },
};
use worker_core::{
    Client, Registry, Worker,
    broker::{Page, Selection, Topology},
    prelude::*,
};
use worker_tests::{
    eventually::{eventually_within, soon},
    rabbit::shared_vhost,
};

use crate::{bench::Running, cli::program::Program};

const QUEUE: &str = "odd";

const PATIENCE: Duration = Duration::from_secs(60);

/// Deeper than this a parser needs more stack than the threads of this test have, which is what `App` is there for
/// (`cli::stack`). What is refused for its depth begins at 17.
const LEVELS_MAX: usize = 64;

/// What a server does not take: a number that Erlang cannot read, a call of somebody who waits for no reply, and a
/// delivery mode of 200.
const REFUSED: [&str; 3] = ["headers/nan-and-infinity", "envelope/call-of-a-word", "envelope/found-05"];

/// To find out how deep something is.
const STACK_BYTES: usize = 512 << 20;

/// Under the names that the messages of the corpus have, too.
#[job(name = "odd", queue = "odd", aliases = ["a", "send_welcome"], max_retries = 0)]
async fn take_odd(runs: State<Runs>) {
    runs.0.fetch_add(1, Ordering::SeqCst);
}

#[job(name = "neighbour", queue = "odd", max_retries = 0)]
async fn take_neighbour(neighbours: State<Neighbours>) {
    neighbours.0.fetch_add(1, Ordering::SeqCst);
}

struct Runs(Arc<AtomicU64>);

struct Neighbours(Arc<AtomicU64>);

struct Message {
    what: String,
    properties: BasicProperties,
    body: Vec<u8>,
}

fn properties() -> BasicProperties {
    BasicProperties::default().with_type("odd".into()).with_delivery_mode(2)
}

/// The inputs that are kept for a target, with their names.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let read =
        |file: fs::DirEntry| (format!("{target}/{}", file.file_name().display()), fs::read(file.path()).unwrap());
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| read(file.unwrap())).collect();
    files.sort();
    files
}

/// What a target takes its input for: the messages, with what tells them apart.
type Reading = fn(&[u8]) -> Vec<(&'static str, BasicProperties, Vec<u8>)>;

/// A table of headers without its length.
fn as_headers(input: &[u8]) -> Vec<(&'static str, BasicProperties, Vec<u8>)> {
    let framed = [&u32::try_from(input.len()).unwrap().to_be_bytes(), input].concat();
    let table = parse_field_table(&framed[..]).ok().map(|(_, table)| table);
    table.into_iter().map(|table| ("", properties().with_headers(table), Vec::new())).collect()
}

/// A value, or text, for both counters.
fn as_counters(input: &[u8]) -> Vec<(&'static str, BasicProperties, Vec<u8>)> {
    let value = parse_value(input).map_or_else(|_| AMQPValue::LongString(input.into()), |(_, value)| value);
    let with = |name: &'static str| {
        let mut table = FieldTable::default();
        table.insert(name.into(), value.clone());
        (name, properties().with_headers(table), Vec::new())
    };
    vec![with("x-retry-count"), with("x-starts")]
}

/// Two bytes that are of no interest here, properties, and a body.
fn as_message(input: &[u8]) -> Vec<(&'static str, BasicProperties, Vec<u8>)> {
    let parsed = input.get(2..).and_then(|rest| parse_properties(rest).ok());
    parsed.into_iter().map(|(body, properties)| ("", properties, body.to_vec())).collect()
}

/// All that is kept, but what is no message, or one that a thread of this test cannot publish.
fn messages() -> Vec<Message> {
    let targets: [(&str, Reading); 3] = [("headers", as_headers), ("counters", as_counters), ("envelope", as_message)];
    let mut messages = Vec::new();
    for (target, read) in targets {
        let (files, before) = (kept(target), messages.len());
        for (file, input) in &files {
            let read = read(input);
            if read.is_empty() {
                println!("not published: {file}, which is no message");
            }
            for (of, properties, body) in read {
                let levels = properties.headers().as_ref().map_or(0, levels);
                if levels > LEVELS_MAX {
                    println!("not published: {file}, {levels} levels");
                } else {
                    messages.push(Message { what: format!("{file} {of}"), properties, body });
                }
            }
        }
        let read = messages.len() - before;
        assert!(read * 10 >= files.len() * 8, "of {} files of {target} {read} are messages", files.len());
    }
    messages
}

fn levels(table: &FieldTable) -> usize {
    table.inner().values().map(levels_of).max().unwrap_or(0)
}

fn levels_of(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::FieldTable(table) => 1 + levels(table),
        AMQPValue::FieldArray(array) => 1 + array.as_slice().iter().map(levels_of).max().unwrap_or(0),
        _ => 0,
    }
}

/// Publishes it over a connection of its own, since what the server refuses ends it; whether the server has it.
async fn is_taken(url: &str, message: &Message) -> bool {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing = async {
        channel.basic_publish("".into(), QUEUE.into(), options, &message.body, message.properties.clone()).await?.await
    };
    match soon("the server has taken or refused it", publishing).await {
        Ok(Confirmation::Ack(None)) => {
            connection.close(200, "done".into()).await.unwrap();
            true
        }
        Ok(other) => panic!("{}: {other:?}", message.what),
        Err(error) => {
            println!("refused by the server: {}: {error}", message.what);
            false
        }
    }
}

#[tokio::test]
async fn whatever_the_fuzzers_have_kept_runs_or_is_dead_and_harms_no_neighbour() {
    let reading = thread::Builder::new().stack_size(STACK_BYTES).spawn(messages).unwrap();
    let messages = reading.join().unwrap();
    let vhost = shared_vhost();
    let client = Client::connect(vhost.url()).await.unwrap();
    client.declare(&Topology::queues([QUEUE.parse().unwrap()])).await.unwrap();
    let (runs, neighbours) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let registry = Registry::new().with::<take_odd>().with::<take_neighbour>();
    let worker = Worker::builder(&client)
        .registry(registry)
        .state(Runs(Arc::clone(&runs)))
        .state(Neighbours(Arc::clone(&neighbours)))
        .unknown_job_patience(Duration::ZERO);
    let running = Running::start(worker);

    let (mut taken, mut refused) = (0, Vec::new());
    for message in &messages {
        if is_taken(vhost.url(), message).await {
            taken += 1;
        } else {
            refused.push(message.what.trim());
        }
        client.enqueue(take_neighbour::new()).await.unwrap();
    }
    assert!(refused.iter().all(|what| REFUSED.contains(what)), "{refused:?}");
    let count = messages.len() as u64;
    let inspector = client.broker().inspector().unwrap();
    let queue = QUEUE.parse().unwrap();
    let ends = async || {
        let stats = inspector.queues(std::slice::from_ref(&queue)).await.unwrap().remove(0);
        let (odd, neighbours) = (runs.load(Ordering::SeqCst), neighbours.load(Ordering::SeqCst));
        (odd + stats.dead, neighbours, stats.unfinished())
    };
    eventually_within(PATIENCE, "each has come to its end, and so has each neighbour", async || {
        (ends().await == (taken, count, 0)).then_some(())
    })
    .await;
    assert!(running.stop().await.is_clean());
    assert_eq!(ends().await, (taken, count, 0), "and to no other");
    let ran = runs.load(Ordering::SeqCst);
    assert!(ran * 4 > taken, "{ran} of {taken} ran: they are not dead for one reason that all have");
    let dead = taken - ran;

    let page = inspector.dead(&Selection::default(), Page::first(1_000)).await.unwrap();
    assert_eq!(page.jobs.len() as u64, dead);
    assert!(page.jobs.iter().all(|job| !job.failure.message.is_empty()), "each has its reason");
    // Whoever looks at them survives it, too, and so does the terminal.
    let program = Program::new().with("WORKER_BROKER_URL", vhost.url()).with("WORKER_QUEUES", QUEUE);
    let listed = program.run(&["dlq", "list", "--limit", "1000"]).exits(0);
    let json = program.run(&["dlq", "list", "--limit", "1000", "--json"]).exits(0).json();
    assert_eq!(json["jobs"].as_array().unwrap().len() as u64, dead);
    let controls = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!listed.stdout.contains(controls), "{:?}", listed.stdout);
    client.close().await.unwrap();
}
