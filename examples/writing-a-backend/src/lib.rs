//! A registry backend as small as one can be: records on a board, a little server that speaks lines of text.
//!
//! `docs/writing-a-backend.md` walks through it. What is here is all that a backend is: one connection ([`Drive`](
//! meshwork_core::Drive)), finding ([`Source`](meshwork_core::Source)) and announcing
//! ([`Announcer`](meshwork_core::Announcer)). Retry, sharing, staleness and back-off are the drivers'.
#![deny(missing_docs)]

mod announcer;
mod link;
pub mod server;
mod source;

use std::{net::SocketAddr, time::Duration};

use meshwork_core::{Backend, Error, Parts};
use meshwork_registry::{Driven, DriverOptions};

use link::Hub;

/// A board server as registry.
#[derive(Clone, Debug)]
pub struct Board {
    server: SocketAddr,
    env: Box<str>,
    ttl: Duration,
}

impl Board {
    /// The server at this address, for the environment `dev`, with a time to live of 2 s.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, env: "dev".into(), ttl: Duration::from_secs(2) }
    }
}

impl Backend for Board {
    fn open(&self) -> Result<Parts, Error> {
        let hub = Hub::new(self.server, self.env.clone(), self.ttl);
        let driven = Driven::new(hub, DriverOptions::default().with_ttl(self.ttl));
        let parts = Parts::new(format!("board {} env {}", self.server, self.env));
        Ok(parts.with_registry(driven.registry()).with_discovery(driven.discovery()))
    }
}
