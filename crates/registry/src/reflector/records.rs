//! The records behind one view: sorted by id, within limits, with `leaving` final for an id.
//!
//! A sorted vector and not a tree: a change costs a binary search and one move of pointers, and the view
//! is one copy of them.

use std::{collections::BTreeSet, sync::Arc};

use meshwork_core::{Instance, InstanceId, Instances, Status};
use tokio::time::Instant;

use super::{refusals::Refusals, tombstones::Tombstones};
use crate::guard::{Absence, Removals};

/// With more ids than this at once, walking both sorted lists is cheaper than searching for each.
const FEW: usize = 16;

#[derive(Debug)]
pub(crate) struct Records {
    sorted: Vec<Arc<Instance>>,
    bytes: usize,
    held: BTreeSet<InstanceId>,
    gone: Tombstones,
    max_records: usize,
    max_bytes: usize,
}

/// What an application did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Whether the view differs now.
    pub(crate) changed: bool,
    /// How many new instances found no room.
    pub(crate) beyond: usize,
}

impl Records {
    pub(crate) fn new(max_records: usize, max_bytes: usize) -> Self {
        let (sorted, held, gone) = (Vec::new(), BTreeSet::new(), Tombstones::default());
        Self { sorted, bytes: 0, held, gone, max_records, max_bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The view: one copy of the pointers.
    pub(crate) fn collect(&self) -> Arc<Instances> {
        Arc::from(&self.sorted[..])
    }

    pub(crate) fn held(&self) -> Arc<[InstanceId]> {
        self.held.iter().cloned().collect()
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.find(id).ok().map(|place| &self.sorted[place])
    }

    fn find(&self, id: &InstanceId) -> Result<usize, usize> {
        self.sorted.binary_search_by(|known| known.id.cmp(id))
    }

    /// Takes the puts and removals of one revision.
    pub(crate) fn apply_delta(
        &mut self,
        put: Vec<Arc<Instance>>,
        removed: &[InstanceId],
        removals: &mut Removals,
        now: Instant,
    ) -> Applied {
        let mut applied = self.put_all(put);
        let mut places = Vec::new();
        for id in removed {
            if let Ok(place) = self.find(id)
                && self.lets_go(&Arc::clone(&self.sorted[place]), Absence::Removed, removals, now)
            {
                places.push(place);
            }
        }
        applied.changed |= !places.is_empty();
        self.drop_places(places);
        applied
    }

    /// Takes a complete set. Who is not in it is removed if `removals` believes it, unless its record
    /// was refused in the same reading.
    pub(crate) fn apply_set(
        &mut self,
        set: Vec<Arc<Instance>>,
        refusals: &Refusals,
        removals: &mut Removals,
        now: Instant,
    ) -> Applied {
        let set = sorted_once(set);
        let mut missing = Vec::new();
        let mut listed = set.iter().peekable();
        for (place, known) in self.sorted.iter().enumerate() {
            while listed.next_if(|next| next.id < known.id).is_some() {}
            if listed.next_if(|next| next.id == known.id).is_none() && !refusals.keeps(&known.id) {
                missing.push(place);
            }
        }
        missing.retain(|&place| {
            self.lets_go(&Arc::clone(&self.sorted[place]), Absence::Unlisted, removals, now)
        });
        let changed = !missing.is_empty();
        self.drop_places(missing);
        let mut applied = self.put_all(set);
        applied.changed |= changed;
        applied
    }

    /// Removes an instance for good: its id never comes back. Says whether it was there.
    pub(crate) fn bury(&mut self, id: &InstanceId) -> bool {
        let Ok(place) = self.find(id) else { return false };
        self.gone.add(id.clone());
        self.held.remove(id);
        self.drop_places(vec![place]);
        true
    }

    fn put_all(&mut self, put: Vec<Arc<Instance>>) -> Applied {
        let mut applied = Applied::default();
        let put = sorted_once(put);
        let walks = put.len() > FEW;
        let (mut new, mut reached) = (Vec::new(), 0);
        for instance in put {
            let place = if walks {
                while self.sorted.get(reached).is_some_and(|known| known.id < instance.id) {
                    reached += 1;
                }
                self.sorted.get(reached).filter(|known| known.id == instance.id).map(|_| reached)
            } else {
                self.find(&instance.id).ok()
            };
            match place {
                Some(place) => applied.changed |= self.replace(place, instance),
                None if self.gone.contains(&instance.id) => {}
                None => new.push(instance),
            }
        }
        let before = self.sorted.len();
        let few = new.len() <= FEW;
        for instance in new {
            let weight = weight_of(&instance);
            if self.sorted.len() >= self.max_records || self.bytes + weight > self.max_bytes {
                applied.beyond += 1;
                continue;
            }
            self.bytes += weight;
            let place =
                if few { self.find(&instance.id).unwrap_or_else(|place| place) } else { self.sorted.len() };
            self.sorted.insert(place, instance);
        }
        if !few {
            // Two sorted runs: the stable sort merges them in one pass.
            self.sorted.sort_by(|a, b| a.id.cmp(&b.id));
        }
        applied.changed |= self.sorted.len() != before;
        applied
    }

    /// Puts a newer record in the place of a known one. An equal one keeps the old pointer, so that a
    /// reader can tell by pointer what did not change; one that would take `leaving` back is passed over.
    fn replace(&mut self, place: usize, instance: Arc<Instance>) -> bool {
        let known = &self.sorted[place];
        let was_held = self.held.remove(&instance.id);
        if *known == instance || (known.status == Status::Leaving && instance.status != Status::Leaving) {
            return was_held;
        }
        self.bytes = self.bytes - weight_of(known) + weight_of(&instance);
        self.sorted[place] = instance;
        true
    }

    /// Whether this instance goes now; who does not is held.
    fn lets_go(&mut self, instance: &Instance, how: Absence, removals: &mut Removals, now: Instant) -> bool {
        if !removals.believes(instance, how, self.sorted.len(), now) {
            self.held.insert(instance.id.clone());
            return false;
        }
        self.held.remove(&instance.id);
        if instance.status == Status::Leaving {
            self.gone.add(instance.id.clone());
        }
        true
    }

    fn drop_places(&mut self, mut places: Vec<usize>) {
        places.sort_unstable();
        places.dedup();
        for place in &places {
            self.bytes -= weight_of(&self.sorted[*place]);
        }
        if places.len() <= FEW {
            for place in places.into_iter().rev() {
                self.sorted.remove(place);
            }
            return;
        }
        let mut dropped = places.into_iter().peekable();
        let mut place = 0;
        self.sorted.retain(|_| {
            let stays = dropped.next_if_eq(&place).is_none();
            place += 1;
            stays
        });
    }
}

/// Sorted by id; of a repeated id the last one stays.
fn sorted_once(mut instances: Vec<Arc<Instance>>) -> Vec<Arc<Instance>> {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|later, kept| {
        let repeated = later.id == kept.id;
        if repeated {
            std::mem::swap(later, kept);
        }
        repeated
    });
    instances
}

/// About how many bytes the record of an instance takes.
fn weight_of(instance: &Instance) -> usize {
    let labels: usize = instance.labels.iter().map(|(key, value)| key.len() + value.len() + 32).sum();
    size_of::<Instance>() + instance.id.as_str().len() + 40 * instance.endpoints.len() + labels
}

#[cfg(test)]
mod tests {
    use meshwork_core::{Refusal, RefusalKind, ServiceName};

    use super::*;

    fn instance(id: &str, weight: u16, status: Status) -> Arc<Instance> {
        let service = ServiceName::new("users").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new(id).unwrap());
        (instance.weight, instance.status, instance.start_time) = (weight, status, None);
        Arc::new(instance)
    }

    fn up(id: &str) -> Arc<Instance> {
        instance(id, 1, Status::Up)
    }

    fn id(id: &str) -> InstanceId {
        InstanceId::new(id).unwrap()
    }

    struct Bench {
        records: Records,
        refusals: Refusals,
        removals: Removals,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                records: Records::new(50, 1 << 20),
                refusals: Refusals::default(),
                removals: Removals::default(),
            }
        }

        fn set(&mut self, set: &[Arc<Instance>]) -> Applied {
            let now = Instant::now();
            let applied = self.records.apply_set(set.to_vec(), &self.refusals, &mut self.removals, now);
            self.refusals.end_of_set();
            applied
        }

        fn delta(&mut self, put: &[Arc<Instance>], removed: &[&str]) -> Applied {
            let removed: Vec<_> = removed.iter().map(|text| id(text)).collect();
            self.records.apply_delta(put.to_vec(), &removed, &mut self.removals, Instant::now())
        }

        fn ids(&self) -> Vec<String> {
            self.records.collect().iter().map(|i| i.id.to_string()).collect()
        }
    }

    #[test]
    fn stay_sorted_whatever_comes_in_whatever_order() {
        let mut bench = Bench::new();
        assert!(bench.set(&[up("c"), up("a"), up("c")]).changed);
        assert_eq!(bench.ids(), ["a", "c"]);
        let many: Vec<_> = (10..40).rev().map(|n| up(&format!("b-{n}"))).collect();
        bench.delta(&many, &["a", "x"]);
        assert_eq!(bench.ids().len(), 31);
        assert!(bench.ids().is_sorted());
        let most: Vec<_> = (10..38).map(|n| format!("b-{n}")).collect();
        bench.delta(&[], &most.iter().map(|s| &**s).collect::<Vec<_>>());
        assert_eq!(bench.ids(), ["b-38", "b-39", "c"]);
        bench.set(&[]);
        assert_eq!((bench.records.len(), bench.records.bytes), (0, 0));
    }

    #[test]
    fn an_equal_record_keeps_its_pointer_and_changes_nothing() {
        let mut bench = Bench::new();
        let first = up("a");
        bench.set(std::slice::from_ref(&first));
        assert!(!bench.set(&[up("a")]).changed);
        assert!(!bench.delta(&[up("a")], &["b"]).changed);
        assert!(Arc::ptr_eq(bench.records.get(&id("a")).unwrap(), &first));
    }

    #[test]
    fn leaving_is_final_for_an_id() {
        let mut bench = Bench::new();
        bench.set(&[up("a"), up("b")]);
        assert!(bench.delta(&[instance("a", 1, Status::Leaving)], &[]).changed);
        assert!(!bench.delta(&[up("a")], &[]).changed, "a late put is passed over");
        bench.set(&[up("a"), up("b")]);
        assert_eq!(bench.records.get(&id("a")).unwrap().status, Status::Leaving);
        bench.delta(&[], &["a"]);
        bench.delta(&[up("a")], &[]);
        bench.set(&[up("a"), up("b")]);
        assert_eq!(bench.ids(), ["b"], "once gone it stays gone");
    }

    #[test]
    fn a_refused_record_of_a_known_id_is_not_absent() {
        let mut bench = Bench::new();
        bench.set(&[up("a"), up("b")]);
        let query = ServiceName::new("users").unwrap().into();
        let reason = || Refusal::new(RefusalKind::Syntax, "no JSON");
        let refuse = |bench: &mut Bench| {
            bench.refusals.take(&query, Some(id("a")), "/a".into(), reason(), true).is_some()
        };
        assert!(refuse(&mut bench));
        assert!(!bench.set(&[up("b")]).changed);
        assert!(!refuse(&mut bench), "read again as it was, it counts once");
        bench.set(&[up("b")]);
        assert_eq!(bench.ids(), ["a", "b"]);
        bench.set(&[up("b")]);
        assert_eq!(bench.ids(), ["b"], "neither good nor refused: it is gone");
    }

    #[test]
    fn what_is_known_has_room_first() {
        let mut bench = Bench::new();
        bench.set(&[up("y"), up("z")]);
        let mut flood: Vec<_> = (0..100).map(|n| up(&format!("a-{n:03}"))).collect();
        flood.extend([up("y"), up("z")]);
        assert_eq!(bench.set(&flood).beyond, 52);
        assert_eq!(bench.records.len(), 50);
        assert!(bench.records.get(&id("z")).is_some());
        assert_eq!(bench.delta(&[up("x")], &[]).beyond, 1);
    }
}
