//! Notes about instances, the newest of them: a bound for what would grow with every restart.

use std::collections::HashMap;

use meshwork_core::InstanceId;

/// How many notes are kept for sure.
const KEPT: usize = 16_384;

#[derive(Debug)]
pub(super) struct Recent<T> {
    notes: HashMap<InstanceId, (u64, T)>,
    count: u64,
}

impl<T> Recent<T> {
    /// Notes something of `id`, in place of what was noted before.
    pub(super) fn note(&mut self, id: InstanceId, what: T) {
        self.count += 1;
        self.notes.insert(id, (self.count, what));
        if self.notes.len() > 2 * KEPT {
            let mut order: Vec<u64> = self.notes.values().map(|(count, _)| *count).collect();
            let (_, oldest_kept, _) = order.select_nth_unstable(KEPT);
            let oldest_kept = *oldest_kept;
            self.notes.retain(|_, (count, _)| *count >= oldest_kept);
        }
    }

    /// Says whether there was something to forget.
    pub(super) fn forget(&mut self, id: &InstanceId) -> bool {
        !self.notes.is_empty() && self.notes.remove(id).is_some()
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&T> {
        if self.notes.is_empty() { None } else { self.notes.get(id).map(|(_, what)| what) }
    }

    /// When it was noted, in the order of notes; 0 = never.
    pub(super) fn order(&self, id: &InstanceId) -> u64 {
        self.notes.get(id).map_or(0, |(count, _)| *count)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { notes: HashMap::new(), count: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_the_memory_has_a_bound() {
        let id = |n: usize| InstanceId::new(format!("a-{n}")).unwrap();
        let mut recent = Recent::default();
        for n in 0..5 * KEPT {
            recent.note(id(n), n);
            assert!(recent.notes.len() <= 2 * KEPT);
        }
        for n in 4 * KEPT..5 * KEPT {
            assert_eq!(recent.get(&id(n)), Some(&n));
        }
        assert_eq!(recent.get(&id(0)), None);
        assert!(recent.order(&id(5 * KEPT - 1)) > recent.order(&id(5 * KEPT - 2)));
        recent.forget(&id(5 * KEPT - 1));
        assert_eq!(recent.order(&id(5 * KEPT - 1)), 0);
    }
}
