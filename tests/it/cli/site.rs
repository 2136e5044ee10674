//! A worker's admin server, asked as Kubernetes and Prometheus ask it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use worker_tests::{eventually::eventually_blocking, exposition::Exposition};

use super::program::{Program, Running};

const PATIENCE: Duration = Duration::from_secs(60);

/// A worker with an admin server on a free port, and where that is.
pub(super) fn started(program: &Program, args: &[&str]) -> (Running, Site) {
    let running = program.start(&[&["run", "--admin", "127.0.0.1:0"], args].concat());
    let site = Site::of(&running);
    (running, site)
}

/// The admin server of one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site(pub(super) SocketAddr);

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Site {
    /// As the log says.
    pub(super) fn of(running: &Running) -> Self {
        running.stderr.wait_for("admin server listens");
        let log = running.stderr.so_far();
        let line = log.lines().find(|line| line.contains("admin server listens")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Self(line["address"].as_str().unwrap().parse().unwrap())
    }

    pub(super) fn connect(self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.0, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(super) fn ask(self, method: &str, path: &str) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.0).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.into() }
    }

    pub(super) fn get(self, path: &str) -> Answer {
        self.ask("GET", path)
    }

    pub(super) fn status(self, path: &str) -> u16 {
        self.get(path).status
    }

    /// The status of `/livez`, `/readyz` and `/startupz`.
    pub(super) fn probes(self) -> [u16; 3] {
        ["/livez", "/readyz", "/startupz"].map(|path| self.status(path))
    }

    #[track_caller]
    pub(super) fn wait_until_ready(self) {
        eventually_blocking("the worker is ready", || self.status("/readyz") == 200);
    }

    pub(super) fn metrics(self) -> Exposition {
        Exposition::parse(&self.get("/metrics").body)
    }
}
