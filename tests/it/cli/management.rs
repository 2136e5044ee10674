//! How many jobs run, from RabbitMQ's management API: where it can be asked, and where it cannot.

use std::net::{Ipv4Addr, TcpListener};

use tokio::runtime::{Builder, Runtime};
use worker_tests::{
    eventually::eventually_blocking,
    rabbit::{Authority, Node, ServerTls, Vhost, shared_node, shared_vhost},
};

use super::{
    program::{Printed, Program},
    site::started,
};

const URL: &str = "WORKER_RABBITMQ_MANAGEMENT_URL";

/// Not a word that occurs elsewhere.
const PASSWORD: &str = "Zq7-secret-xK9";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// The program with a queue of one job that waits, in a virtual host of its own.
fn program(management_url: &str) -> (Program, Vhost) {
    let vhost = shared_vhost();
    let program = Program::new()
        .with("WORKER_BROKER_URL", vhost.url())
        .with("WORKER_QUEUES", "slow")
        .with("WORKER_CONNECT_TIMEOUT", "2m")
        .with(URL, management_url);
    program.run(&["enqueue", "wait", "ms=1"]).exits(0);
    (program, vhost)
}

/// What is said of a number that is not known: by each command, none of which fails for that.
#[track_caller]
fn remarks(program: &Program, parts: &[&str]) -> Printed {
    let said = [&["note: how many jobs run is not known: the management API at"], parts].concat();
    let queues = program.run(&["queues"]).exits(0).says(&said);
    assert_eq!(queues.row("slow")[1..3], ["1", "-"], "{queues}");
    program.run(&["health"]).exits(0).says(&said);
    let health = program.run(&["health", "--json"]).exits(0).json();
    assert_eq!((&health["healthy"], &health["reasons"]), (&true.into(), &serde_json::json!([])));
    let remark = health["remarks"][0].as_str().unwrap();
    assert!(parts.iter().all(|part| remark.contains(part)), "{remark}");
    queues
}

#[test]
fn jobs_that_run_are_counted_where_the_management_api_is_named() {
    let (program, _vhost) = program(&format!("http://127.0.0.1:{}", shared_node().api_port()));
    let (running, site) = started(&program, &["--concurrency", "1"]);
    site.wait_until_ready();
    for _ in 0..2 {
        program.run(&["enqueue", "wait", "ms=600000"]).exits(0);
    }
    // One runs and one is held: both are the worker's.
    eventually_blocking("the API counts both", || program.run(&["queues"]).exits(0).row("slow")[1..3] == ["0", "2"]);
    let queues = program.run(&["queues", "--json"]).exits(0).json();
    assert_eq!((&queues["queues"][0]["running"], &queues["remarks"]), (&2.into(), &serde_json::json!([])));
    let health = program.run(&["health", "--json"]).exits(0).json();
    assert_eq!((&health["queues"][0]["running"], &health["remarks"]), (&2.into(), &serde_json::json!([])));
    program.run(&["health"]).exits(0).prints(&["0 ready, 2 running, 0 dead, 1 consumer"]);
    let ready = site.get("/readyz?verbose").body;
    assert!(ready.contains("[+]queue:slow ok: 0 ready, 2 running, 0 dead, 1 consumer"), "{ready}");
    running.signal("KILL");
}

#[test]
fn an_api_that_cannot_be_asked_is_a_remark_and_makes_nothing_unhealthy() {
    // Nothing listens on port 1.
    let (program, _vhost) = program("http://127.0.0.1:1");
    remarks(&program, &["http://127.0.0.1:1 cannot be asked", "refused"]);
    let (running, site) = started(&program, &[]);
    site.wait_until_ready();
    let ready = site.get("/readyz?verbose");
    assert!(ready.status == 200 && ready.body.contains("[+]remark ok: how many jobs run"), "{}", ready.body);
    running.signal("TERM");
    running.wait().exits(0);
}

#[test]
fn an_api_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (program, _vhost) = program(&format!("http://{}", silent.local_addr().unwrap()));
    remarks(&program, &["no answer within 2s"]);
    let said = program.run(&["health", "--timeout", "1s"]).exits(0);
    said.says(&["note: how many jobs run is not known: no answer within 4"]);
}

#[test]
fn a_user_whom_the_api_does_not_let_in_is_told_what_it_takes_without_the_password() {
    let (node, api) = (shared_node(), shared_node().api_port());
    let (mut program, vhost) = program("http://127.0.0.1:1");
    let user = format!("untagged-{}", vhost.name());
    runtime().block_on(async {
        node.create_user(&user, PASSWORD).await;
        node.set_permissions(&user, vhost.name(), ".*", ".*", ".*").await;
    });
    for url in
        [format!("http://{user}:{PASSWORD}@127.0.0.1:{api}"), format!("http://nobody:{PASSWORD}@127.0.0.1:{api}")]
    {
        program = program.with(URL, &url);
        let said = remarks(&program, &["(401)", "the tag `management`"]);
        assert!(!said.to_string().contains(PASSWORD), "{said}");
        let config = program.run(&["config"]).exits(0);
        assert_eq!(config.row(URL)[1], format!("http://***@127.0.0.1:{api}"));
        assert!(!config.to_string().contains(PASSWORD), "{config}");
    }
    // A path where there is no API, and what is no API at all.
    let elsewhere = program.with(URL, &format!("http://127.0.0.1:{api}/nowhere"));
    remarks(&elsewhere, &["no queue `slow` in the virtual host", "(404)"]);
    let broker = elsewhere.with(URL, &format!("http://127.0.0.1:{}", node.amqp_port()));
    remarks(&broker, &["cannot be asked"]);
}

#[test]
fn a_url_that_is_none_is_refused_at_the_start_without_being_repeated() {
    let program = Program::new().with("WORKER_BROKER_URL", "amqp://127.0.0.1:1");
    let program = program.with(URL, &format!("http://ops:{PASSWORD}#@mq.example"));
    let said = program.run(&["queues"]).exits(78).says(&["WORKER_RABBITMQ_MANAGEMENT_URL", "`http://HOST:15672`"]);
    assert!(!said.to_string().contains(PASSWORD), "{said}");
}

#[test]
fn an_api_with_tls_is_verified_as_the_broker_is() {
    runtime().block_on(async {
        let authority = Authority::new();
        let identity = authority.issue(&["localhost"]);
        let tls = ServerTls { authority: authority.certificate(), identity, client_certificates: false };
        let node = Node::start_with_tls(&tls).await;
        let program = Program::new()
            .with("WORKER_BROKER_URL", &node.amqp_url())
            .with("WORKER_QUEUES", "slow")
            .with(URL, &format!("https://localhost:{}", node.api_tls_port()));
        program.run(&["enqueue", "wait", "ms=1"]).exits(0);
        remarks(&program, &["certificate", "UnknownIssuer", "WORKER_RABBITMQ_CA_FILE"]);
        let file = program.write("ca.pem", &authority.certificate());
        let trusting = program.with("WORKER_RABBITMQ_CA_FILE", &file);
        eventually_blocking("the API counts it", || trusting.run(&["queues"]).exits(0).row("slow")[1..3] == ["1", "0"]);
        // The plain port.
        let plain = trusting.with(URL, &format!("https://localhost:{}", node.api_port()));
        remarks(&plain, &["does not speak TLS", "`http://`"]);
    });
}

#[test]
fn a_worker_keeps_no_connection_to_an_api_that_never_answers() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (program, _vhost) = program("http://127.0.0.1:1");
    let program = program.with(URL, &url);
    let (running, site) = started(&program, &[]);
    site.wait_until_ready();
    assert!(site.get("/readyz?verbose").body.contains("[+]remark ok"));
    let (mut stream, _) = silent.accept().unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut asked = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut asked).expect("it hangs up, and keeps nothing open");
    assert!(asked.starts_with(b"GET /api/queues/"));
    running.signal("TERM");
    running.wait().exits(0);
}

/// What stands between, and answers for the API: whole, and then it hangs up.
fn hangs_up_after_each_answer() -> (std::net::SocketAddr, std::thread::JoinHandle<()>) {
    use std::io::{BufRead as _, BufReader, Write as _};

    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = proxy.local_addr().unwrap();
    // Two questions: about the queue and about its suspects.
    let answering = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = proxy.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines.map_while(Result::ok).find(String::is_empty);
            let body = r#"{"messages_unacknowledged":3}"#;
            let length = body.len();
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    (address, answering)
}

#[test]
fn an_api_behind_a_proxy_that_hangs_up_after_each_answer_is_asked_again() {
    let (proxy, answering) = hangs_up_after_each_answer();
    let (program, _vhost) = program(&format!("http://{proxy}"));
    let queues = program.run(&["queues"]).exits(0);
    assert_eq!(queues.row("slow")[1..3], ["1", "6"], "{queues}");
    answering.join().unwrap();
}
