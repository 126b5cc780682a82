//! What a backend author brings: his backend, his server, and what can be done to it.

use std::{fmt, sync::Arc, time::Duration};

use meshwork_core::{
    Announcer, Backend, BoxFuture, Discovery, Instance, InstanceId, Parts, Registry, ServiceName, Source,
};
use meshwork_registry::{Driven, Stats};

use crate::{
    Error,
    proxy::{FaultProxy, Toward, Traffic},
};

/// A backend under test together with the server behind it.
///
/// `name` and `backend` are enough to begin with. Everything else says "cannot" by default, and each behaviour that
/// needs it is then reported as skipped, with the reason; none is ever counted as passed.
pub trait Rig: Send + Sync + 'static {
    /// What stands in the table: the backend, and the kind of server where there are several.
    fn name(&self) -> String;

    /// A new backend over the same server each time, as another process would make it: it shares nothing with those
    /// before but the server.
    fn backend(&self) -> Box<dyn Backend>;

    /// The environment that [`backend`](Self::backend) is made for. Default: `dev`.
    fn env(&self) -> String {
        "dev".to_owned()
    }

    /// What the backend promises of its times and its needs.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The services that are there without being announced, of a backend whose list is closed: one that it lacks is an
    /// error, not an empty set. Default: none, and the list is open.
    fn listed(&self) -> Vec<Listed> {
        Vec::new()
    }

    /// Does this to the server, and returns when it is done.
    ///
    /// # Errors
    /// [`Undone::Cannot`] with the reason when this rig is not able to; [`Undone::Failed`] when it should have been.
    ///
    /// # Cancel safety
    /// The suite does not drop the future before it is ready.
    fn act(&self, deed: Deed) -> impl Future<Output = Result<(), Undone>> + Send {
        let text = format!("this rig has no way to {deed}");
        async { Err(Undone::Cannot(text)) }
    }

    /// Another backend, whose every connection to the server goes over links that can be cut and counted.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    ///
    /// # Cancel safety
    /// As [`act`](Self::act).
    fn linked(&self) -> impl Future<Output = Result<Linked, Undone>> + Send {
        async { Err(Undone::cannot("this rig has no link to the server that could be cut or counted")) }
    }

    /// Another backend, whose drivers' counters can be read.
    ///
    /// # Errors
    /// As [`act`](Self::act).
    fn counted(&self) -> Result<Counted, Undone> {
        Err(Undone::cannot("this rig does not show the counters of its drivers"))
    }
}

/// What can be done to a server and to its records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Deed {
    /// The server ends at once, as by SIGKILL. What it keeps, it keeps.
    Stop,
    /// It is started again, with what it kept, and answers.
    Start,
    /// It loses all records and all claims, and answers again: by a restart without its data, or in place.
    Wipe,
    /// It stands still, as by SIGSTOP: connections stay open, nothing is answered.
    Freeze,
    /// It goes on.
    Thaw,
    /// One of several servers ends, the one that hurts most; [`Start`](Self::Start) brings it back.
    LoseOne,
    /// The claim of this instance ends behind its owner's back: a lease is revoked, a check is removed.
    Forget(Arc<Instance>),
    /// The record of this instance is deleted, whoever wrote it.
    Erase(Arc<Instance>),
    /// This record is written as a Meshwork process would write it, over whatever stands there, without an owner who
    /// would keep it.
    Put(Arc<Instance>),
    /// The record of this instance is overwritten with something that no reader takes.
    Spoil(Arc<Instance>),
    /// Something that no reader takes is written where the record of such an instance would stand.
    Plant(Malformed, ServiceName, InstanceId),
    /// An instance is registered as other software does it that knows nothing of Meshwork, at `http://127.0.0.1:7000`.
    PutForeign(ServiceName, InstanceId),
}

/// The kinds of records that no reader takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// No JSON, or whatever is the like.
    Nonsense,
    /// Not UTF-8.
    Binary,
    /// Nothing at all.
    Empty,
    /// The JSON value `null`.
    Null,
    /// Longer than any record may be.
    Huge,
    /// A schema of another age.
    OtherSchema,
    /// A weight that is a text.
    WrongType,
    /// An endpoint nobody can call: port 0.
    PortZero,
    /// A good record of another instance than the one whose place it stands at.
    Misplaced,
}

/// Why a deed was not done.
#[derive(Debug)]
pub enum Undone {
    /// This rig is not able to; the text says why.
    Cannot(String),
    /// It should have been.
    Failed(Error),
}

/// What a backend promises of its times and its needs. Times are judged with a slack of four; counts are hard.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// How long an instance that fell silent stays listed at most. Default 2 s.
    pub ttl: Duration,
    /// Between a change and the view of another process. Default 500 ms.
    pub seen: Duration,
    /// Between a loss of a registration while the server is there, and its return. Default 2 s.
    pub own_loss: Duration,
    /// Between the return of a server that has lost everything, and that of the registrations. Default 5 s.
    pub wiped: Duration,
    /// Between the return of a server and that of the views and registrations. Default `ttl` + 2 s.
    pub returned: Duration,
    /// Until a server that stands still, or a link that swallows everything, is noticed. Default 15 s.
    pub noticed: Duration,
    /// The longest that leaving takes, whatever the server does. Default 2 s.
    pub leave: Duration,
    /// How long after a confirmed departure a reader may still be shown what was announced, because the registry passes
    /// changes on by itself, one after the other. Default 0.
    pub settles: Duration,
    /// The connections that one process with 200 services may hold open at once. Default 4.
    pub connections: u64,
    /// The bytes per second that pass for a process in which nothing happens, both ways. Default 32 KiB.
    pub idle_bytes: u64,
    /// Whether a reader sees every revision of a record. Default true. One that polls may miss the mark of an instance
    /// that is gone a moment later.
    pub sees_every_revision: bool,
    /// Whether the server keeps its records over [`Deed::Stop`] and [`Deed::Start`]. Default true. Where it does not, a
    /// view may be empty for the moment until the owners are back.
    pub keeps_records: bool,
}

/// A service of a closed list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub service: ServiceName,
    /// The ids of its instances.
    pub ids: Vec<InstanceId>,
}

/// A backend behind links.
pub struct Linked {
    backend: Box<dyn Backend>,
    links: Vec<FaultProxy>,
}

/// A backend with the counters of its drivers.
pub struct Counted {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// What its drivers count.
    pub stats: Arc<Stats>,
}

// === impl Deed ===

impl fmt::Display for Deed {
    /// Completes "no way to".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop the server",
            Self::Start => "start the server",
            Self::Wipe => "wipe the server",
            Self::Freeze => "freeze the server",
            Self::Thaw => "thaw the server",
            Self::LoseOne => "stop one of several servers",
            Self::Forget(_) => "end a claim behind its owner's back",
            Self::Erase(_) => "delete a record",
            Self::Put(_) => "write the record of another process",
            Self::Spoil(_) => "spoil a record",
            Self::Plant(..) => "write a malformed record",
            Self::PutForeign(..) => "register as other software does",
        })
    }
}

// === impl Malformed ===

impl Malformed {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Nonsense,
        Self::Binary,
        Self::Empty,
        Self::Null,
        Self::Huge,
        Self::OtherSchema,
        Self::WrongType,
        Self::PortZero,
        Self::Misplaced,
    ];

    /// What is to be written, for registries whose records are the JSON of [`encode`](meshwork_core::encode).
    pub fn bytes(self, service: &ServiceName, id: &InstanceId) -> Vec<u8> {
        let record = |id: &str, port: u16, tail: &str| {
            let text = format!(
                r#"{{"schema":1,"service":"{service}","id":"{id}","endpoints":["http://127.0.0.1:{port}"]{tail}}}"#
            );
            text.into_bytes()
        };
        match self {
            Self::Nonsense => b"nonsense".to_vec(),
            Self::Binary => vec![0xff, 0xfe, 0x00],
            Self::Empty => Vec::new(),
            Self::Null => b"null".to_vec(),
            Self::Huge => vec![b' '; 100 * 1024],
            Self::OtherSchema => format!(r#"{{"schema":99,"service":"{service}","id":"{id}"}}"#).into_bytes(),
            Self::WrongType => record(id.as_str(), 80, r#","weight":"heavy""#),
            Self::PortZero => record(id.as_str(), 0, ""),
            Self::Misplaced => record("another-id", 80, ""),
        }
    }
}

// === impl Undone ===

impl Undone {
    /// This rig is not able to, for this reason.
    pub fn cannot(why: impl Into<String>) -> Self {
        Self::Cannot(why.into())
    }
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

// === impl Limits ===

impl Limits {
    /// The defaults for this time to live.
    pub fn of_ttl(ttl: Duration) -> Self {
        Self {
            ttl,
            seen: Duration::from_millis(500),
            own_loss: Duration::from_secs(2),
            wiped: Duration::from_secs(5),
            returned: ttl + Duration::from_secs(2),
            noticed: Duration::from_secs(15),
            leave: Duration::from_secs(2),
            settles: Duration::ZERO,
            connections: 4,
            idle_bytes: 32 * 1024,
            sees_every_revision: true,
            keeps_records: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of_ttl(Duration::from_secs(2))
    }
}

// === impl Linked ===

impl Linked {
    /// A backend all of whose connections go over these links.
    pub fn new(backend: impl Backend, links: impl IntoIterator<Item = FaultProxy>) -> Self {
        Self { backend: Box::new(backend), links: links.into_iter().collect() }
    }

    /// Takes it apart, for a rig that joins several.
    pub fn into_parts(self) -> (Box<dyn Backend>, Vec<FaultProxy>) {
        (self.backend, self.links)
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What has passed over all links.
    pub(super) fn traffic(&self) -> Traffic {
        self.links.iter().map(FaultProxy::traffic).fold(Traffic::default(), |mut sum, one| {
            sum.connections += one.connections;
            sum.open += one.open;
            sum.unreachable += one.unreachable;
            sum.bytes_to_server += one.bytes_to_server;
            sum.bytes_to_client += one.bytes_to_client;
            sum
        })
    }

    /// Resets every connection; new ones are taken.
    pub(super) async fn cut(&self) -> Result<(), Error> {
        for link in &self.links {
            link.cut().await?;
        }
        Ok(())
    }

    /// Resets every connection and refuses new ones.
    pub(super) async fn sever(&self) -> Result<(), Error> {
        for link in &self.links {
            link.refuse().await?;
        }
        self.cut().await
    }

    /// Nothing passes any more; connections stay open.
    pub(super) fn swallow(&self) {
        self.links.iter().for_each(|link| link.black_hole(Toward::Both));
    }

    /// As at first.
    pub(super) async fn mend(&self) -> Result<(), Error> {
        for link in &self.links {
            link.heal();
            link.accept().await?;
        }
        Ok(())
    }
}

// === impl Counted ===

impl Counted {
    /// A backend that finds and announces.
    pub fn of<B: Source + Announcer>(driven: &Driven<B>) -> Self {
        Self::with(driven.stats(), driven.discovery(), Some(driven.registry()))
    }

    /// A backend that finds only.
    pub fn finding<B: Source>(driven: &Driven<B>) -> Self {
        Self::with(driven.stats(), driven.discovery(), None)
    }

    fn with(stats: &Arc<Stats>, discovery: Arc<dyn Discovery>, registry: Option<Arc<dyn Registry>>) -> Self {
        let mut parts = Parts::new("counted").with_discovery(discovery);
        parts.registry = registry;
        Self { backend: Box::new(parts), stats: Arc::clone(stats) }
    }
}

impl fmt::Debug for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linked").field("links", &self.links).finish_non_exhaustive()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted").field("stats", &self.stats).finish_non_exhaustive()
    }
}

/// A rig behind a pointer.
pub(super) trait AnyRig: Send + Sync + 'static {
    fn backend(&self) -> Box<dyn Backend>;
    fn env(&self) -> String;
    fn listed(&self) -> Vec<Listed>;
    fn act(&self, deed: Deed) -> BoxFuture<'_, Result<(), Undone>>;
    fn linked(&self) -> BoxFuture<'_, Result<Linked, Undone>>;
    fn counted(&self) -> Result<Counted, Undone>;
}

impl<R: Rig> AnyRig for R {
    fn backend(&self) -> Box<dyn Backend> {
        Rig::backend(self)
    }

    fn env(&self) -> String {
        Rig::env(self)
    }

    fn listed(&self) -> Vec<Listed> {
        Rig::listed(self)
    }

    fn act(&self, deed: Deed) -> BoxFuture<'_, Result<(), Undone>> {
        Box::pin(Rig::act(self, deed))
    }

    fn linked(&self) -> BoxFuture<'_, Result<Linked, Undone>> {
        Box::pin(Rig::linked(self))
    }

    fn counted(&self) -> Result<Counted, Undone> {
        Rig::counted(self)
    }
}
