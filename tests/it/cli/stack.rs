//! The stack of the threads that read messages from RabbitMQ.

use std::{fs, path::PathBuf};

use worker_tests::{eventually::eventually_blocking, rabbit::shared_vhost};

use super::{
    program::{Program, Running},
    site::started,
};

const ENOUGH: &str = "RUST_MIN_STACK=536870912";

/// What the process was started with.
fn environment(running: &Running) -> Vec<String> {
    let all = fs::read(format!("/proc/{}/environ", running.id())).unwrap();
    all.split(|byte| *byte == 0).map(|variable| String::from_utf8_lossy(variable).into_owned()).collect()
}

/// Whether a thread has this much room: the size of a mapping.
fn has_mapping(running: &Running, kib: u64) -> bool {
    let all = fs::read_to_string(format!("/proc/{}/smaps", running.id())).unwrap();
    let sizes = all.lines().filter_map(|line| line.strip_prefix("Size:")?.trim().strip_suffix(" kB")?.parse().ok());
    sizes.into_iter().any(|size: u64| size >= kib)
}

fn on_rabbitmq() -> (Program, worker_tests::rabbit::Vhost) {
    let vhost = shared_vhost();
    (Program::new().with("WORKER_BROKER_URL", vhost.url()), vhost)
}

#[test]
fn a_worker_on_rabbitmq_executes_itself_again_with_room_for_every_message_as_the_same_process() {
    let (program, _vhost) = on_rabbitmq();
    let running = program.start(&["run", "--queues", "slow"]);
    // Its number is that of the process that was started, or nothing would be found there.
    eventually_blocking("it has the variable", || environment(&running).contains(&ENOUGH.to_owned()));
    running.stderr.wait_for("worker started");
    let (name, args) = (PathBuf::from(env!("CARGO_BIN_EXE_fixture")), format!("/proc/{}/cmdline", running.id()));
    let args = fs::read_to_string(args).unwrap();
    let args: Vec<_> = args.trim_end_matches('\0').split('\0').collect();
    assert_eq!(args, [name.to_str().unwrap(), "run", "--queues", "slow"]);
    let shown = fs::read_to_string(format!("/proc/{}/comm", running.id())).unwrap();
    assert_eq!(shown.trim(), "fixture");
    assert!(has_mapping(&running, 512 << 10), "a thread has the room");
    running.signal("TERM");
    let printed = running.wait().exits(0);
    assert!(!printed.to_string().contains("RUST_MIN_STACK"), "nobody is warned: {printed}");
}

#[test]
fn one_that_has_the_room_or_needs_none_stays_as_it_is() {
    let (program, _vhost) = on_rabbitmq();
    let program = program.with("RUST_MIN_STACK", "600000000");
    let running = program.start(&["run", "--queues", "slow"]);
    running.stderr.wait_for("worker started");
    assert!(environment(&running).contains(&"RUST_MIN_STACK=600000000".to_owned()));
    let file = Program::new();
    let on_a_file = file.start(&["run", "--queues", "slow"]);
    on_a_file.stderr.wait_for("worker started");
    assert!(!environment(&on_a_file).iter().any(|variable| variable.starts_with("RUST_MIN_STACK")));
    for running in [running, on_a_file] {
        running.signal("TERM");
        running.wait().exits(0);
    }
}

#[test]
fn a_program_whose_file_was_replaced_while_it_ran_executes_itself_and_not_what_came_in_its_place() {
    let (program, _vhost) = on_rabbitmq();
    let copy = program.path("fixture");
    fs::copy(env!("CARGO_BIN_EXE_fixture"), &copy).unwrap();
    // The shell has opened nothing of it yet when it goes: `exec` of a file descriptor keeps what it was.
    let line = format!(
        "exec 9<{copy}; rm {copy}; echo 'exit 3' >{copy}; chmod +x {copy}; exec /proc/self/fd/9 health --json",
        copy = copy.display()
    );
    let printed = program.shell(&line).exits(69);
    assert_eq!(printed.json()["broker"]["reachable"], true, "{printed}");
}

#[test]
fn a_program_that_cannot_be_executed_again_is_warned_once_when_it_begins_to_consume() {
    let (program, _vhost) = on_rabbitmq();
    let program = program.with("FIXTURE", "as-it-is");
    let (running, site) = started(&program, &["--queues", "slow,default"]);
    site.wait_until_ready();
    running.signal("TERM");
    let printed = running.wait().exits(0);
    assert_eq!(printed.to_string().matches("set RUST_MIN_STACK=536870912 in its environment").count(), 1, "{printed}");
    // Nothing that only sends is warned.
    let sent = program.run(&["enqueue", "ping"]).exits(0);
    assert!(!sent.to_string().contains("RUST_MIN_STACK"), "{sent}");
}
