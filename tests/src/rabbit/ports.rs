//! Ports that no other test takes, in this process or another.

use std::net::{Ipv4Addr, TcpListener};

/// Below the range from which the kernel gives ports to outgoing connections
/// (32,768 and up on Linux), so that none of those can be in the way.
const FIRST: u16 = 18_000;
const LAST: u16 = 30_000;

/// One that is bound as a claim, and those that are used.
const BLOCK: u16 = 6;

/// Five neighbouring ports on 127.0.0.1.
///
/// They are not bound themselves, for a server is to bind them and may be
/// killed and started again. A sixth one is, for as long as this value lives:
/// whoever has it owns the block, and the kernel gives it back when a process
/// dies. What else could have one of them is asked by binding it once.
#[derive(Debug)]
pub(super) struct Ports {
    claim: u16,
    _claimed: TcpListener,
}

impl Ports {
    /// Claims a block.
    pub(super) fn claim() -> Self {
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        for claim in (FIRST..LAST).step_by(BLOCK.into()) {
            let Some(claimed) = bind(claim) else { continue };
            if (claim + 1..claim + BLOCK).all(|port| bind(port).is_some()) {
                return Self { claim, _claimed: claimed };
            }
        }
        panic!("no free ports between {FIRST} and {LAST}");
    }

    /// For AMQP.
    pub(super) const fn amqp(&self) -> u16 {
        self.claim + 1
    }

    /// For the management API.
    pub(super) const fn api(&self) -> u16 {
        self.claim + 2
    }

    /// For Erlang's own protocol between nodes.
    pub(super) const fn distribution(&self) -> u16 {
        self.claim + 3
    }

    /// For AMQP with TLS.
    pub(super) const fn amqps(&self) -> u16 {
        self.claim + 4
    }

    /// For the management API with TLS.
    pub(super) const fn api_tls(&self) -> u16 {
        self.claim + 5
    }
}
