//! What a reader knows of one service's records: a step per look, without any I/O of its own.
//!
//! The last good record of an id stands while its owner lives, whatever else its file says meanwhile.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork_core::{Change, Decoder, Instance, InstanceId, Refusal, RefusalKind, ServiceName, Status};

use super::{
    look::Look,
    place::FileId,
    process::{Life, Process},
    record::{Flaw, Framed},
};

/// How long the record of a living owner may be absent before it counts as removed: two beats and the
/// announcing again.
const RETURN: Duration = Duration::from_secs(3);
/// How long a record may be torn before that is told.
const TORN: Duration = Duration::from_secs(1);
/// The first and the longest time until a torn record is read again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));
/// When a closed file that somebody holds is looked at again: a reader that buries it may hold it.
const CLOSED_AGAIN: Duration = Duration::from_millis(20);

/// All records of one service.
#[derive(Debug, Default)]
pub(super) struct Records {
    known: BTreeMap<InstanceId, Known>,
}

/// What made us look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hint {
    /// It was time, or the file changed.
    Due,
    /// The file was closed by one who had opened it for writing.
    Closed,
    /// Its owner took it away.
    Left,
    /// Its owner took it away after a last record that said `leaving`, which may be seen too late.
    Marked,
}

/// What a step needs beside the look.
pub(super) struct Step<'a> {
    pub(super) now: Instant,
    /// The service whose directory it is.
    pub(super) service: &'a ServiceName,
    /// Where the record stands.
    pub(super) place: &'a str,
    /// What is known beside the look.
    pub(super) hint: Hint,
    pub(super) ttl: Duration,
    pub(super) decoder: &'a mut Decoder,
    pub(super) life: &'a dyn Fn(&Process) -> Life,
}

/// What to do after a step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Then {
    /// The file is a dead one of ours: remove it.
    pub(super) bury: bool,
    /// Look again after this.
    pub(super) again: Option<Duration>,
}

/// What changed, in order.
#[derive(Debug, Default)]
pub(super) struct News {
    changes: Vec<Change>,
    put: BTreeMap<InstanceId, Arc<Instance>>,
    removed: Vec<InstanceId>,
}

#[derive(Debug)]
struct Known {
    instance: Option<Arc<Instance>>,
    sum: Option<u64>,
    writer: Option<Process>,
    pulse: Option<(FileId, (i64, i64))>,
    pulse_since: Instant,
    /// Its process is gone, and somebody else holds its lock.
    forsaken: bool,
    torn: Option<(Instant, Duration)>,
    missing: Option<Instant>,
    complaint: Option<Refusal>,
}

impl Records {
    /// The last good records, sorted by id.
    pub(super) fn instances(&self) -> Vec<Arc<Instance>> {
        self.known.values().filter_map(|known| known.instance.clone()).collect()
    }

    /// Why records are not taken now.
    pub(super) fn complaints(&self) -> impl Iterator<Item = (&InstanceId, &Refusal)> {
        self.known.iter().filter_map(|(id, known)| Some((id, known.complaint.as_ref()?)))
    }

    /// All ids that were seen, with or without a good record.
    pub(super) fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.known.keys()
    }

    /// Takes one look at the file of `id`.
    pub(super) fn see(
        &mut self,
        id: &InstanceId,
        look: Look<'_>,
        step: &mut Step<'_>,
        news: &mut News,
    ) -> Then {
        match look {
            Look::Blind(error) => {
                tracing::debug!(record = step.place, %error, "looking at a record failed");
                Then { again: Some(AGAIN.1), ..Then::default() }
            }
            Look::Gone => self.gone(id, step, news),
            Look::Dead { ours: true } => {
                self.remove(id, news);
                Then { bury: true, again: None }
            }
            Look::Dead { ours: false } => {
                self.forsake(id, news);
                self.complain(id, step, no_record("nobody holds it, and it is none of ours"), news);
                Then::default()
            }
            Look::Refused(refusal) => {
                self.complain(id, step, refusal, news);
                self.displaced(id, step, news)
            }
            Look::Held { file, beat, content } => self.held(id, (file, beat), content, step, news),
        }
    }

    fn gone(&mut self, id: &InstanceId, step: &Step<'_>, news: &mut News) -> Then {
        let Some(known) = self.known.get_mut(id) else { return Then::default() };
        let is_leaving = known.instance.as_ref().is_none_or(|instance| instance.status == Status::Leaving);
        let lives = || known.writer.is_some_and(|writer| (step.life)(&writer) == Life::Lives);
        let since = *known.missing.get_or_insert(step.now);
        let waited = step.now.saturating_duration_since(since);
        // Deleted by hand: its owner brings it back.
        let has_left = step.hint >= Hint::Left;
        if !has_left && !is_leaving && waited < RETURN && lives() {
            return Then { bury: false, again: Some(RETURN.saturating_sub(waited).max(AGAIN.0)) };
        }
        if step.hint == Hint::Marked
            && let Some(last) = known.instance.as_ref().filter(|last| last.status != Status::Leaving)
        {
            let mut last = Instance::clone(last);
            last.status = Status::Leaving;
            news.put(Arc::new(last));
        }
        self.remove(id, news);
        Then::default()
    }

    /// Something else stands where the record stood: its owner puts it back, if it lives.
    fn displaced(&mut self, id: &InstanceId, step: &Step<'_>, news: &mut News) -> Then {
        let Some(known) = self.known.get_mut(id).filter(|known| known.instance.is_some()) else {
            return Then::default();
        };
        let since = *known.missing.get_or_insert(step.now);
        let waited = step.now.saturating_duration_since(since);
        let life = known.writer.map_or(Life::Unknown, |writer| (step.life)(&writer));
        if life == Life::Gone || (life == Life::Unknown && waited >= RETURN) {
            self.forsake(id, news);
            return Then::default();
        }
        Then { bury: false, again: Some(RETURN) }
    }

    fn held(
        &mut self,
        id: &InstanceId,
        pulse: (FileId, (i64, i64)),
        content: Result<Framed<'_>, Flaw>,
        step: &mut Step<'_>,
        news: &mut News,
    ) -> Then {
        let known = self.known.entry(id.clone()).or_insert_with(|| Known::new(step.now));
        known.missing = None;
        if known.pulse != Some(pulse) {
            known.pulse = Some(pulse);
            known.pulse_since = step.now;
            known.forsaken = false;
        } else if known.forsaken {
            return Then::default();
        } else if step.now.saturating_duration_since(known.pulse_since) > step.ttl {
            let writer = known.writer.or(content.as_ref().ok().map(|framed| framed.writer));
            if writer.is_some_and(|writer| (step.life)(&writer) == Life::Gone) {
                known.forsaken = true;
                self.forsake(id, news);
                return Then::default();
            }
        }
        let mut then = Then { bury: false, again: (step.hint == Hint::Closed).then_some(CLOSED_AGAIN) };
        match content {
            Ok(framed) => {
                known.torn = None;
                known.writer = Some(framed.writer);
                self.read(id, &framed, step, news);
            }
            Err(Flaw::Refused(refusal)) => self.complain(id, step, refusal, news),
            Err(Flaw::Torn(how)) => {
                let (since, pause) = known.torn.unwrap_or((step.now, AGAIN.0));
                known.torn = Some((since, (pause * 2).min(AGAIN.1)));
                then.again = Some(pause);
                if step.now.saturating_duration_since(since) >= TORN {
                    self.complain(id, step, no_record(how), news);
                }
            }
        }
        then
    }

    fn read(&mut self, id: &InstanceId, framed: &Framed<'_>, step: &mut Step<'_>, news: &mut News) {
        let known = self.known.get_mut(id).expect("invariant: a record that is read is known");
        if known.sum == Some(framed.sum) {
            known.complaint = None;
            return;
        }
        let read = step.decoder.decode(framed.json).and_then(|instance| {
            if instance.id == *id && instance.service == *step.service {
                return Ok(instance);
            }
            let text = format!("it is the record of `{}` of `{}`", instance.id, instance.service);
            Err(Refusal::new(RefusalKind::Misplaced, text))
        });
        match read {
            Ok(instance) => {
                known.sum = Some(framed.sum);
                known.complaint = None;
                let instance = Arc::new(instance);
                if known.instance.as_ref() != Some(&instance) {
                    known.instance = Some(Arc::clone(&instance));
                    news.put(instance);
                }
            }
            Err(refusal) => self.complain(id, step, refusal, news),
        }
    }

    /// Tells why a record is not taken, once for each reason.
    fn complain(&mut self, id: &InstanceId, step: &Step<'_>, reason: Refusal, news: &mut News) {
        let known = self.known.entry(id.clone()).or_insert_with(|| Known::new(step.now));
        if known.complaint.as_ref() != Some(&reason) {
            known.complaint = Some(reason.clone());
            // The same content again is news after a bad one.
            known.sum = None;
            news.refused(Some(id.clone()), step.place, reason);
        }
    }

    /// Its record counts no more, but its file is still there.
    fn forsake(&mut self, id: &InstanceId, news: &mut News) {
        if let Some(known) = self.known.get_mut(id) {
            known.sum = None;
            if known.instance.take().is_some() {
                news.removed(id);
            }
        }
    }

    fn remove(&mut self, id: &InstanceId, news: &mut News) {
        if self.known.remove(id).is_some_and(|known| known.instance.is_some()) {
            news.removed(id);
        }
    }
}

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            instance: None,
            sum: None,
            writer: None,
            pulse: None,
            pulse_since: now,
            forsaken: false,
            torn: None,
            missing: None,
            complaint: None,
        }
    }
}

impl News {
    /// A record that was not taken.
    pub(super) fn refused(&mut self, id: Option<InstanceId>, place: &str, reason: Refusal) {
        self.changes.push(Change::Refused { id, record: place.into(), reason });
    }

    /// All changes, in order.
    pub(super) fn into_changes(mut self) -> Vec<Change> {
        self.close();
        self.changes
    }

    fn put(&mut self, instance: Arc<Instance>) {
        if self.removed.contains(&instance.id) {
            self.close();
        }
        self.put.insert(instance.id.clone(), instance);
    }

    fn removed(&mut self, id: &InstanceId) {
        // A record that said `leaving` before it went says so to everybody.
        if self.put.contains_key(id) {
            self.close();
        }
        self.removed.push(id.clone());
    }

    fn close(&mut self) {
        if self.put.is_empty() && self.removed.is_empty() {
            return;
        }
        let put = std::mem::take(&mut self.put).into_values().collect();
        self.changes.push(Change::Delta { put, removed: std::mem::take(&mut self.removed) });
    }
}

fn no_record(detail: &str) -> Refusal {
    Refusal::new(RefusalKind::Syntax, detail)
}

#[cfg(test)]
mod tests;
