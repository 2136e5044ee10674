//! A proxy in front of a node that can stall, cut and refuse connections.
//!
//! It runs on a thread of its own, so that a test whose runtime is busy or
//! whose time is virtual has it all the same.

use std::{
    io,
    net::Ipv4Addr,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::Builder,
    select,
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use super::{node, ports::Ports};

/// Read at once. A stalled direction holds at most this much, and what the kernel buffers.
const CHUNK: usize = 16 * 1024;

/// The octet by which every frame of AMQP 0-9-1 ends (section 2.3.5 of the specification).
const FRAME_END: u8 = 0xCE;

/// A direction in which bytes go through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What clients say: publishes, acks.
    ToNode,
    /// What the node says: confirms, deliveries.
    ToClient,
}

/// What the proxy is told to do.
#[derive(Debug, Clone, Default)]
struct Orders {
    to_node_stalls: bool,
    to_client_stalls: bool,
    refuses: bool,
    /// How many bytes a second go through each direction of a connection; `None` for all that come.
    rate: Option<u32>,
    /// How many frames were to be damaged.
    damages: u64,
    /// How often all connections were to be cut.
    cuts: u64,
    ends: bool,
}

impl Orders {
    const fn stalls(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToNode => self.to_node_stalls,
            Direction::ToClient => self.to_client_stalls,
        }
    }
}

/// How far the proxy's thread has come.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    listens: bool,
    cuts: u64,
    connections: usize,
    accepted: u64,
}

/// A TCP proxy between clients and a node; it cuts what goes through it when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    orders: watch::Sender<Orders>,
    state: watch::Receiver<State>,
    ports: Ports,
    /// `None` only while it is dropped.
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to `target`, a port of this machine, as [`Node::amqp_port`](super::Node::amqp_port) is one.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start(target: u16) -> Self {
        let ports = Ports::claim();
        let (orders, told) = watch::channel(Orders::default());
        let (reports, state) = watch::channel(State::default());
        let server = Server { port: ports.amqp(), target, told, reports };
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server.serve());
        });
        let proxy = Self { orders, state, ports, thread: Some(thread) };
        proxy.until(|state| state.listens).await;
        proxy
    }

    /// The port that clients connect to, on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.ports.amqp()
    }

    /// Where `guest` reaches `vhost` through the proxy.
    pub fn url(&self, vhost: &str) -> String {
        node::url(self.port(), vhost)
    }

    /// How many connections go through it.
    pub fn connections(&self) -> usize {
        self.state.borrow().connections
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.state.borrow().accepted
    }

    /// Lets so many bytes a second through in each direction of each connection, or all that come.
    pub fn slow(&self, bytes_per_second: Option<u32>) {
        self.orders.send_modify(|orders| orders.rate = bytes_per_second);
    }

    /// Damages the end of the next frame in each direction of each connection.
    ///
    /// What is damaged is the octet by which a frame ends, since whoever reads can see that: without TLS nothing tells
    /// a changed payload from one that was meant so, and TCP's checksum keeps changes out that are not malicious.
    pub fn damage(&self) {
        self.orders.send_modify(|orders| orders.damages += 1);
    }

    /// Forwards nothing in this direction from now on, of new connections neither; nobody is told.
    pub fn stall(&self, direction: Direction) {
        self.set(direction, true);
    }

    /// Forwards what has come meanwhile, and what comes.
    pub fn resume(&self, direction: Direction) {
        self.set(direction, false);
    }

    /// Ends every connection with a reset (RST) to both sides, whatever is still under way; new ones are accepted.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: they are cut, later.
    pub async fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
        let cuts = self.orders.borrow().cuts;
        self.until(|state| state.cuts >= cuts).await;
    }

    /// Refuses new connections, as a machine on which no server runs. Those that are stay: [`cut`](Self::cut) them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: they are refused, later.
    pub async fn refuse(&self) {
        self.orders.send_modify(|orders| orders.refuses = true);
        self.until(|state| !state.listens).await;
    }

    /// Accepts connections again, as it did first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: they are accepted, later.
    pub async fn accept(&self) {
        self.orders.send_modify(|orders| orders.refuses = false);
        self.until(|state| state.listens).await;
    }

    fn set(&self, direction: Direction, stalls: bool) {
        self.orders.send_modify(|orders| match direction {
            Direction::ToNode => orders.to_node_stalls = stalls,
            Direction::ToClient => orders.to_client_stalls = stalls,
        });
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut state = self.state.clone();
        state.wait_for(holds).await.expect("the proxy's thread lives as long as it");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.ends = true);
        // It has panicked at worst, and then its message has been printed.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What runs on the proxy's thread.
struct Server {
    port: u16,
    target: u16,
    told: watch::Receiver<Orders>,
    reports: watch::Sender<State>,
}

impl Server {
    async fn serve(mut self) {
        let mut listener = None;
        let mut links = JoinSet::new();
        let (mut cuts, mut accepted_so_far) = (0, 0);
        loop {
            let orders = self.told.borrow_and_update().clone();
            if orders.ends {
                links.shutdown().await;
                return;
            }
            if orders.refuses {
                listener = None;
            } else if listener.is_none() {
                listener = Some(listen(self.port).await);
            }
            if orders.cuts > cuts {
                links.shutdown().await;
                cuts = orders.cuts;
            }
            self.reports.send_replace(State {
                listens: listener.is_some(),
                cuts,
                connections: links.len(),
                accepted: accepted_so_far,
            });
            select! {
                told = self.told.changed() => told.expect("the proxy is dropped after its thread has ended"),
                Some(client) = accepted(listener.as_ref()) => {
                    accepted_so_far += 1;
                    links.spawn(link(client, self.target, self.told.clone()));
                }
                Some(_ended) = links.join_next() => {}
            }
        }
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is claimed")
}

/// The next client, where there is a listener.
async fn accepted(listener: Option<&TcpListener>) -> Option<TcpStream> {
    // A client that is gone before it was accepted is none.
    listener?.accept().await.ok().map(|(client, _)| client)
}

/// One end of a connection. Where it is dropped in the middle, the other side hears a reset.
struct End {
    stream: TcpStream,
    finished: bool,
}

impl End {
    const fn new(stream: TcpStream) -> Self {
        Self { stream, finished: false }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.finished {
            // It fails where the other side is gone already.
            drop(self.stream.set_zero_linger());
        }
    }
}

/// Forwards between one client and the node until both have said all.
async fn link(client: TcpStream, target: u16, orders: watch::Receiver<Orders>) {
    let mut client = End::new(client);
    let Ok(node) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    let mut node = End::new(node);
    for end in [&client, &node] {
        // What is forwarded goes at once, as without a proxy.
        drop(end.stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.stream.split();
    let (from_node, to_node) = node.stream.split();
    let both = tokio::try_join!(
        forward(from_client, to_node, Direction::ToNode, orders.clone()),
        forward(from_node, to_client, Direction::ToClient, orders),
    );
    if both.is_ok() {
        client.finished = true;
        node.finished = true;
    }
}

/// Forwards one direction to its end.
async fn forward(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut damages = orders.borrow().damages;
    loop {
        let length = from.read(&mut chunk).await?;
        let flowing = orders.wait_for(|orders| !orders.stalls(direction)).await;
        let (rate, damaged) =
            flowing.map(|orders| (orders.rate, orders.damages)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        if length == 0 {
            return to.shutdown().await;
        }
        if damaged > damages && chunk[length - 1] == FRAME_END {
            chunk[length - 1] = !FRAME_END;
            damages = damaged;
        }
        if let Some(rate) = rate {
            sleep(Duration::from_secs_f64(length as f64 / f64::from(rate))).await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}
