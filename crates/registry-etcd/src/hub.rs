//! What the subscriptions and claims of one backend share: a link, a watch stream, a keep-alive stream.

use std::{
    fmt, future,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use meshwork_core::{BoxFuture, Drive, Error, ErrorChain, ErrorKind};
use tokio::{
    sync::{Mutex, Semaphore},
    time,
    time::Instant,
};

use crate::{
    config::EtcdConfig, endpoints::Endpoints, errors, keeper::Keeper, keys::Keys, link::Link,
    members::Members, random, taps::Taps, watching,
};

/// A link that lived this long was good: the next one follows without a pause.
const STEADY: Duration = Duration::from_secs(1);
/// How often the list of members is read.
const SYNC_EVERY: Duration = Duration::from_secs(60);
/// The most lists at once.
const LISTS: usize = 16;

/// One etcd backend: source, announcer and the work they share. Clones share everything.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Shared>);

/// What clones of a [`Hub`] share.
pub(crate) struct Shared {
    pub(crate) config: EtcdConfig,
    pub(crate) keys: Keys,
    pub(crate) members: Members,
    pub(crate) taps: Arc<Taps>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) lists: Semaphore,
    /// Held by who drives: the drivers, or the catalog while it is the only one in use.
    driven: Mutex<()>,
    /// How often our own records were not as they were written.
    pub(crate) put_back: AtomicU64,
}

impl std::ops::Deref for Hub {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Hub {
    pub(crate) fn new(config: EtcdConfig, endpoints: Endpoints, keys: Keys) -> Result<Self, Error> {
        let members = Members::new(&config, endpoints)?;
        Ok(Self(Arc::new(Shared {
            config,
            keys,
            members,
            taps: Arc::default(),
            keeper: Arc::default(),
            lists: Semaphore::new(LISTS),
            driven: Mutex::default(),
            put_back: AtomicU64::new(0),
        })))
    }
}

impl Drive for Hub {
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(self.run())
    }
}

impl Shared {
    /// One link after the other, until none can be had, or only for a moment.
    async fn run(&self) -> Error {
        let _driven = self.driven.lock().await;
        let _cut = CutWhenDropped(&self.taps);
        loop {
            let link = match self.members.link().await {
                Ok(link) => link,
                Err(error) => {
                    // Those that wait for a stream learn why there is none.
                    let error = Arc::new(error);
                    self.taps.cut(&error, true);
                    return errors::again("connecting to etcd", &error);
                }
            };
            let began = Instant::now();
            let error = Arc::new(self.use_link(&link).await);
            link.suspect();
            tracing::debug!(member = %link.address, error = %ErrorChain(&*error), "etcd link lost");
            // What waiting cannot mend is told also to those that wait for a stream.
            self.taps.cut(&error, !error.kind().is_transient());
            if began.elapsed() < STEADY || !error.kind().is_transient() {
                return errors::again(format!("using {}", link.address), &error);
            }
        }
    }

    async fn use_link(&self, link: &Link) -> Error {
        tokio::select! {
            error = self.watch(link) => error,
            error = self.keeper.run(link, &self.members) => error,
            () = link.lost() => Error::unavailable(format!("{} stopped answering", link.address)),
            () = self.members.left(link) => Error::unavailable(format!("{} is no endpoint any more", link.address)),
            () = self.sync_members() => Error::unavailable("members were read"),
        }
    }

    /// The watch stream. While etcd refuses our password nothing is watched, but the link stays: the leases
    /// are kept on where etcd lets us.
    async fn watch(&self, link: &Link) -> Error {
        loop {
            let error = watching::run(&self.taps, link, &self.members).await;
            if error.kind() != ErrorKind::Denied {
                return error;
            }
            self.taps.cut(&Arc::new(error), true);
            if let Err(error) = self.members.admitted(link, self.members.token_number()).await {
                return error;
            }
        }
    }

    /// Never returns.
    async fn sync_members(&self) {
        if !self.config.sync_members {
            future::pending::<()>().await;
        }
        loop {
            if let Err(failure) = self.members.sync().await {
                let error = failure.into_error("reading the members of the cluster");
                tracing::debug!(error = %ErrorChain(&error), "members not read");
            }
            time::sleep(random::around(SYNC_EVERY)).await;
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("members", &self.members).finish_non_exhaustive()
    }
}

/// When the drive is dropped its streams are gone: their taps must not wait for them.
struct CutWhenDropped<'a>(&'a Taps);

impl Drop for CutWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.cut(&Arc::new(Error::unavailable("the watch stream is no longer driven")), false);
    }
}
