//! `run --admin`: probes in every phase of a real process, and its metrics after real jobs.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use worker_core::telemetry::METRICS;
use worker_tests::{eventually::eventually_blocking, exposition::Exposition};

use super::{
    program::Program,
    site::{Site, started},
};

#[test]
fn a_process_that_makes_its_state_lives_and_is_neither_started_nor_ready() {
    let program = Program::new().with("FIXTURE", "state-hangs");
    let (running, site) = started(&program, &[]);
    assert_eq!(site.probes(), [200, 503, 503]);
    let why = site.get("/readyz").body;
    assert_eq!(
        why,
        "[-]connected failed: the worker is not there yet: the program makes its state or connects\nreadyz check failed\n"
    );
    assert_eq!(site.status("/metrics"), 503);
    running.signal("TERM");
    running.end().exits(0);
    assert!(TcpStream::connect(site.0).is_err());
}

#[test]
fn a_worker_that_serves_is_ready_and_one_that_drains_is_not() {
    let program = Program::new();
    program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    let (running, site) = started(&program, &[]);
    running.stdout.wait_for("the job runs");
    site.wait_until_ready();
    assert_eq!(site.probes(), [200, 200, 200]);
    assert_eq!(site.get("/readyz").body, "ok\n");
    let verbose = site.get("/readyz?verbose").body;
    for line in ["[+]serving ok", "[+]connected ok", "[+]unblocked ok", "[+]consuming:slow ok", "readyz check passed"] {
        assert!(verbose.lines().any(|found| found == line), "{line}: {verbose}");
    }
    let asked = [
        "[+]answering ok",
        "[+]queue:slow ok: 0 ready, 1 running, 0 dead, 1 consumer",
        "[+]queue:emails ok: 0 ready, 0 running, 0 dead, 1 consumer",
    ];
    for line in asked {
        assert!(verbose.lines().any(|found| found == line), "{line}: {verbose}");
    }
    assert_eq!(site.get("/livez?verbose").body, "[+]turning ok\nlivez check passed\n");
    assert_eq!(site.get("/startupz?verbose=1").body, "[+]started ok\nstartupz check passed\n");

    running.signal("TERM");
    running.stderr.wait_for("draining: takes no more jobs");
    assert_eq!(site.probes(), [200, 503, 200]);
    let why = site.get("/readyz").body;
    assert!(why.contains("[-]serving failed: draining\n") && why.ends_with("readyz check failed\n"), "{why}");
    assert_eq!(site.metrics().value("worker_jobs_in_flight", &[("queue", "slow")]), 1.0);
    running.signal("TERM");
    running.end().exits(75);
    assert!(TcpStream::connect(site.0).is_err());
}

#[test]
fn a_loop_that_hangs_is_not_alive() {
    let program = Program::new().with("FIXTURE", "loop-hangs");
    let (running, site) = started(&program, &[]);
    site.wait_until_ready();
    assert_eq!(site.status("/livez"), 200);
    program.run(&["enqueue", "ping"]).exits(0);
    eventually_blocking("the job is done", || site.metrics().value("worker_jobs_processed_total", &[]) > 0.0);
    let asked = Instant::now();
    let answer = site.get("/livez");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("[-]turning failed: the worker's event loop did not turn within 5s"), "{answer:?}");
    assert!(asked.elapsed() >= Duration::from_secs(5));
    drop(running); // It cannot end by itself.
}

#[test]
fn metrics_tell_what_the_jobs_did() {
    let program = Program::new();
    for _ in 0..3 {
        program.run(&["enqueue", "echo", "text=again"]).exits(0);
    }
    program.run(&["enqueue", "fail", "message=no"]).exits(0);
    program.run(&["enqueue", "reject", "message=no", "--id", "an-id-of-mine"]).exits(0);
    let (running, site) = started(&program, &["--concurrency", "7"]);
    site.wait_until_ready();
    eventually_blocking("five jobs are done", || site.metrics().value("worker_jobs_processed_total", &[]) == 5.0);
    let answer = site.get("/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    let page = Exposition::parse(&answer.body);
    let of = |outcome, job| page.value("worker_jobs_processed_total", &[("job", job), ("outcome", outcome)]);
    assert_eq!((of("success", "echo"), of("dead", "fail"), of("dead", "reject")), (3.0, 1.0, 1.0));
    let dead = |job, reason| {
        page.value("worker_dead_letters_total", &[("job", job), ("queue", "trouble"), ("reason", reason)])
    };
    assert_eq!((dead("fail", "error"), dead("reject", "discarded")), (1.0, 1.0));
    for name in ["worker_job_duration_seconds", "worker_job_wait_seconds"] {
        assert_eq!(page.value(&format!("{name}_count"), &[]), 5.0, "{name}");
        assert_eq!(page.value(&format!("{name}_bucket"), &[("job", "echo"), ("le", "+Inf")]), 3.0, "{name}");
    }
    assert_eq!(page.value("worker_concurrency", &[("queue", "trouble")]), 7.0);
    assert_eq!(page.value("worker_build_info", &[("broker", "sqlite"), ("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert!(!answer.body.contains("an-id-of-mine"), "{answer:?}");
    for series in page.beginning("worker_") {
        let metric = METRICS.iter().find(|metric| series.starts_with(metric.name));
        assert!(metric.is_some_and(|metric| page.is_described(metric.name)), "{series}");
    }
    running.signal("TERM");
    running.end().exits(0);
}

#[test]
fn a_recorder_of_the_application_is_left_alone() {
    let program = Program::new().with("FIXTURE", "records");
    let (running, site) = started(&program, &["--queues", "default"]);
    site.wait_until_ready();
    let answer = site.get("/metrics");
    assert_eq!(
        (answer.status, &*answer.body),
        (404, "the application records metrics by itself; ask it where they are\n")
    );
    running.signal("TERM");
    running.end().exits(0);
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let program = Program::new();
    let (running, site) = started(&program, &[]);
    let answer = site.get("/");
    assert_eq!(answer.status, 404);
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert!(answer.body.contains(path), "{answer:?}");
    }
    assert_eq!(site.ask("POST", "/livez").status, 405);
    let head = site.ask("HEAD", "/livez");
    assert_eq!((head.status, &*head.body), (200, ""));
    running.signal("TERM");
    running.end().exits(0);
}

#[test]
fn slow_clients_hold_up_neither_probes_nor_the_end() {
    let program = Program::new();
    let (running, site) = started(&program, &[]);
    let mut slow: Vec<_> = (0..100).map(|_| site.connect()).collect();
    for stream in &mut slow {
        // Some are cut off already.
        drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nHost"));
    }
    site.wait_until_ready();
    // The oldest had to make room; the answer is the end of the stream, or a reset.
    let cut = |stream: &mut TcpStream| matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_));
    assert!(slow[..60].iter_mut().all(cut));
    let mut endless = site.connect();
    let sent = (0..10_000)
        .take_while(|n| write!(endless, "{}", if *n == 0 { "GET / HTTP/1.1\r\n" } else { "X: y\r\n" }).is_ok());
    assert!(sent.count() > 1_000);
    drop(endless.shutdown(Shutdown::Write));
    let mut text = String::new();
    drop(endless.read_to_string(&mut text));
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(site.status("/livez"), 200);
    let asked = Instant::now();
    running.signal("TERM");
    running.end().exits(0);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn a_port_that_is_taken_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    let program = Program::new().with("WORKER_ADMIN", &port);
    program.run(&["run"]).exits(1).says(&[
        &format!("the admin server cannot listen on {address}: another process does"),
        "--admin",
        &format!("ss -ltnp 'sport = :{port}'"),
    ]);
    program.run(&["run", "--admin", "192.0.2.1:0"]).exits(78).says(&["this machine has no such address"]);
    program.run(&["run", "--admin", "localhost:1"]).exits(78).says(&["--admin is `localhost:1`; use an address"]);
    assert!(!program.path("jobs.db").exists(), "nothing was begun");
}

#[test]
fn nothing_listens_unasked_and_an_open_address_is_warned_about() {
    let program = Program::new().with("WORKER_ADMIN", "0.0.0.0:0");
    let open = program.start(&["run"]);
    open.stderr.wait_for("other machines may reach the admin server");
    let site = Site(SocketAddr::from(([127, 0, 0, 1], Site::of(&open).0.port())));
    site.wait_until_ready();
    open.signal("TERM");
    open.end().exits(0);
    let closed = program.start(&["run", "--admin", "off"]);
    closed.stderr.wait_for("worker started");
    closed.signal("TERM");
    let log = closed.end().exits(0).stderr;
    assert!(!log.contains("admin server"), "{log}");
}
