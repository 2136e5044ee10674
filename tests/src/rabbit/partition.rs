//! Nodes of a cluster that lose sight of each other.

use std::{collections::BTreeSet, fs, process::Command};

use super::Node;

/// The number of our rules in the kernel's list, before that of the local addresses (see `torture/apart.rs`).
const RULES: &str = "50";

/// `ESTABLISHED`, in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Which way nothing gets through, as one node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    /// Neither.
    Both,
    /// Nothing that it says arrives.
    Out,
    /// It hears nothing.
    In,
}

impl Node {
    /// Cuts this node off from all others of its cluster, until they are [joined](Self::rejoin) again. Clients reach
    /// it all the same.
    ///
    /// Both sides forget the cookie that they share, so that Erlang refuses the connection that it closes here and
    /// every new one. Unlike a cable that is pulled, either side sees at once that the other is gone.
    ///
    /// # Panics
    ///
    /// When a node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn part(&self, others: &[&Self]) {
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', parted)", self.name())).await;
        }
        let parted = "[begin erlang:set_cookie(N, parted), erlang:disconnect_node(N) end || N <- nodes()], ok";
        self.eval(parted).await;
    }

    /// Ends what [`part`](Self::part) began, and starts this node's broker anew, as RabbitMQ's guide tells operators
    /// to do with the side that they do not trust (<https://www.rabbitmq.com/docs/partitions#recovering>).
    ///
    /// # Panics
    ///
    /// When a node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn rejoin(&self, others: &[&Self]) {
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", self.name())).await;
            self.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", other.name())).await;
        }
        self.stop_app().await;
        self.start_app().await;
    }

    /// Drops all packets between this node and the others, or one way alone, without a word to either, until it is
    /// [ended](Self::unsilence). Clients reach it all the same.
    ///
    /// The kernel finds no route for the packets of the connections that are there, and no new one is let in, by the
    /// cookie. Works in a network namespace of the tests' own alone.
    ///
    /// # Panics
    ///
    /// When a node does not answer, or the kernel cannot be told.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn silence(&self, others: &[&Self], ways: Ways) {
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', parted)", self.name())).await;
            self.eval(&format!("erlang:set_cookie('{}', parted)", other.name())).await;
        }
        let mut theirs = BTreeSet::new();
        for other in others {
            theirs.extend(other.connections().await.into_iter().map(|(own, _)| own));
        }
        for (own, peer) in self.connections().await {
            if !theirs.contains(&peer) {
                continue;
            }
            if ways != Ways::In {
                assert!(rule(&["add", "sport", &own.to_string(), "dport", &peer.to_string()]), "it can be dropped");
            }
            if ways != Ways::Out {
                assert!(rule(&["add", "sport", &peer.to_string(), "dport", &own.to_string()]), "it can be dropped");
            }
        }
    }

    /// Ends what [`silence`](Self::silence) began. What was said meanwhile arrives late.
    ///
    /// # Panics
    ///
    /// When a node does not answer.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe.
    pub async fn unsilence(&self, others: &[&Self]) {
        while rule(&["del"]) {}
        for other in others {
            other.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", self.name())).await;
            self.eval(&format!("erlang:set_cookie('{}', erlang:get_cookie())", other.name())).await;
        }
    }

    /// The ports of all connections that this node has, its own first.
    async fn connections(&self) -> Vec<(u16, u16)> {
        let pid = self.eval("list_to_binary(os:getpid())").await;
        let pid = pid.as_str().expect("it is a text").to_owned();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("the node runs");
        let links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let sockets: BTreeSet<_> = links
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("it has a network");
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let open = rows.filter(|row| row[3] == ESTABLISHED && sockets.contains(row[9]));
        open.map(|row| (port(row[1]), port(row[2]))).collect()
    }
}

/// The port of `0100007F:1F90`.
fn port(address: &str) -> u16 {
    let (_, port) = address.split_once(':').expect("it has a port");
    u16::from_str_radix(port, 16).expect("it is a number")
}

/// Tells the kernel of packets that it finds no way for, and whether it has agreed.
fn rule(words: &[&str]) -> bool {
    let mut ip = Command::new("ip");
    ip.args(["rule", words[0], "pref", RULES]);
    if let [_, which @ ..] = words
        && !which.is_empty()
    {
        ip.args(["ipproto", "tcp"]).args(which).arg("blackhole");
    }
    ip.output().expect("there is `ip`").status.success()
}
