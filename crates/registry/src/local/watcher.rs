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

use meshwork_core::{Change, Decoder, Error, ErrorKind, InstanceId, Refusal, RefusalKind};
use rustix::io::Errno;

use super::{
    eyes::{Eyes, Sight, wait},
    held::{LEFT, SUFFIX, UNFINISHED},
    hub::{Hub, Mailbox, Topic},
    look::{bury, look},
    place::{Ground, Place, Shelf, fault},
    process::Process,
    records::{Hint, News, Records, Step},
};

/// How often everything is looked at where no events come.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How often events are asked for again after the system gave none.
const EYES_AGAIN: Duration = Duration::from_secs(30);
/// How soon, and how long, a directory that vanished is made again before its subscribers hear of it.
const REOPEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The most records of one service.
const MAX_RECORDS: usize = 20_000;
/// The most files with impossible names that are told about.
const MAX_STRAYS: usize = 256;

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

/// What every look needs.
struct Tools {
    decoder: Decoder,
    buffer: Vec<u8>,
    ttl: Duration,
}

/// One watched directory.
struct Folder {
    topic: Topic,
    ground: Option<Ground>,
    watch: Option<i32>,
    records: Records,
    strays: BTreeMap<String, Refusal>,
    listeners: Vec<Listener>,
    again: BTreeMap<InstanceId, Instant>,
    sweep: Instant,
    /// Whether it was swept once, so that the records are a complete set.
    read: bool,
    lost: Option<Instant>,
}

/// One subscriber of a directory.
struct Listener {
    mailbox: Arc<Mailbox>,
    /// Whether it was given a complete set.
    told: bool,
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

/// Why a directory cannot be watched.
enum Trouble {
    /// The directory is not as it should be.
    Dir(Error),
    /// The system watches no more directories.
    Eyes(Errno),
}

impl Folder {
    fn new(topic: Topic) -> Self {
        Self {
            topic,
            ground: None,
            watch: None,
            records: Records::default(),
            strays: BTreeMap::new(),
            listeners: Vec::new(),
            again: BTreeMap::new(),
            sweep: Instant::now(),
            read: false,
            lost: None,
        }
    }

    /// Opens the directory, and watches it unless that is so already.
    fn open(&mut self, place: &Place, eyes: Option<&Eyes>) -> Result<Shelf, Trouble> {
        let shelf = match self.reach(eyes) {
            Some(shelf) => shelf,
            None => place.shelf(&self.topic.env, &self.topic.service).map_err(Trouble::Dir)?,
        };
        self.ground.get_or_insert_with(|| shelf.ground());
        if let (Some(eyes), None) = (eyes, self.watch) {
            match eyes.watch(&shelf.path) {
                Ok(watch) => self.watch = Some(watch),
                Err(error @ (Errno::NOSPC | Errno::NOMEM | Errno::MFILE | Errno::NFILE)) => {
                    return Err(Trouble::Eyes(error));
                }
                Err(error) => {
                    let doing = format!("watching `{}`", shelf.path.display());
                    return Err(Trouble::Dir(fault(doing, error, &shelf.path)));
                }
            }
        }
        Ok(shelf)
    }

    /// Opens the known directory; when it is no longer there, a sweep finds out what is.
    fn reach(&mut self, eyes: Option<&Eyes>) -> Option<Shelf> {
        let shelf = self.ground.as_ref().and_then(Ground::open);
        if shelf.is_none() {
            self.close(eyes);
        }
        shelf
    }

    /// Lets go of a directory that is no longer the one; it is opened anew at once.
    fn close(&mut self, eyes: Option<&Eyes>) {
        if let (Some(eyes), Some(watch)) = (eyes, self.watch.take()) {
            eyes.forget(watch);
        }
        self.ground = None;
        self.sweep = Instant::now();
    }

    /// Looks at everything in the directory.
    fn sweep(&mut self, shelf: &Shelf, tools: &mut Tools) -> Result<(), Error> {
        let names = shelf
            .names()
            .map_err(|e| fault(format!("listing `{}`", shelf.path.display()), e, &shelf.path))?;
        let mut news = News::default();
        let mut ids: BTreeSet<InstanceId> = self.records.ids().cloned().collect();
        let mut strays = BTreeMap::new();
        for name in names {
            if name.starts_with(UNFINISHED) || name.starts_with(LEFT) {
                bury(shelf, &name);
                continue;
            }
            let Some(stem) = name.strip_suffix(SUFFIX) else { continue };
            let reason = match InstanceId::new(stem) {
                Ok(id) if ids.len() < MAX_RECORDS || ids.contains(&id) => {
                    ids.insert(id);
                    continue;
                }
                Ok(_) => Refusal::new(RefusalKind::TooLarge, format!("more than {MAX_RECORDS} records")),
                Err(error) => Refusal::new(RefusalKind::Misplaced, error.to_string()),
            };
            if strays.len() < MAX_STRAYS {
                if self.strays.get(&name) != Some(&reason) {
                    news.refused(None, &shelf.path.join(&name).to_string_lossy(), reason.clone());
                }
                strays.insert(name, reason);
            }
        }
        self.strays = strays;
        for id in ids {
            self.look(shelf, &id, Hint::Due, tools, &mut news);
        }
        self.read = true;
        self.deliver(news);
        self.tell();
        Ok(())
    }

    /// Looks at files that changed.
    fn touch(&mut self, shelf: &Shelf, names: &BTreeMap<String, bool>, tools: &mut Tools) {
        let mut hints: BTreeMap<InstanceId, Hint> = BTreeMap::new();
        for (name, closed) in names {
            let (id, hint) = match (name.strip_suffix(SUFFIX), name.strip_prefix(LEFT)) {
                (_, Some(id)) => (id, Hint::Left),
                (Some(id), None) => (id, if *closed { Hint::Closed } else { Hint::Due }),
                (None, None) => continue,
            };
            if let Ok(id) = InstanceId::new(id) {
                let known = hints.entry(id).or_insert(hint);
                *known = hint.max(*known);
            }
        }
        let mut news = News::default();
        for (id, hint) in hints {
            self.look(shelf, &id, hint, tools, &mut news);
        }
        self.deliver(news);
    }

    fn look(&mut self, shelf: &Shelf, id: &InstanceId, hint: Hint, tools: &mut Tools, news: &mut News) {
        let name = format!("{id}{SUFFIX}");
        let place = shelf.path.join(&name);
        let found = look(shelf, &name, &mut tools.buffer);
        let mut step = Step {
            now: Instant::now(),
            service: &self.topic.service,
            place: &place.to_string_lossy(),
            hint,
            ttl: tools.ttl,
            decoder: &mut tools.decoder,
            life: &Process::life,
        };
        let then = self.records.see(id, found, &mut step, news);
        if then.bury && bury(shelf, &name) {
            tracing::info!(service = %self.topic.service, instance = %id,
                "removed the record of a process that is gone");
        }
        if let Some(after) = then.again {
            self.again.insert(id.clone(), Instant::now() + after);
        }
    }

    /// Refusals and the complete set.
    fn all(&self) -> Vec<Change> {
        let path = self.ground.as_ref().map(|ground| ground.path.clone()).unwrap_or_default();
        let mut news = News::default();
        for (name, reason) in &self.strays {
            news.refused(None, &path.join(name).to_string_lossy(), reason.clone());
        }
        for (id, reason) in self.records.complaints() {
            let place = path.join(format!("{id}{SUFFIX}"));
            news.refused(Some(id.clone()), &place.to_string_lossy(), reason.clone());
        }
        let mut changes = news.into_changes();
        changes.push(Change::Set(self.records.instances()));
        changes
    }

    fn deliver(&self, news: News) {
        let changes = news.into_changes();
        if changes.is_empty() {
            return;
        }
        for listener in self.listeners.iter().filter(|listener| listener.told) {
            listener.mailbox.deliver(&changes, || self.all());
        }
    }

    /// Gives a complete set to those who have none yet.
    fn tell(&mut self) {
        if !self.read || self.listeners.iter().all(|listener| listener.told) {
            return;
        }
        let all = self.all();
        for listener in self.listeners.iter_mut().filter(|listener| !listener.told) {
            listener.told = true;
            listener.mailbox.deliver(&all, || all.clone());
        }
    }

    fn fail(&self, error: Error) {
        let (kind, text) = (error.kind(), error.to_string());
        let mut error = Some(error);
        for Listener { mailbox, .. } in &self.listeners {
            mailbox.fail(error.take().unwrap_or_else(|| Error::new(kind, text.clone())));
        }
    }
}
