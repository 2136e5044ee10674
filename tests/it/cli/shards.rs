//! A queue with shards as its operator sees it: one queue, and each of its parts where it is asked for.

use std::collections::BTreeSet;

use worker_tests::{
    eventually::eventually_blocking,
    rabbit::{Vhost, shared_node, shared_vhost},
};

use crate::cli::program::Program;

const SHARDS: [&str; 4] = ["shipping", "shipping.shard-1", "shipping.shard-2", "shipping.shard-3"];

fn on_a_file() -> Program {
    Program::new().with("FIXTURE", "shards")
}

fn on_rabbitmq() -> (Program, Vhost) {
    let vhost = shared_vhost();
    (on_a_file().with("WORKER_BROKER_URL", vhost.url()), vhost)
}

/// Eight jobs, two in each shard; those in two of the shards are odd and fail.
fn ship_eight(program: &Program) {
    let lines = (0..8).map(|number| format!("{{\"number\":{number}}}\n")).collect::<String>();
    let file = program.write("jobs.ndjson", &lines);
    program.run(&["enqueue", "ship", "--file", &file]).exits(0);
}

fn one_queue_is_shown_and_worked_on_as_one(program: Program) {
    ship_eight(&program);
    let shown = program.run(&["queues"]).exits(0);
    assert_eq!((&*shown.row("shipping")[1], &*shown.row("shipping")[5]), ("8", "0"), "{shown}");
    assert!(!shown.stdout.contains("shard"), "{shown}");
    let apart = program.run(&["queues", "--shards"]).exits(0);
    assert_eq!(SHARDS.map(|name| apart.row(name)[1].clone()), ["2"; 4], "{apart}");
    let json = program.run(&["queues", "--queue", "shipping", "--json"]).exits(0).json();
    let queue = &json["queues"][0];
    assert_eq!((&queue["queue"], &queue["ready"]), (&"shipping".into(), &8.into()), "{json}");
    let shards: Vec<_> = queue["shards"].as_array().unwrap().iter().map(|shard| &shard["queue"]).collect();
    assert_eq!(shards, SHARDS);
    let one = program.run(&["queues", "--queue", "shipping.shard-3"]).exits(0);
    let queues = one.stdout.lines().filter(|line| line.starts_with("shipping")).count();
    assert_eq!((&*one.row("shipping.shard-3")[1], queues), ("2", 1), "{one}");

    let worker = program.start(&["run", "--queues", "shipping"]);
    eventually_blocking("all are done, half of them dead", || {
        let shown = program.run(&["queues"]).exits(0);
        shown.row("shipping")[1] == "0" && shown.row("shipping")[5] == "4"
    });
    let served = program.run(&["health"]).exits(69);
    let detail = served.row("queue shipping")[2].replace("0 running, ", "");
    assert_eq!((&*served.row("queue shipping")[1], &*detail), ("ok", "0 ready, 4 dead, 4 consumers"), "{served}");
    worker.signal("TERM");
    worker.wait().exits(0);

    // With half the shards, those of the others are still there.
    let program = program.with("FIXTURE", "fewer-shards");
    let apart = program.run(&["queues", "--shards"]).exits(0);
    let dead = SHARDS.map(|name| apart.row(name)[5].parse::<u32>().unwrap());
    assert_eq!(dead.iter().sum::<u32>(), 4, "{apart}");
    let listed = program.run(&["dlq", "list", "--queue", "shipping", "--json"]).exits(0).json();
    assert_eq!(listed["total"], 4, "{listed}");
    let jobs = listed["jobs"].as_array().unwrap();
    let died_in: BTreeSet<_> = jobs.iter().map(|job| job["queue"].as_str().unwrap()).collect();
    assert_eq!(died_in.len(), 2, "{listed}");
    program.run(&["dlq", "show", jobs[3]["id"].as_str().unwrap()]).exits(0).prints(&["odd"]);
    program.run(&["dlq", "replay", "--queue", "shipping", "--yes"]).exits(0).says(&["4 jobs"]);
    let apart = program.run(&["queues", "--shards"]).exits(0);
    assert_eq!(SHARDS.map(|name| apart.row(name)[1].parse::<u32>().unwrap()), dead, "each back in its own");
}

#[test]
fn on_a_file_one_queue_is_shown_and_worked_on_as_one() {
    one_queue_is_shown_and_worked_on_as_one(on_a_file());
}

#[test]
fn on_rabbitmq_one_queue_is_shown_and_worked_on_as_one() {
    let (program, _vhost) = on_rabbitmq();
    one_queue_is_shown_and_worked_on_as_one(program);
}

#[test]
fn a_shard_that_is_missing_is_told_beside_what_is_in_the_others() {
    let (program, vhost) = on_rabbitmq();
    ship_eight(&program);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queue = |document: &serde_json::Value| {
        let queues = document["queues"].as_array().unwrap();
        queues.iter().find(|queue| queue["queue"] == "shipping").unwrap().clone()
    };
    let whole = queue(&program.run(&["health", "--json"]).exits(69).json());
    assert_eq!((&whole["exists"], &whole["ready"]), (&true.into(), &8.into()), "{whole}");
    runtime.block_on(shared_node().delete_queue(vhost.name(), "shipping.shard-3"));
    let answer = program.run(&["health", "--json"]).exits(69).says(&["shipping.shard-3"]);
    let whole = queue(&answer.json());
    assert_eq!((&whole["exists"], &whole["ready"]), (&false.into(), &6.into()), "{whole}");
    let table = program.run(&["health"]).exits(69);
    let row = table.row("queue shipping");
    assert_eq!(
        row[1..],
        ["missing", "not all of its shards are created yet; in the others 6 ready, 0 dead"],
        "{table}"
    );
}

#[test]
fn both_a_queue_and_one_of_its_shards_can_be_asked_for() {
    let program = on_a_file();
    ship_eight(&program);
    let shown = program.run(&["queues", "--queue", "shipping", "--queue", "shipping.shard-3"]).exits(0);
    assert_eq!(shown.row("shipping")[1], "8", "{shown}");
}

#[test]
fn a_key_on_the_command_line_chooses_the_shard() {
    let program = on_a_file();
    for number in ["0", "2", "4"] {
        let number = format!("number={number}");
        program.run(&["enqueue", "ship", &number, "--shard-key", "customer-7"]).exits(0);
    }
    let apart = program.run(&["queues", "--shards"]).exits(0);
    assert_eq!(apart.row("shipping.shard-1")[1], "3", "{apart}");
    // It may get shards later.
    program.run(&["enqueue", "ping", "--shard-key", "customer-7"]).exits(0);
}

#[test]
fn what_a_queue_with_shards_needs_is_shown() {
    let program = on_a_file().with("WORKER_BROKER_URL", "amqp://localhost");
    let shown = program.run(&["topology", "show", "--queue", "shipping"]).exits(0);
    for part in ["shipping.shard-3_dlq", "shipping.shard-3_suspects", "shipping.shard-3_retry_5000", "\"balanced\""] {
        assert!(shown.stdout.contains(part), "{part}: {shown}");
    }
    let jobs = program.run(&["jobs", "--json"]).exits(0).json();
    let ship = jobs["jobs"].as_array().unwrap().iter().find(|job| job["job"] == "ship").unwrap();
    assert_eq!((&ship["queue"], &ship["shards"]), (&"shipping".into(), &4.into()));
}
