//! The two registries: written, wiped, cut off and back, and the views of them that arrive soon or late.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meshwork_core::{Error, ErrorKind, InstanceId, Instances, Staleness, Status, View};
use meshwork_registry::dual::{Side, merge::Event};

use super::{Due, Told, World, record, short};

impl World {
    pub(super) fn write_all(&mut self, id: &InstanceId, status: Status) {
        for side in Side::BOTH {
            if self.processes[id].sides[side as usize] {
                self.write(side, id, status);
            }
        }
    }

    pub(super) fn write(&mut self, side: Side, id: &InstanceId, status: Status) {
        let record = Arc::new(record(id, &self.processes[id], status));
        self.tell(|| format!("{side}: {id} = {}:{status:?}", record.weight));
        let registry = &mut self.registries[side as usize];
        registry.held.remove(id);
        registry.truth.insert(id.clone(), record);
        self.send(side);
    }

    pub(super) fn remove(&mut self, side: Side, id: &InstanceId) {
        let keeps = !self.calm && self.clock.chance(15);
        let registry = &mut self.registries[side as usize];
        let Some(record) = registry.truth.remove(id) else { return };
        self.tell(|| format!("{side}: {id} is gone"));
        if keeps && record.status != Status::Leaving {
            self.registries[side as usize].held.insert(id.clone());
            let later = self.clock.millis(100, 10_000);
            self.clock.after(later, Due::LetGo { side, id: id.clone() });
        }
        self.send(side);
    }

    pub(super) fn trouble(&mut self) {
        let side = self.any_side();
        if self.clock.chance(20) {
            self.tell(|| format!("{side}: wiped"));
            let ids: Vec<_> = self.registries[side as usize].truth.keys().cloned().collect();
            for id in ids {
                self.remove(side, &id);
                let back = self.clock.millis(100, 5_000);
                self.clock.after(back, Due::Heal { side, id });
            }
        }
        if self.registries[side as usize].up && self.clock.chance(80) {
            self.cut(side);
        }
    }

    /// From now on nothing arrives; that it is so is noticed soon or late.
    pub(super) fn cut(&mut self, side: Side) {
        self.tell(|| format!("{side}: cut"));
        let (late, long) = (self.clock.chance(30), self.clock.chance(30));
        let noticed = self.clock.millis(0, if late { 10_000 } else { 50 });
        let back = self.clock.millis(0, if long { 60_000 } else { 2_000 });
        let registry = &mut self.registries[side as usize];
        registry.up = false;
        registry.outage += 1;
        let outage = registry.outage;
        self.clock.after(noticed, Due::Notice { side, outage });
        self.clock.after(back, Due::Back(side));
    }

    pub(super) fn notice(&mut self, side: Side, outage: u64) {
        let now = self.clock.now;
        let registry = &mut self.registries[side as usize];
        if registry.up || registry.outage != outage {
            return;
        }
        let cause = Arc::new(Error::new(ErrorKind::Unavailable, format!("outage {outage}")));
        registry.staleness = match &registry.staleness {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: now, age: Duration::ZERO, cause },
        };
        self.show(side);
    }

    pub(super) fn back(&mut self, side: Side) {
        let registry = &mut self.registries[side as usize];
        if !registry.up {
            registry.up = true;
            // What was on its way when it was cut is lost.
            registry.epoch += 1;
            self.tell(|| format!("{side}: back"));
            self.send(side);
        }
    }

    /// Lets what the registry holds now arrive.
    pub(super) fn send(&mut self, side: Side) {
        let late = !self.calm && self.clock.chance(10);
        let delay = if late { self.clock.millis(100, 3_000) } else { self.clock.millis(0, 20) };
        let now = self.clock.now;
        let registry = &mut self.registries[side as usize];
        if !registry.up || !self.followed[side as usize] {
            return;
        }
        registry.arrives = registry.arrives.max(now + delay);
        let mut records = registry.truth.clone();
        for id in &registry.held {
            if let Some(shown) = registry.shown.get(id) {
                records.insert(id.clone(), Arc::clone(shown));
            }
        }
        let held = registry.held.iter().filter(|id| records.contains_key(*id)).cloned().collect();
        let view = Box::new(Told { records, held });
        let (epoch, at) = (registry.epoch, registry.arrives);
        self.clock.at(at, Due::Arrive { side, epoch, view });
    }

    pub(super) fn arrive(&mut self, side: Side, epoch: u64, mut view: Told) {
        let registry = &mut self.registries[side as usize];
        if registry.epoch != epoch || !registry.up {
            return;
        }
        for (id, record) in &mut view.records {
            if let Some(known) = registry.shown.get(id).filter(|known| *known == record) {
                *record = Arc::clone(known);
            }
        }
        registry.staleness = Staleness::Fresh;
        registry.shown = view.records;
        let held = view.held;
        self.show_with(side, held);
    }

    pub(super) fn show(&mut self, side: Side) {
        let held = self.registries[side as usize].held.clone();
        self.show_with(side, held);
    }

    pub(super) fn show_with(&mut self, side: Side, held: BTreeSet<InstanceId>) {
        if !self.followed[side as usize] {
            return;
        }
        let registry = &self.registries[side as usize];
        let records = registry.shown.clone();
        let held: BTreeSet<_> = held.into_iter().filter(|id| records.contains_key(id)).collect();
        let value: Arc<Instances> = records.values().cloned().collect();
        let staleness = registry.staleness.clone();
        let view = View::new(0, staleness.clone(), value).with_held(held.iter().cloned().collect());
        self.tell(|| {
            let ids: Vec<_> = records.values().map(|r| format!("{}:{:?}", r.id, r.status)).collect();
            format!("{side} shows {} {ids:?}", short(&staleness))
        });
        self.rules.told(side, staleness, Told { records, held }, self.clock.now);
        self.feed(Event::Told(side, view));
    }
}
