//! One watched directory: opening and watching it, looking at its files, telling its subscribers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork_core::{Change, Decoder, Error, InstanceId, Refusal, RefusalKind};
use rustix::io::Errno;

use super::{
    eyes::Eyes,
    held::{LEFT, MARKED, SUFFIX, UNFINISHED},
    hub::{Mailbox, Topic},
    look::{bury, look},
    place::{Ground, Place, Shelf, fault},
    process::Process,
    records::{Hint, News, Records, Step},
};

/// The most records of one service.
const MAX_RECORDS: usize = 20_000;
/// The most files with impossible names that are told about.
const MAX_STRAYS: usize = 256;

/// What every look needs.
pub(super) struct Tools {
    pub(super) decoder: Decoder,
    pub(super) buffer: Vec<u8>,
    pub(super) ttl: Duration,
}

/// One watched directory.
pub(super) struct Folder {
    pub(super) topic: Topic,
    ground: Option<Ground>,
    pub(super) watch: Option<i32>,
    records: Records,
    strays: BTreeMap<String, Refusal>,
    pub(super) listeners: Vec<Listener>,
    pub(super) again: BTreeMap<InstanceId, Instant>,
    pub(super) sweep: Instant,
    /// Whether it was swept once, so that the records are a complete set.
    read: bool,
    pub(super) lost: Option<Instant>,
}

/// One subscriber of a directory.
pub(super) struct Listener {
    pub(super) mailbox: Arc<Mailbox>,
    /// Whether it was given a complete set.
    pub(super) told: bool,
}

/// Why a directory cannot be watched.
pub(super) enum Trouble {
    /// The directory is not as it should be.
    Dir(Error),
    /// The system watches no more directories.
    Eyes(Errno),
}

impl Folder {
    pub(super) fn new(topic: Topic) -> Self {
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
    pub(super) fn open(&mut self, place: &Place, eyes: Option<&Eyes>) -> Result<Shelf, Trouble> {
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
    pub(super) fn reach(&mut self, eyes: Option<&Eyes>) -> Option<Shelf> {
        let shelf = self.ground.as_ref().and_then(Ground::open);
        if shelf.is_none() {
            self.close(eyes);
        }
        shelf
    }

    /// Lets go of a directory that is no longer the one; it is opened anew at once.
    pub(super) fn close(&mut self, eyes: Option<&Eyes>) {
        if let (Some(eyes), Some(watch)) = (eyes, self.watch.take()) {
            eyes.forget(watch);
        }
        self.ground = None;
        self.sweep = Instant::now();
    }

    /// Looks at everything in the directory.
    pub(super) fn sweep(&mut self, shelf: &Shelf, tools: &mut Tools) -> Result<(), Error> {
        let names = shelf
            .names()
            .map_err(|e| fault(format!("listing `{}`", shelf.path.display()), e, &shelf.path))?;
        let mut news = News::default();
        let mut ids: BTreeSet<InstanceId> = self.records.ids().cloned().collect();
        let mut strays = BTreeMap::new();
        for name in names {
            if [UNFINISHED, LEFT, MARKED].iter().any(|passing| name.starts_with(passing)) {
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
    pub(super) fn touch(&mut self, shelf: &Shelf, names: &BTreeMap<String, bool>, tools: &mut Tools) {
        let mut hints: BTreeMap<InstanceId, Hint> = BTreeMap::new();
        for (name, closed) in names {
            let (id, hint) = if let Some(id) = name.strip_prefix(MARKED) {
                (id, Hint::Marked)
            } else if let Some(id) = name.strip_prefix(LEFT) {
                (id, Hint::Left)
            } else if let Some(id) = name.strip_suffix(SUFFIX) {
                (id, if *closed { Hint::Closed } else { Hint::Due })
            } else {
                continue;
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

    pub(super) fn look(
        &mut self,
        shelf: &Shelf,
        id: &InstanceId,
        hint: Hint,
        tools: &mut Tools,
        news: &mut News,
    ) {
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

    pub(super) fn deliver(&self, news: News) {
        let changes = news.into_changes();
        if changes.is_empty() {
            return;
        }
        for listener in self.listeners.iter().filter(|listener| listener.told) {
            listener.mailbox.deliver(&changes, || self.all());
        }
    }

    /// Gives a complete set to those who have none yet.
    pub(super) fn tell(&mut self) {
        if !self.read || self.listeners.iter().all(|listener| listener.told) {
            return;
        }
        let all = self.all();
        for listener in self.listeners.iter_mut().filter(|listener| !listener.told) {
            listener.told = true;
            listener.mailbox.deliver(&all, || all.clone());
        }
    }

    pub(super) fn fail(&self, error: Error) {
        let (kind, text) = (error.kind(), error.to_string());
        let mut error = Some(error);
        for Listener { mailbox, .. } in &self.listeners {
            mailbox.fail(error.take().unwrap_or_else(|| Error::new(kind, text.clone())));
        }
    }
}
