//! `amqps`: a node with certificates of our own authority, and what becomes of those that cannot be believed.

use tokio::{
    runtime::{Builder, Runtime},
    sync::OnceCell,
};
use worker_tests::{
    eventually::eventually,
    rabbit::{Authority, Node, ServerTls, shared_node},
};

use crate::cli::program::{Printed, Program};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A node, whom to believe about it, and whom it believes.
struct Secured {
    node: Node,
    authority: Authority,
}

impl Secured {
    async fn start(client_certificates: bool) -> Self {
        let authority = Authority::new();
        let identity = authority.issue(&["localhost", "127.0.0.1"]);
        let tls = ServerTls { authority: authority.certificate(), identity, client_certificates };
        Self { node: Node::start_with_tls(&tls).await, authority }
    }

    fn port(&self) -> u16 {
        self.node.amqps_port()
    }
}

/// One that asks its clients for nothing, for all tests here.
async fn open() -> &'static Secured {
    static NODE: OnceCell<Secured> = OnceCell::const_new();
    NODE.get_or_init(|| Secured::start(false)).await
}

fn url(port: u16) -> String {
    format!("amqps://guest:guest@localhost:{port}")
}

/// The program with this URL, and this authority in a file.
fn program(url: &str, authority: &Authority) -> Program {
    let program = Program::new().with("WORKER_BROKER_URL", url);
    let file = program.write("ca.pem", &authority.certificate());
    program.with("WORKER_RABBITMQ_CA_FILE", &file)
}

/// Refused because of this, once, without waiting for the server to become another.
#[track_caller]
fn refused(program: &Program, parts: &[&str]) -> Printed {
    let started = std::time::Instant::now();
    let printed = program.run(&["health"]).exits(69).says(parts);
    assert!(started.elapsed().as_secs() < 20, "{:?}: {printed}", started.elapsed());
    printed
}

#[test]
fn a_job_goes_to_a_node_whose_certificate_is_believed_and_is_run() {
    runtime().block_on(async {
        let secured = open().await;
        let program = program(&url(secured.port()), &secured.authority);
        program.run(&["health"]).prints(&["ok", "RabbitMQ"]);
        program.run(&["enqueue", "reject", "message=no stock"]).exits(0);
        let worker = program.start(&["run"]);
        let buried = || program.run(&["dlq", "list", "--json"]).exits(0).json();
        eventually("the job is dead", async || {
            buried()["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty()).then_some(())
        })
        .await;
        worker.signal("TERM");
        worker.wait().exits(0);
    });
}

#[test]
fn the_authority_may_stand_in_the_url() {
    runtime().block_on(async {
        let secured = open().await;
        let program = Program::new();
        let file = program.write("ca.pem", &secured.authority.certificate());
        let program = program.with("WORKER_BROKER_URL", &format!("{}/?cacertfile={file}", url(secured.port())));
        program.run(&["health"]).prints(&["ok", "RabbitMQ"]);
    });
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused() {
    runtime().block_on(async {
        let secured = open().await;
        let untold = Program::new().with("WORKER_BROKER_URL", &url(secured.port()));
        refused(&untold, &["certificate", "UnknownIssuer", "WORKER_RABBITMQ_CA_FILE"]);
        // One that calls itself the same is not the same.
        let told_wrong = program(&url(secured.port()), &Authority::new());
        refused(&told_wrong, &["certificate", "WORKER_RABBITMQ_CA_FILE"]);
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    runtime().block_on(async {
        let authority = Authority::new();
        let identity = authority.issue(&["mq.example"]);
        let tls = ServerTls { authority: authority.certificate(), identity, client_certificates: false };
        let node = Node::start_with_tls(&tls).await;
        refused(&program(&url(node.amqps_port()), &authority), &["certificate", "localhost", "mq.example"]);
    });
}

#[test]
fn a_certificate_for_another_name_is_believed_where_that_name_was_asked_for() {
    runtime().block_on(async {
        let authority = Authority::new();
        let identity = authority.issue(&["mq.example"]);
        let tls = ServerTls { authority: authority.certificate(), identity, client_certificates: false };
        let node = Node::start_with_tls(&tls).await;
        let program = program(&url(node.amqps_port()), &authority).with("WORKER_RABBITMQ_SERVER_NAME", "mq.example");
        program.run(&["health"]).prints(&["ok", "RabbitMQ"]);
        let other = program.with("WORKER_RABBITMQ_SERVER_NAME", "localhost");
        refused(&other, &["certificate", "localhost", "mq.example", "WORKER_RABBITMQ_SERVER_NAME"]);
    });
}

#[test]
fn an_expired_certificate_is_refused() {
    runtime().block_on(async {
        let authority = Authority::new();
        let identity = authority.issue_expired(&["localhost"]);
        let tls = ServerTls { authority: authority.certificate(), identity, client_certificates: false };
        let node = Node::start_with_tls(&tls).await;
        refused(&program(&url(node.amqps_port()), &authority), &["certificate", "expired"]);
    });
}

#[test]
fn a_node_that_asks_for_a_certificate_lets_in_who_shows_one() {
    runtime().block_on(async {
        let secured = Secured::start(true).await;
        let program = program(&url(secured.port()), &secured.authority);
        refused(&program, &["certificate", "WORKER_RABBITMQ_CERT_FILE"]);
        let own = secured.authority.issue(&["the-worker"]);
        let certificate = program.write("own.pem", &own.certificate);
        let key = program.write("own.key", &own.key);
        let program = program.with("WORKER_RABBITMQ_CERT_FILE", &certificate).with("WORKER_RABBITMQ_KEY_FILE", &key);
        program.run(&["health"]).prints(&["ok", "RabbitMQ"]);

        let stranger = Authority::new().issue(&["the-worker"]);
        program.write("own.pem", &stranger.certificate);
        refused(&program, &["the certificate and the key are not each other's"]);
        program.write("own.key", &stranger.key);
        refused(&program, &["does not accept our certificate", "WORKER_RABBITMQ_CERT_FILE"]);
    });
}

#[test]
fn the_wrong_scheme_for_a_port_is_told_apart() {
    runtime().block_on(async {
        let secured = open().await;
        let plain = url(secured.port()).replace("amqps:", "amqp:");
        refused(&Program::new().with("WORKER_BROKER_URL", &plain), &["amqps://"]);
        let encrypted = url(shared_node().amqp_port());
        refused(&Program::new().with("WORKER_BROKER_URL", &encrypted), &["amqp://"]);
    });
}

#[test]
fn files_that_cannot_be_certificates_are_named() {
    runtime().block_on(async {
        let secured = open().await;
        let program = program(&url(secured.port()), &secured.authority);
        let file = program.write("ca.pem", "not a certificate");
        program.run(&["health"]).exits(78).says(&[&file, "WORKER_RABBITMQ_CA_FILE", "no certificate"]);
        std::fs::remove_file(&file).unwrap();
        program.run(&["health"]).exits(78).says(&[&file, "WORKER_RABBITMQ_CA_FILE"]);
    });
}
