//! The records of a memory registry, with revisions, leases and a bounded history, like a real store's.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::{
    Change, Error, ErrorKind, Instance, InstanceId, Query, Refusal, RefusalKind, ServiceName,
};
use tokio::{sync::watch, time::Instant};

/// How many changes are remembered; a reader further behind reads the whole set again.
const HISTORY: usize = 4096;

/// What is wrong with the registry now.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) failing: bool,
    pub(super) partitioned: bool,
    pub(super) empty: bool,
    pub(super) lag: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    state: Mutex<State>,
    /// Raised by each change of records or faults.
    ticks: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    last_lease: u64,
    leases: HashSet<u64>,
    services: BTreeMap<ServiceName, BTreeMap<InstanceId, Record>>,
    history: VecDeque<Past>,
    dead: HashSet<InstanceId>,
    faults: Faults,
}

#[derive(Clone, Debug)]
struct Record {
    instance: Arc<Instance>,
    lease: Option<u64>,
    is_spoiled: bool,
}

#[derive(Debug)]
struct Past {
    revision: u64,
    at: Instant,
    service: ServiceName,
    id: InstanceId,
    record: Option<Record>,
}

/// Where a reader stands.
#[derive(Debug, Default)]
pub(super) struct Place {
    revision: Option<u64>,
    saw_empty: bool,
}

/// What a reader is told next, and not before then.
pub(super) struct Told {
    pub(super) changes: Vec<Change>,
    pub(super) at: Instant,
}

impl Store {
    pub(super) fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    pub(super) fn faults(&self) -> Faults {
        self.lock().faults.clone()
    }

    pub(super) fn set_faults(&self, set: impl FnOnce(&mut Faults)) {
        set(&mut self.lock().faults);
        self.tick();
    }

    pub(super) fn is_dead(&self, id: &InstanceId) -> bool {
        self.lock().dead.contains(id)
    }

    pub(super) fn instances(&self, service: &ServiceName) -> Vec<Arc<Instance>> {
        let state = self.lock();
        let records = state.services.get(service).into_iter().flat_map(BTreeMap::values);
        records.map(|record| Arc::clone(&record.instance)).collect()
    }

    /// The services that have an instance.
    pub(super) fn services(&self) -> BTreeSet<ServiceName> {
        let state = self.lock();
        let living = state.services.iter().filter(|(_, records)| !records.is_empty());
        living.map(|(service, _)| service.clone()).collect()
    }

    // === writing ===

    /// A lease number that nobody had before.
    pub(super) fn new_lease(&self) -> u64 {
        let mut state = self.lock();
        state.last_lease += 1;
        state.last_lease
    }

    pub(super) fn grant(&self, lease: u64) {
        self.lock().leases.insert(lease);
    }

    pub(super) fn has_lease(&self, lease: u64) -> bool {
        self.lock().leases.contains(&lease)
    }

    /// Puts a record under a living lease. One of another process under this id is a conflict.
    pub(super) fn put(&self, instance: &Arc<Instance>, lease: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let id = &instance.id;
        if !state.leases.contains(&lease) {
            return Err(Error::unavailable(format!("writing `{id}`: its lease is gone")));
        }
        // What nobody holds and nobody can read says nothing of another process.
        let is_waste = |record: &Record| record.is_spoiled && record.lease.is_none();
        if let Some(standing) = state.get(&instance.service, id).filter(|record| !is_waste(record))
            && standing.lease != Some(lease)
            && (standing.instance.endpoints != instance.endpoints
                || standing.instance.start_time != instance.start_time)
        {
            let text = format!("writing `{id}`: another process announces itself under this id");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let record = Record { instance: Arc::clone(instance), lease: Some(lease), is_spoiled: false };
        state.write(&instance.service, id, Some(record));
        drop(state);
        self.tick();
        Ok(())
    }

    pub(super) fn put_unbound(&self, instance: Arc<Instance>) {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        let record = Record { instance, lease: None, is_spoiled: false };
        self.lock().write(&service, &id, Some(record));
        self.tick();
    }

    /// Ends a lease and every record under it.
    pub(super) fn revoke(&self, lease: u64) {
        let mut state = self.lock();
        state.leases.remove(&lease);
        let under_it: Vec<_> = state
            .services
            .iter()
            .flat_map(|(service, records)| records.iter().map(move |(id, record)| (service, id, record)))
            .filter(|(_, _, record)| record.lease == Some(lease))
            .map(|(service, id, _)| (service.clone(), id.clone()))
            .collect();
        for (service, id) in under_it {
            state.write(&service, &id, None);
        }
        drop(state);
        self.tick();
    }

    pub(super) fn forget(&self, service: &ServiceName, id: &InstanceId) {
        let mut state = self.lock();
        if let Some(lease) = state.get(service, id).and_then(|record| record.lease) {
            state.leases.remove(&lease);
        }
        state.write(service, id, None);
        drop(state);
        self.tick();
    }

    pub(super) fn kill(&self, service: &ServiceName, id: &InstanceId) {
        self.lock().dead.insert(id.clone());
        self.forget(service, id);
    }

    pub(super) fn spoil(&self, service: &ServiceName, id: &InstanceId) {
        let mut state = self.lock();
        let unread = || Arc::new(Instance::with_id(service.clone(), id.clone()));
        let record = state.get(service, id).cloned();
        let record = record.unwrap_or_else(|| Record { instance: unread(), lease: None, is_spoiled: true });
        state.write(service, id, Some(Record { is_spoiled: true, ..record }));
        drop(state);
        self.tick();
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.leases.clear();
        let all: Vec<_> = state
            .services
            .iter()
            .flat_map(|(service, records)| records.keys().map(|id| (service.clone(), id.clone())))
            .collect();
        for (service, id) in all {
            state.write(&service, &id, None);
        }
        drop(state);
        self.tick();
    }

    // === reading ===

    /// What stands under this id, with its lease; `None` when it is gone or cannot be read.
    pub(super) fn own(&self, service: &ServiceName, id: &InstanceId) -> Option<(Arc<Instance>, Option<u64>)> {
        let state = self.lock();
        let record = state.get(service, id).filter(|record| !record.is_spoiled)?;
        Some((Arc::clone(&record.instance), record.lease))
    }

    /// What a reader at `place` is told next: the whole set, or what happened in one revision.
    pub(super) fn next(&self, query: &Query, place: &mut Place) -> Option<Told> {
        let state = self.lock();
        let (faults, now) = (&state.faults, Instant::now());
        if faults.empty || place.saw_empty != faults.empty {
            let is_new = !(place.saw_empty && faults.empty && place.revision.is_some());
            place.saw_empty = faults.empty;
            place.revision = Some(state.revision);
            let changes = if faults.empty { vec![Change::Set(Vec::new())] } else { state.list(query) };
            return is_new.then_some(Told { changes, at: now + faults.lag });
        }
        let behind =
            |revision: u64| state.history.front().is_some_and(|oldest| oldest.revision > revision + 1);
        let Some(revision) = place.revision.filter(|revision| !behind(*revision)) else {
            place.revision = Some(state.revision);
            return Some(Told { changes: state.list(query), at: now + faults.lag });
        };
        let first = state.history.partition_point(|past| past.revision <= revision);
        for past in state.history.range(first..) {
            place.revision = Some(past.revision);
            if past.service == *query.service() && past.concerns(query) {
                return Some(Told { changes: past.changes(), at: past.at + faults.lag });
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.send_modify(|ticks| *ticks += 1);
    }
}

impl State {
    fn get(&self, service: &ServiceName, id: &InstanceId) -> Option<&Record> {
        self.services.get(service)?.get(id)
    }

    fn write(&mut self, service: &ServiceName, id: &InstanceId, record: Option<Record>) {
        let records = self.services.entry(service.clone()).or_default();
        match &record {
            Some(record) => drop(records.insert(id.clone(), record.clone())),
            None if records.remove(id).is_none() => return,
            None => {}
        }
        self.revision += 1;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let (service, id) = (service.clone(), id.clone());
        self.history.push_back(Past { revision: self.revision, at: Instant::now(), service, id, record });
    }

    fn list(&self, query: &Query) -> Vec<Change> {
        let records = self.services.get(query.service()).into_iter().flat_map(BTreeMap::values);
        let (bad, good): (Vec<_>, Vec<_>) =
            records.filter(|record| is_asked_for(&record.instance, query)).partition(|r| r.is_spoiled);
        let mut changes: Vec<_> = bad.into_iter().map(|record| refused(&record.instance.id)).collect();
        changes.push(Change::Set(good.into_iter().map(|record| Arc::clone(&record.instance)).collect()));
        changes
    }
}

impl Past {
    fn concerns(&self, query: &Query) -> bool {
        self.record.as_ref().is_none_or(|record| is_asked_for(&record.instance, query))
    }

    fn changes(&self) -> Vec<Change> {
        match &self.record {
            Some(record) if record.is_spoiled => {
                vec![refused(&self.id), Change::Delta { put: Vec::new(), removed: Vec::new() }]
            }
            Some(record) => {
                vec![Change::Delta { put: vec![Arc::clone(&record.instance)], removed: Vec::new() }]
            }
            None => vec![Change::Delta { put: Vec::new(), removed: vec![self.id.clone()] }],
        }
    }
}

/// A record that names no environment belongs to all.
fn is_asked_for(instance: &Instance, query: &Query) -> bool {
    query.env().is_none_or(|env| instance.env.is_empty() || *instance.env == *env)
}

fn refused(id: &InstanceId) -> Change {
    let reason = Refusal::new(RefusalKind::Syntax, "record was spoiled by a test");
    Change::Refused { id: Some(id.clone()), record: format!("memory:{id}").into(), reason }
}
