//! A RabbitMQ node: how it starts, is killed, frozen and started again.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    api::{Api, GUEST, HARNESS, escape},
    folder,
    guard::{Guard, Order},
    ports::Ports,
    release::Release,
    tls::ServerTls,
};
use crate::eventually::eventually_within;

/// How long a node may take until it serves. It takes 4 to 6 s on an idle
/// machine, and was seen to take 19 s on one with more to do than processors.
const BOOT_MAX: Duration = Duration::from_secs(120);

/// How long an answer to a knock may take before it is tried again.
const KNOCK_MAX: Duration = Duration::from_secs(5);

/// What an AMQP 0-9-1 client says first.
const AMQP_HEADER: [u8; 8] = *b"AMQP\0\0\x09\x01";

/// A RabbitMQ server of a test's own, killed when it is dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    folder: PathBuf,
    release: Release,
    /// Dropped before the ports are given back.
    guard: Mutex<Guard>,
    ports: Ports,
}

impl Node {
    /// Starts a node, and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not within two minutes, with what it has said.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what has started is killed.
    pub async fn start() -> Self {
        Self::start_as(None).await
    }

    /// Starts a node that does TLS as well, on [`amqps_port`](Self::amqps_port).
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn start_with_tls(tls: &ServerTls) -> Self {
        Self::start_as(Some(tls)).await
    }

    async fn start_as(tls: Option<&ServerTls>) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}@localhost", process::id());
        let (release, ports) = (Release::chosen(), Ports::claim());
        let folder = folder::create(&release, &ports, tls);
        let server = release.server(&folder, &folder::environment(&release, &folder, &name, &ports));
        let guard = Mutex::new(Guard::new(&folder, &server));
        let node = Self { name, folder, release, guard, ports };
        node.restart().await;
        node
    }

    /// Starts it again on the same ports and data, and waits until it serves; kills it first if it runs.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn restart(&self) {
        self.kill();
        let pid = self.order(Order::Start).expect("a shell can start a process");
        eventually_within(BOOT_MAX, Boot(self), || async move {
            assert!(runs(pid), "a node ended while it started:\n{}", self.log());
            (self.knock().await && self.let_the_harness_in().await).then_some(())
        })
        .await;
    }

    /// SIGKILL, as when the machine loses its power. It is gone when this returns.
    pub fn kill(&self) {
        self.order(Order::Kill);
    }

    /// SIGTERM, as when a service manager stops it. It has ended when this returns; [`restart`](Self::restart) starts it
    /// again.
    ///
    /// # Panics
    ///
    /// When it does not end within two minutes.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn stop(&self) {
        let Some(pid) = self.order(Order::Stop) else { return };
        eventually_within(BOOT_MAX, format!("{} ended", self.name), || async move { (!runs(pid)).then_some(()) }).await;
    }

    /// SIGSTOP: its connections stay, and nobody answers.
    pub fn freeze(&self) {
        self.order(Order::Freeze);
    }

    /// SIGCONT: it goes on where it was frozen.
    pub fn thaw(&self) {
        self.order(Order::Thaw);
    }

    /// Stops the broker in an orderly way, as an operator does; [`start_app`](Self::start_app) starts it again.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn stop_app(&self) {
        self.eval("rabbit:stop()").await;
    }

    /// Starts the broker again after [`stop_app`](Self::stop_app).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn start_app(&self) {
        self.eval("rabbit:start()").await;
        self.answers().await;
    }

    /// Its major and minor version: what a test may expect of it.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn version(&self) -> (u32, u32) {
        let version = self.eval("list_to_binary(rabbit_misc:version())").await;
        let numbers = version.as_str().expect("it is a text").split('.');
        let mut numbers = numbers.map(|number| number.parse().expect("it is a number"));
        (numbers.next().expect("it has one"), numbers.next().expect("it has two"))
    }

    /// Its name among Erlang's nodes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its port for AMQP, on 127.0.0.1.
    pub const fn amqp_port(&self) -> u16 {
        self.ports.amqp()
    }

    /// Its port for AMQP with TLS, on 127.0.0.1, where it was started with that.
    pub const fn amqps_port(&self) -> u16 {
        self.ports.amqps()
    }

    /// Its port for the management API with TLS, on 127.0.0.1.
    #[must_use]
    pub const fn api_tls_port(&self) -> u16 {
        self.ports.api_tls()
    }

    /// Its port for the management API, on 127.0.0.1.
    pub const fn api_port(&self) -> u16 {
        self.ports.api()
    }

    /// Where `guest` reaches the vhost `/`.
    pub fn amqp_url(&self) -> String {
        self.url("/")
    }

    /// Where `guest` reaches `vhost`.
    pub fn url(&self, vhost: &str) -> String {
        url(self.amqp_port(), vhost)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        let files = fs::read_dir(self.folder.join("log")).unwrap();
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default()).collect()
    }

    pub(super) const fn api(&self) -> Api {
        Api::new(self.ports.api())
    }

    /// A program of the node's release, with the node's home.
    pub(super) fn program(&self, path: &str) -> Command {
        self.release.command(&self.folder, path, &[])
    }

    /// Writes a file that the node's programs can read; what they call it.
    pub(super) fn file(&self, name: &str, content: &str) -> PathBuf {
        fs::write(self.folder.join(name), content).expect("the node's folder can be written to");
        self.release.inside(&self.folder).join(name)
    }

    fn order(&self, order: Order) -> Option<u32> {
        self.guard.lock().unwrap().order(order)
    }

    /// Waits until it answers to the start of a connection.
    ///
    /// # Panics
    ///
    /// When it does not within two minutes.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn answers(&self) {
        eventually_within(BOOT_MAX, Boot(self), || async { self.knock().await.then_some(()) }).await;
    }

    /// Whether it answers to the start of a connection.
    async fn knock(&self) -> bool {
        let answer = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.amqp_port())).await.ok()?;
            stream.write_all(&AMQP_HEADER).await.ok()?;
            // The frame of `connection.start` begins with a 1; a refusal, with "AMQP".
            (stream.read_u8().await.ok()? == 1).then_some(())
        };
        timeout(KNOCK_MAX, answer).await.is_ok_and(|answer| answer.is_some())
    }

    /// Makes the user as whom the harness uses the management API, unless there is one; says whether there is.
    async fn let_the_harness_in(&self) -> bool {
        let as_whom = async |who| self.api().request(who, "GET", "whoami", None).await;
        if let Ok((200, _)) = as_whom(HARNESS).await {
            return true;
        }
        let user = json!({"password": "harness", "tags": "administrator"});
        let made = self.api().request(GUEST, "PUT", "users/harness", Some(&user)).await;
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let path = format!("permissions/{}/harness", escape("/"));
        let allowed = self.api().request(GUEST, "PUT", &path, Some(&all)).await;
        [made, allowed].iter().all(|answer| matches!(answer, Ok((200..=299, _))))
    }
}

/// Where `guest` reaches `vhost` through `port`.
pub(super) fn url(port: u16, vhost: &str) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/{}", escape(vhost))
}

/// Whether a process lives; one that has ended and that nobody has asked about has no program any more.
fn runs(pid: u32) -> bool {
    fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe")).is_ok()
}

/// What completes the sentence "it did not happen that …", with what the node has said.
struct Boot<'n>(&'n Node);

impl fmt::Display for Boot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} served; it said:\n{}", self.0.name, self.0.log())
    }
}
