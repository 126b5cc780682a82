//! What the calls, the connection owners and the cluster task of one channel share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use meshwork_balance::{Member, Peers};
use meshwork_core::{Error, ErrorKind, Scheme, ServiceName, Watch};
use meshwork_resilience::Budget;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use crate::{
    ClientConfig,
    clock::Clock,
    pulse::Pulse,
    rules::{Pickers, Rules},
    standing::Standing,
};

/// Dials under way at a time.
const DIALS: usize = 128;

/// What kind of call it is; each kind has its own choice of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Grpc,
    Http,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Grpc, Self::Http];
}

/// The members of one kind and their pickers: always stored together.
pub(crate) struct Store {
    /// The error behind a view that was never read; `None` once something was.
    pub(crate) pending: Option<Pending>,
    pub(crate) members: Arc<[Member]>,
    pub(crate) pickers: Pickers,
    pub(crate) tally: Tally,
}

/// The records of a view that are no members, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// All records.
    pub(crate) known: usize,
    /// Left to other clients by the aperture, and left out by it because they are not up.
    pub(crate) aside: usize,
    pub(crate) not_up: usize,
    /// Without an endpoint that may be called, and those of them whose addresses are the reason.
    pub(crate) unusable: usize,
    pub(crate) forbidden: usize,
}

/// Nothing was ever read.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) cause: Option<Arc<Error>>,
}

impl Pending {
    /// Whether waiting cannot mend it: the question itself is wrong.
    pub(crate) fn is_hopeless(&self) -> bool {
        let kind = self.cause.as_ref().map(|cause| cause.kind());
        matches!(kind, Some(ErrorKind::Invalid | ErrorKind::Unsupported))
    }
}

/// The nodes that serve one kind of call.
pub(crate) struct Group {
    /// Whether any call of this kind was made; nothing is dialled before.
    wanted: AtomicBool,
    pub(crate) store: ArcSwap<Store>,
    /// Something changed that every waiting call should look at.
    pub(crate) changed: Notify,
    /// One stream became free.
    pub(crate) freed: Notify,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) service: ServiceName,
    pub(crate) config: ClientConfig,
    pub(crate) watch: Watch,
    pub(crate) clock: Clock,
    /// Of the nodes at endpoints for gRPC, and of the others: where instances offer both, the idle ones of one kind
    /// say nothing of the failing ones of the other.
    peers: [Arc<Peers>; 2],
    pub(crate) budget: Budget,
    /// What holds for calls, of the moment.
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) pulse: Pulse,
    pub(crate) dials: Semaphore,
    pub(crate) waiting: AtomicUsize,
    pub(crate) closed: AtomicBool,
    /// The cluster task should look again: a kind is wanted, an identity was confirmed.
    pub(crate) rebuild: Notify,
    groups: [Group; 2],
}

impl Shared {
    pub(crate) fn new(service: ServiceName, watch: Watch, config: ClientConfig) -> Arc<Self> {
        let clock = Clock::new();
        let rules = Arc::new(Rules::new(&config, None));
        let group = || Group {
            wanted: AtomicBool::new(false),
            store: ArcSwap::from_pointee(Store {
                pending: Some(Pending { cause: None }),
                members: Arc::new([]),
                pickers: Pickers::new(&rules, &config.local, &Standing::default(), &Arc::from([])),
                tally: Tally::default(),
            }),
            changed: Notify::new(),
            freed: Notify::new(),
        };
        Arc::new(Self {
            groups: [group(), group()],
            rules: ArcSwap::new(rules),
            budget: Budget::new(config.retry.budget, config.retry.min_per_second, Instant::now()),
            peers: [(); 2].map(|()| Peers::new(move || clock.now())),
            pulse: Pulse::new(config.ping_interval),
            dials: Semaphore::new(DIALS),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            rebuild: Notify::new(),
            service,
            config,
            watch,
            clock,
        })
    }

    /// The peers of a node at endpoints of this scheme.
    pub(crate) fn peers(&self, scheme: Scheme) -> &Arc<Peers> {
        &self.peers[usize::from(scheme.is_grpc())]
    }

    /// Whether any node is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.peers.iter().any(|peers| peers.connected() > 0)
    }

    pub(crate) fn group(&self, kind: Kind) -> &Group {
        &self.groups[kind as usize]
    }

    /// What holds for calls from now on. What does not is `config`'s for the life of the channel.
    pub(crate) fn change(&self, config: &ClientConfig) {
        let before = self.rules.load();
        self.rules.store(Arc::new(Rules::new(config, Some(&before))));
        self.rebuild.notify_one();
    }

    /// Says that calls of this kind are made.
    pub(crate) fn want(&self, kind: Kind) {
        let wanted = &self.group(kind).wanted;
        if !wanted.load(Ordering::Relaxed) && !wanted.swap(true, Ordering::Relaxed) {
            self.rebuild.notify_one();
        }
    }

    pub(crate) fn is_wanted(&self, kind: Kind) -> bool {
        self.group(kind).wanted.load(Ordering::Relaxed)
    }

    /// Says that no calls of this kind were made for long.
    pub(crate) fn forget(&self, kind: Kind) {
        self.group(kind).wanted.store(false, Ordering::Relaxed);
    }

    /// Lets every waiting call look again.
    pub(crate) fn wake_all(&self) {
        self.groups.iter().for_each(|group| group.changed.notify_waiters());
    }

    /// Whether no call is being made.
    pub(crate) fn is_calm(&self) -> bool {
        self.calls_in_flight() == 0 && self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Calls in flight on all nodes.
    pub(crate) fn calls_in_flight(&self) -> u64 {
        let stores = Kind::ALL.map(|kind| self.group(kind).store.load_full());
        let nodes = stores.iter().flat_map(|store| store.members.iter());
        nodes.map(|member| u64::from(member.node().inflight())).sum()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = Kind::ALL.map(|kind| self.group(kind).store.load().members.len());
        f.debug_struct("Shared").field("service", &self.service).field("members", &members).finish()
    }
}
