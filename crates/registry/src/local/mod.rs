//! The embedded registry: a directory on this machine, no server.
//!
//! Every instance is a file that its process holds under a lock; the kernel lets go of it when the process
//! dies, and every reader of the directory sees that within a millisecond. One thread per backend looks at
//! the files, and only while somebody watches; it never blocks the runtime.

mod catalog;
mod config;
mod eyes;
mod file_system;
mod folder;
mod held;
mod hub;
mod look;
mod place;
mod process;
mod pulse;
mod record;
mod records;
mod watcher;

pub use config::LocalConfig;

use std::{
    fmt, io,
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use meshwork_core::{Announcer, Backend, BoxFuture, Changes, Drive, Error, Instance, Parts, Query, Source};
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::{Driven, DriverOptions, catalog::SharedCatalog};

use held::{Held, announce};
use hub::{Hub, Topic};
use place::Place;
use pulse::Pulse;
use watcher::Watcher;

/// The embedded registry `local`: a directory on this machine that all processes of one user share.
///
/// `<dir>/<env>/<service>/<id>.json` is one instance: a line that measures the record, then the record
/// itself, as `cat` and `jq` read it. Its process holds the file under a lock; a file that nobody holds is
/// dead, and whoever watches removes it. Clones share the watch thread. Unix only; deaths are seen within
/// milliseconds where the system has inotify, else within 1.2 s.
///
/// ```
/// use meshwork_core::Backend;
/// use meshwork_registry::Local;
/// let parts = Local::new().open()?;
/// assert!(parts.registry.is_some() && parts.discovery.is_some());
/// # Ok::<(), meshwork_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Local {
    config: Arc<LocalConfig>,
    place: Arc<Place>,
    hub: Arc<Hub>,
    /// Whoever holds it drives.
    turn: Arc<tokio::sync::Mutex<()>>,
    pulse: Pulse,
}

/// What a process holds for one registration: its file, and when it is due to be touched.
#[derive(Debug)]
pub struct LocalClaim {
    slot: Arc<Mutex<Slot>>,
    /// Not in the slot, which file work may hold for long.
    due: Arc<Mutex<Instant>>,
}

/// Where file work notes what it made. Work that goes on after its caller was cut finds here whether the
/// claim was released meanwhile.
#[derive(Debug, Default)]
struct Slot {
    held: Option<Held>,
    released: bool,
}

impl Local {
    /// In the default directory with default settings; see [`LocalConfig`].
    pub fn new() -> Self {
        Self::with_config(LocalConfig::default())
    }

    /// In `dir`, with default settings.
    pub fn at(dir: impl AsRef<Path>) -> Self {
        Self::with_config(LocalConfig { dir: Some(dir.as_ref().to_owned()), ..LocalConfig::default() })
    }

    /// With these settings; they are judged by `open`.
    pub fn with_config(config: LocalConfig) -> Self {
        let place = Arc::new(Place::new(&config));
        let (hub, turn, pulse) = Default::default();
        Self { config: Arc::new(config), place, hub, turn, pulse }
    }

    /// The directory it uses.
    pub fn dir(&self) -> &Path {
        self.place.root()
    }

    /// Whether changes are found by looking once a second, because it was asked for or because the system
    /// gives no inotify events; false while nothing is watched yet.
    pub fn is_polling(&self) -> bool {
        self.hub.is_polling()
    }

    fn env<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        named.filter(|env| !env.is_empty()).unwrap_or(&self.config.env)
    }

    /// Does file work on what `claim` notes, away from the runtime.
    async fn work<T: Send + 'static>(
        &self,
        claim: &LocalClaim,
        job: impl FnOnce(&mut Option<Held>, &Place) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (slot, place) = (Arc::clone(&claim.slot), Arc::clone(&self.place));
        let done = spawn_blocking(move || {
            let mut slot = locked(&slot);
            if slot.released {
                return Err(Error::unavailable("the claim was released meanwhile"));
            }
            job(&mut slot.held, &place)
        });
        done.await.unwrap_or_else(|e| Err(Error::unavailable("file work was cut").with_source(e)))
    }

    fn start_thread(&self) -> io::Result<(Running, oneshot::Receiver<()>)> {
        let (ours, bell) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        self.hub.hang(ours);
        let stop = Arc::new(AtomicBool::new(false));
        let how = (self.config.ttl, self.config.poll);
        let watcher =
            Watcher::new(Arc::clone(&self.hub), Arc::clone(&self.place), how, bell, Arc::clone(&stop));
        let (alive, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("meshwork-local".to_owned()).spawn(move || {
            let _alive = alive;
            watcher.run();
        })?;
        Ok((Running { hub: Arc::clone(&self.hub), stop }, ended))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LocalClaim {
    fn new() -> Self {
        Self { slot: Arc::default(), due: Arc::new(Mutex::new(Instant::now())) }
    }
}

/// Owns the watch thread: dropping it ends the thread.
struct Running {
    hub: Arc<Hub>,
    stop: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.hub.ring();
    }
}

// === impl Local ===

impl Backend for Local {
    fn open(&self) -> Result<Parts, Error> {
        self.config.check()?;
        let mut options = DriverOptions::default().with_ttl(self.config.heartbeat * 3);
        // There is no server to spare: whoever is lost comes back at once.
        options.healing.own_loss = Duration::from_millis(100);
        options.healing.cap = Duration::from_secs(1);
        // A lock outlives a pause, and the next beat finds whatever else happened.
        options.heeds_pauses = false;
        let driven = Driven::new(self.clone(), options);
        let how = if self.config.poll { ", looking once a second" } else { "" };
        let whose = if self.config.shared { ", shared between users" } else { "" };
        let description = format!("local directory {}{whose}{how}", self.place.root().display());
        let (config, place) = (Arc::clone(&self.config), Arc::clone(&self.place));
        let services = SharedCatalog::new("local catalog", move |writer| {
            catalog::follow(writer, Arc::clone(&config), Arc::clone(&place))
        });
        let parts =
            Parts::new(description).with_registry(driven.registry()).with_discovery(driven.discovery());
        Ok(parts.with_catalog(Arc::new(services)))
    }
}

impl Drive for Local {
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            // A process that only announces needs no thread.
            self.hub.seated().await;
            let failed = || Error::unavailable("watching the local registry");
            let (_running, ended) = match self.start_thread() {
                Ok(started) => started,
                Err(error) => {
                    self.hub.fail(failed);
                    return failed().with_source(error);
                }
            };
            drop(ended.await);
            self.hub.fail(failed);
            failed()
        })
    }
}

impl Source for Local {
    fn subscribe(&self, query: &Query) -> Changes {
        let checked = query.only(&[]).and_then(|()| config::check_env(self.env(query.env())));
        let topic = Topic { env: self.env(query.env()).into(), service: query.service().clone() };
        let hub = Arc::clone(&self.hub);
        Box::pin(futures_util::stream::unfold(Some(Next::Start(checked)), move |next| {
            let (hub, topic) = (Arc::clone(&hub), topic.clone());
            async move {
                let seat = match next? {
                    Next::Start(Err(error)) => return Some((Err(error), None)),
                    Next::Start(Ok(())) => hub.join(topic),
                    Next::Seated(seat) => seat,
                };
                match seat.next().await {
                    Ok(change) => Some((Ok(change), Some(Next::Seated(seat)))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        }))
    }
}

/// How a subscription goes on.
enum Next {
    Start(Result<(), Error>),
    Seated(hub::Seat),
}

impl Announcer for Local {
    type Claim = LocalClaim;

    async fn claim(&self, instance: &Instance, claim: &mut Option<LocalClaim>) -> Result<(), Error> {
        let claim = claim.get_or_insert_with(LocalClaim::new);
        let (env, wanted) = (self.env(Some(&instance.env)).to_owned(), instance.clone());
        let work = self.work(claim, move |held, place| {
            let new = announce(place, &env, &wanted, held.as_ref())?;
            // The old one ends after the new one stands; only under another name is there still a file.
            if let Some(old) = held.replace(new) {
                old.remove(place);
            }
            Ok(())
        });
        work.await?;
        *locked(&claim.due) = Instant::now() + self.config.heartbeat;
        Ok(())
    }

    async fn hold(&self, claim: &mut LocalClaim) -> Error {
        let (slot, due, place) = (Arc::clone(&claim.slot), Arc::clone(&claim.due), Arc::clone(&self.place));
        let (first, heartbeat) = (*locked(&due), self.config.heartbeat);
        let beat = move || {
            match &locked(&slot).held {
                Some(held) => held.beat(&place)?,
                None => return Err(Error::unavailable("nothing is announced")),
            }
            let next = Instant::now() + heartbeat;
            *locked(&due) = next;
            Ok(next)
        };
        self.pulse.keep(first, beat).await
    }

    async fn update(&self, claim: &mut LocalClaim, instance: &Instance) -> Result<(), Error> {
        let (env, wanted) = (self.env(Some(&instance.env)).to_owned(), instance.clone());
        let work = self.work(claim, move |held, place| match held {
            Some(held) => held.rewrite(place, &env, &wanted),
            None => Err(Error::unavailable("nothing is announced")),
        });
        work.await
    }

    async fn release(&self, claim: LocalClaim) -> Result<(), Error> {
        let (slot, place) = (claim.slot, Arc::clone(&self.place));
        let done = spawn_blocking(move || {
            let mut slot = locked(&slot);
            slot.released = true;
            if let Some(held) = slot.held.take() {
                held.remove(&place);
            }
        });
        done.await.map_err(|e| Error::unavailable("removing a record was cut").with_source(e))
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

impl From<LocalConfig> for Local {
    fn from(config: LocalConfig) -> Self {
        Self::with_config(config)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("dir", &self.place.root()).field("config", &self.config).finish()
    }
}
