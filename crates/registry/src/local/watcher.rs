//! The one watch thread of a backend: it looks at records when events, re-looks or sweeps are due, and
//! delivers what changed to the seats.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use meshwork_core::{Decoder, ErrorKind, InstanceId};
use rustix::io::Errno;

use super::{
    eyes::{Eyes, Sight, wait},
    folder::{Folder, Listener, Tools, Trouble},
    hub::{Hub, Mailbox, Topic},
    place::Place,
    records::{Hint, News},
};

/// How often everything is looked at where no events come.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How often events are asked for again after the system gave none.
const EYES_AGAIN: Duration = Duration::from_secs(30);
/// How soon, and how long, a directory that vanished is made again before its subscribers hear of it.
const REOPEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The state of the watch thread.
pub(super) struct Watcher {
    hub: Arc<Hub>,
    place: Arc<Place>,
    ttl: Duration,
    /// Whether to look only.
    poll: bool,
    bell: UnixStream,
    stop: Arc<AtomicBool>,
    eyes: Option<Eyes>,
    eyes_due: Instant,
    folders: HashMap<Topic, Folder>,
    tools: Tools,
    sights: Vec<Sight>,
}

impl Watcher {
    pub(super) fn new(
        hub: Arc<Hub>,
        place: Arc<Place>,
        (ttl, poll): (Duration, bool),
        bell: UnixStream,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let tools = Tools { decoder: Decoder::default(), buffer: Vec::new(), ttl };
        let (eyes_due, folders) = (Instant::now(), HashMap::new());
        Self { hub, place, ttl, poll, bell, stop, eyes: None, eyes_due, folders, tools, sights: Vec::new() }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.open_eyes();
            self.seat();
            self.sweep_due();
            self.look_again();
            let within = self.rest();
            wait(self.eyes.as_ref(), &mut self.bell, within);
            if !self.stop.load(Ordering::Relaxed) {
                self.take_events();
            }
        }
    }

    fn open_eyes(&mut self) {
        if self.poll {
            self.hub.set_polling(true);
            return;
        }
        let now = Instant::now();
        if self.eyes.is_some() || now < self.eyes_due {
            return;
        }
        match Eyes::open() {
            Ok(eyes) => {
                self.eyes = Some(eyes);
                for folder in self.folders.values_mut() {
                    folder.sweep = now;
                }
            }
            Err(error) => self.close_eyes(error),
        }
    }

    /// No events: everything is looked at once a second instead.
    fn close_eyes(&mut self, cause: Errno) {
        self.eyes = None;
        self.eyes_due = Instant::now() + EYES_AGAIN;
        for folder in self.folders.values_mut() {
            folder.watch = None;
            folder.sweep = Instant::now();
        }
        if !self.hub.set_polling(true) {
            let error = std::io::Error::from(cause);
            tracing::warn!(dir = %self.place.root().display(), %error,
                "no inotify for the local registry: looking once a second, so a death is seen up to 1.2 s \
                 later; raise fs.inotify.max_user_instances and max_user_watches");
        }
    }

    /// Gives every new subscriber a complete set, and forgets those who left.
    fn seat(&mut self) {
        if !self.hub.take_rung() {
            return;
        }
        let seats = self.hub.seats();
        let seated: HashSet<*const Mailbox> = seats.iter().map(|(_, mailbox)| Arc::as_ptr(mailbox)).collect();
        for folder in self.folders.values_mut() {
            folder.listeners.retain(|listener| seated.contains(&Arc::as_ptr(&listener.mailbox)));
        }
        for (topic, mailbox) in seats {
            let folder = self.folders.entry(topic.clone()).or_insert_with(|| Folder::new(topic));
            if !folder.listeners.iter().any(|known| Arc::ptr_eq(&known.mailbox, &mailbox)) {
                folder.listeners.push(Listener { mailbox, told: false });
                folder.tell();
            }
        }
        let eyes = self.eyes.as_ref();
        self.folders.retain(|_, folder| {
            if let (true, Some(eyes), Some(watch)) = (folder.listeners.is_empty(), eyes, folder.watch) {
                eyes.forget(watch);
            }
            !folder.listeners.is_empty()
        });
    }

    fn sweep_due(&mut self) {
        let due: Vec<Topic> = {
            let now = Instant::now();
            let due = self.folders.values().filter(|folder| folder.sweep <= now);
            due.map(|folder| folder.topic.clone()).collect()
        };
        for topic in due {
            let started = Instant::now();
            let Some(folder) = self.folders.get_mut(&topic) else { continue };
            let opened = folder.open(&self.place, self.eyes.as_ref());
            match opened.and_then(|shelf| folder.sweep(&shelf, &mut self.tools).map_err(Trouble::Dir)) {
                Ok(()) => {
                    let every = if self.eyes.is_some() { self.ttl / 2 } else { POLL_EVERY };
                    folder.sweep = started + every;
                    folder.lost = None;
                }
                Err(Trouble::Eyes(error)) => self.close_eyes(error),
                Err(Trouble::Dir(error)) => {
                    let since = *folder.lost.get_or_insert(started);
                    let is_passing = error.kind() == ErrorKind::Unavailable
                        && started.saturating_duration_since(since) < REOPEN.1;
                    folder.close(self.eyes.as_ref());
                    folder.sweep = started + REOPEN.0;
                    if !is_passing {
                        folder.fail(error);
                        self.folders.remove(&topic);
                    }
                }
            }
        }
        let is_watching = self.eyes.is_some() && self.folders.values().all(|folder| folder.watch.is_some());
        if is_watching && self.hub.set_polling(false) {
            tracing::info!(dir = %self.place.root().display(), "inotify for the local registry is back");
        }
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        for folder in self.folders.values_mut() {
            let due: Vec<InstanceId> =
                folder.again.iter().filter(|(_, at)| **at <= now).map(|(id, _)| id.clone()).collect();
            if due.is_empty() {
                continue;
            }
            let Some(shelf) = folder.reach(self.eyes.as_ref()) else { continue };
            let mut news = News::default();
            for id in due {
                folder.again.remove(&id);
                folder.look(&shelf, &id, Hint::Due, &mut self.tools, &mut news);
            }
            folder.deliver(news);
        }
    }

    fn take_events(&mut self) {
        let Some(eyes) = &mut self.eyes else { return };
        if let Err(error) = eyes.read(&mut self.sights) {
            self.close_eyes(error);
            return;
        }
        let mut touched: HashMap<i32, BTreeMap<String, bool>> = HashMap::new();
        let mut lost = BTreeSet::new();
        for sight in self.sights.drain(..) {
            match sight {
                Sight::Touched { watch, name, closed } => {
                    *touched.entry(watch).or_default().entry(name).or_default() |= closed;
                }
                Sight::Lost { watch } => drop(lost.insert(watch)),
                Sight::Overflow => {
                    tracing::info!("inotify overflowed: all records of the local registry are read again");
                    for folder in self.folders.values_mut() {
                        folder.sweep = Instant::now();
                    }
                }
            }
        }
        for folder in self.folders.values_mut() {
            let Some(watch) = folder.watch else { continue };
            if let Some(names) = touched.remove(&watch) {
                match folder.reach(self.eyes.as_ref()) {
                    Some(shelf) => folder.touch(&shelf, &names, &mut self.tools),
                    None => continue,
                }
            }
            if lost.contains(&watch) {
                folder.close(self.eyes.as_ref());
            }
        }
    }

    /// How long nothing is due.
    fn rest(&self) -> Duration {
        let dues = self.folders.values().flat_map(|folder| folder.again.values().chain([&folder.sweep]));
        let next = dues.chain((!self.poll && self.eyes.is_none()).then_some(&self.eyes_due)).min();
        next.map_or(EYES_AGAIN, |next| next.saturating_duration_since(Instant::now()))
    }
}
