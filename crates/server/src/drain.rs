//! What a drain reports: what finished, and what had to be cut.

use std::{fmt, net::SocketAddr, time::Duration};

use http::Method;

/// Most entries of [`DrainReport::cut`].
pub(crate) const MAX_CUTS: usize = 1024;

/// How a drain went.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DrainReport {
    /// How many requests ended by themselves while draining.
    pub finished: usize,
    /// What was still there at the deadline; the first 1 024.
    pub cut: Vec<Cut>,
    /// How many there were in all.
    pub cut_total: usize,
    /// How many of them could not even be dropped: their handlers, or work of theirs, block their threads.
    pub stuck: usize,
    /// How long the drain took.
    pub took: Duration,
}

/// One connection, or one request of it, that was cut at the deadline.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cut {
    /// The other side.
    pub peer: SocketAddr,
    /// What was spoken.
    pub kind: CutKind,
    /// The request in flight; `None` for a connection without any.
    pub request: Option<CutRequest>,
    /// The name of detached work.
    pub task: Option<&'static str>,
    /// How long the request, the work, or else the connection, had lived.
    pub age: Duration,
}

/// A request that was cut.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CutRequest {
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: Box<str>,
    /// Whether its caller was told, shortly before the deadline: by a final status in gRPC, by 503 where no
    /// answer had begun.
    pub told: bool,
}

/// What a cut connection spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CutKind {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nothing yet, or not enough to tell.
    Silent,
    /// A protocol that took the connection over, such as WebSocket.
    Upgraded,
    /// Work that a handler detached from its request.
    Detached,
}

impl CutKind {
    /// Lowercase, as in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "h2",
            Self::Silent => "silent",
            Self::Upgraded => "upgraded",
            Self::Detached => "detached",
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.peer, self.kind.as_str())?;
        if let Some(request) = &self.request {
            write!(f, ", {} {}", request.method, request.path)?;
        }
        if let Some(task) = self.task {
            write!(f, ", {task}")?;
        }
        write!(f, ", {} ms)", self.age.as_millis())
    }
}
