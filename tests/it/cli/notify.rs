//! What `run` tells systemd, on a real socket.

use std::{
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use super::program::{Program, Running};

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `WATCHDOG_USEC` of the tests; the worker gives a sign twice in it.
const WATCHDOG: Duration = Duration::from_millis(200);

/// systemd's end of the socket.
struct Manager {
    socket: UnixDatagram,
    /// Every line that came, in order.
    heard: Vec<String>,
    /// How many of them `until` has looked at.
    seen: usize,
}

impl Manager {
    /// A program, and who listens to it.
    fn of(program: Program) -> (Self, Program) {
        let path = program.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let program = program
            .with("NOTIFY_SOCKET", &path.display().to_string())
            .with("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
        (Self { socket, heard: Vec::new(), seen: 0 }, program)
    }

    /// Hears one message; `false` where none came within `patience`.
    fn hear(&mut self, patience: Duration) -> bool {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut message = [0; 4_096];
        let Ok(length) = self.socket.recv(&mut message) else { return false };
        let text = std::str::from_utf8(&message[..length]).unwrap();
        self.heard.extend(text.lines().map(str::to_owned));
        true
    }

    /// Hears on until a further line that begins with `wanted` has come; that line.
    #[track_caller]
    fn until(&mut self, wanted: &str) -> String {
        let begin = Instant::now();
        loop {
            while let Some(line) = self.heard.get(self.seen) {
                self.seen += 1;
                if line.starts_with(wanted) {
                    return line.clone();
                }
            }
            let left = PATIENCE.saturating_sub(begin.elapsed()).max(Duration::from_millis(1));
            assert!(self.hear(left), "no `{wanted}`, but {:?}", self.heard);
        }
    }

    /// Hears what is under way, and then that nothing comes for five times as long as signs may be apart.
    #[track_caller]
    fn silence(&mut self) {
        let begin = Instant::now();
        while self.hear(5 * WATCHDOG) {
            assert!(begin.elapsed() < PATIENCE, "it goes on: {:?}", self.heard);
        }
    }

    fn place(&self, line: &str) -> Option<usize> {
        self.heard.iter().position(|heard| heard == line)
    }
}

fn ended(running: Running, code: i32) -> String {
    running.end().exits(code).stderr
}

#[test]
fn ready_alive_and_stopping_in_this_order() {
    let (mut manager, program) = Manager::of(Program::new());
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let running = program.start_with_running_job(&[]);
    manager.until("READY=1");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    running.signal("TERM");
    manager.until("STOPPING=1");
    manager.until("EXTEND_TIMEOUT_USEC=");
    manager.until("WATCHDOG=1");
    running.signal("TERM");
    ended(running, 75);
    let places = ["READY=1", "WATCHDOG=1", "STOPPING=1"].map(|line| manager.place(line).unwrap());
    assert!(places.is_sorted(), "{:?}", manager.heard);
    let once = |line: &str| manager.heard.iter().filter(|heard| *heard == line).count() == 1;
    assert!(once("READY=1") && once("STOPPING=1"), "{:?}", manager.heard);
}

#[test]
fn a_worker_is_not_ready_before_its_queues_are_consumed_and_asks_for_time_until_then() {
    let (mut manager, program) = Manager::of(Program::new().with("FIXTURE", "asks-before-it-starts"));
    let mut running = program.start_with_input(&["run"]);
    running.stdout.wait_for("may it start?");
    // Somebody else writes, for as long as we like.
    let database = rusqlite::Connection::open(program.path("jobs.db")).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    running.write("yes\n");
    let asked = manager.until("EXTEND_TIMEOUT_USEC=");
    assert_eq!(asked, "EXTEND_TIMEOUT_USEC=15000000");
    let status = manager.until("STATUS=");
    assert!(status.contains("; consuming:calculator: not subscribed to yet (and "), "{status}");
    manager.until("EXTEND_TIMEOUT_USEC=");
    assert_eq!(manager.place("READY=1"), None, "{:?}", manager.heard);
    database.execute_batch("ROLLBACK").unwrap();
    manager.until("READY=1");
    running.signal("TERM");
    ended(running, 0);
    manager.until("STOPPING=1");
    manager.until("STATUS=stopped");
}

#[test]
fn a_worker_that_makes_its_state_is_not_ready() {
    let (mut manager, program) = Manager::of(Program::new().with("FIXTURE", "state-hangs").with("RUST_LOG", "debug"));
    let running = program.start(&["run"]);
    running.stderr.wait_for("making the application's state");
    manager.silence();
    running.signal("TERM");
    ended(running, 0);
    assert_eq!(manager.place("READY=1"), None, "{:?}", manager.heard);
    assert_eq!(manager.place("WATCHDOG=1"), None, "no event loop, no sign of life: {:?}", manager.heard);
}

#[test]
fn a_frozen_process_gives_no_sign_of_life() {
    let (mut manager, program) = Manager::of(Program::new());
    let running = program.start(&["run"]);
    manager.until("WATCHDOG=1");
    running.signal("STOP");
    manager.silence();
    running.signal("CONT");
    manager.until("WATCHDOG=1");
    running.signal("TERM");
    ended(running, 0);
}

#[test]
fn an_event_loop_that_is_stuck_gives_no_sign_of_life_although_the_runtime_lives() {
    let (mut manager, program) = Manager::of(Program::new().with("FIXTURE", "observer-hangs"));
    let running = program.start(&["run"]);
    manager.until("WATCHDOG=1");
    program.run(&["enqueue", "greet", "name=Ada"]).exits(0);
    running.stderr.wait_for("the observer hangs");
    manager.silence();
    let before = manager.heard.len();
    running.signal("TERM");
    manager.silence();
    assert_eq!(manager.heard.len(), before, "nor does it ask for time: {:?}", manager.heard);
}

#[test]
fn the_status_says_what_the_worker_does() {
    let (mut manager, program) = Manager::of(Program::new());
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let running = program.start_with_running_job(&["--concurrency", "5"]);
    manager.until("STATUS=1 of 5 slots at work");
    running.signal("TERM");
    manager.until("STATUS=draining");
    running.signal("TERM");
    ended(running, 75);
    let is_status = |line: &&String| line.starts_with("STATUS=");
    assert!(manager.heard.iter().filter(is_status).count() < 20, "at a bounded rate: {:?}", manager.heard);
}

#[test]
fn who_does_not_listen_is_not_waited_for() {
    let program = Program::new().with("NOTIFY_SOCKET", "/nowhere/notify").with("WATCHDOG_USEC", "1000");
    let running = program.start(&["run"]);
    running.stderr.wait_for("/nowhere/notify");
    running.signal("TERM");
    let log = ended(running, 0);
    assert_eq!(log.matches("/nowhere/notify").count(), 1, "said once: {log}");
}

#[test]
fn nobody_is_told_anything_who_did_not_ask() {
    let program = Program::new().with("WATCHDOG_USEC", "1000");
    let socket = UnixDatagram::bind(program.path("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let running = program.start(&["run"]);
    running.stderr.wait_for("worker started");
    running.signal("TERM");
    ended(running, 0);
    assert!(socket.recv(&mut [0; 64]).is_err());
}
