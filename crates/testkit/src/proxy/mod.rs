//! A TCP proxy inside the test, through which a link is slowed, silenced, cut and healed while it is in use.
//!
//! It stands in for what a network does between two processes, on machines where the kernel's own tools are missing.
//! One thing it cannot do: while a link is black-holed, a *new* connection to the proxy is still accepted by the
//! kernel; it then stays silent, and the server behind never sees it.

mod flow;
mod link;
mod pump;

use std::{fmt, net::SocketAddr, num::NonZeroU64, sync::Arc, time::Duration};

use meshwork_core::Task;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    flow::{Flow, Flows, Passage},
    link::{Command, Door, Link},
};
use crate::{Error, ports::Port};

pub use self::link::Traffic;

/// Which way a fault works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// On what the client sends.
    Server,
    /// On what the server sends.
    Client,
    /// On both.
    Both,
}

/// A proxy on a port of its own in front of one server. Dropping it resets every connection.
pub struct FaultProxy {
    port: Arc<Port>,
    link: Arc<Link>,
    commands: mpsc::Sender<Command>,
    _listener: Task,
}

impl FaultProxy {
    /// Starts a proxy that forwards everything to `upstream`, unchanged and at once.
    ///
    /// # Errors
    /// When no port can be had.
    ///
    /// # Cancel safety
    /// Dropping the future ends the proxy.
    pub async fn start(upstream: SocketAddr) -> Result<Self, Error> {
        let port = Arc::new(Port::claim()?);
        let link = Arc::new(Link::new(upstream));
        let (commands, inbox) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let work = link::serve(Arc::clone(&link), Arc::clone(&port), inbox, stop.clone());
        let proxy =
            Self { port, link, commands, _listener: Task::new("fault proxy", stop, tokio::spawn(work)) };
        proxy.accept().await?;
        Ok(proxy)
    }

    /// The address that clients dial.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        self.port.url()
    }

    /// Another server behind the proxy, for connections that come from now on.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.link.redirect(upstream);
    }

    /// What has passed since the start.
    pub fn traffic(&self) -> Traffic {
        self.link.traffic()
    }

    /// Everything arrives `by` later than it would, without a loss of throughput. Zero by default.
    pub fn delay(&self, toward: Toward, by: Duration) {
        self.change(toward, |flow| flow.delay = by);
    }

    /// At most so many bytes pass per second and connection. `None`, the default, is no limit.
    pub fn slow(&self, toward: Toward, bytes_per_second: Option<NonZeroU64>) {
        self.change(toward, |flow| flow.rate = bytes_per_second);
    }

    /// Nothing is read any more, so that the sender's window fills, and nothing is delivered, not even an end or a
    /// reset. After [`heal`](Self::heal) all of it arrives.
    pub fn black_hole(&self, toward: Toward) {
        self.change(toward, |flow| flow.passage = Passage::Hole);
    }

    /// Everything is read and lost, also an end; a reset is held back until [`heal`](Self::heal).
    pub fn swallow(&self, toward: Toward) {
        self.change(toward, |flow| flow.passage = Passage::Swallow);
    }

    /// Both ways forward again, at once and unlimited. A closed door stays closed: see [`accept`](Self::accept).
    pub fn heal(&self) {
        self.change(Toward::Both, |flow| *flow = Flow::default());
    }

    /// Ends one way of each open connection as its sender would: the other side reads an end, and what is sent that
    /// way later is lost. The other way goes on.
    pub fn half_close(&self, toward: Toward) {
        for flows in self.flows(toward) {
            flows.close();
        }
    }

    /// Resets every open connection, on both sides, and returns when they are gone. New ones are taken.
    ///
    /// # Errors
    /// Never while the proxy lives.
    ///
    /// # Cancel safety
    /// Once polled, the cut happens also when the future is dropped.
    pub async fn cut(&self) -> Result<(), Error> {
        self.tell(Command::Cut).await
    }

    /// Closes the listener: new connections are refused by the kernel, and not counted. Open ones stay.
    ///
    /// # Errors
    /// Never while the proxy lives.
    ///
    /// # Cancel safety
    /// Once polled, the door closes also when the future is dropped.
    pub async fn refuse(&self) -> Result<(), Error> {
        self.tell(|done| Command::Door(Door::Closed, done)).await
    }

    /// Accepts new connections, counts them, and resets them at once. Open ones stay.
    ///
    /// # Errors
    /// When the port cannot be bound again.
    ///
    /// # Cancel safety
    /// Once polled, it takes effect also when the future is dropped.
    pub async fn reset_new(&self) -> Result<(), Error> {
        self.tell(|done| Command::Door(Door::Resetting, done)).await
    }

    /// Takes new connections again, after [`refuse`](Self::refuse) or [`reset_new`](Self::reset_new).
    ///
    /// # Errors
    /// When the port cannot be bound again.
    ///
    /// # Cancel safety
    /// Once polled, the door opens also when the future is dropped.
    pub async fn accept(&self) -> Result<(), Error> {
        self.tell(|done| Command::Door(Door::Open, done)).await
    }

    async fn tell(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), Error>>) -> Command,
    ) -> Result<(), Error> {
        let (done, told) = oneshot::channel();
        let ended = || Error::new("changing a fault proxy: its task has ended");
        self.commands.send(command(done)).await.map_err(|_closed| ended())?;
        told.await.unwrap_or_else(|_closed| Err(ended()))
    }

    fn change(&self, toward: Toward, change: impl Fn(&mut Flow)) {
        for flows in self.flows(toward) {
            flows.change(&change);
        }
    }

    fn flows(&self, toward: Toward) -> impl Iterator<Item = &Flows> {
        let to_server = (toward != Toward::Client).then_some(&self.link.to_server);
        let to_client = (toward != Toward::Server).then_some(&self.link.to_client);
        to_server.into_iter().chain(to_client)
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("addr", &self.addr())
            .field("traffic", &self.traffic())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
