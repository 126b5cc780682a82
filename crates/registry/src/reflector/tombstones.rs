//! The ids that left for good, so that a late or repeated record cannot bring one back.

use std::collections::{HashSet, VecDeque};

use meshwork_core::InstanceId;

/// How many ids are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    order: VecDeque<InstanceId>,
    ids: HashSet<InstanceId>,
}

impl Tombstones {
    pub(crate) fn add(&mut self, id: InstanceId) {
        if !self.ids.insert(id.clone()) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, id: &InstanceId) -> bool {
        !self.ids.is_empty() && self.ids.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remember_only_so_many() {
        let id = |n: usize| InstanceId::new(format!("a-{n}")).unwrap();
        let mut tombstones = Tombstones::default();
        for n in 0..REMEMBERED + 10 {
            tombstones.add(id(n));
            tombstones.add(id(n));
        }
        assert_eq!((tombstones.ids.len(), tombstones.order.len()), (REMEMBERED, REMEMBERED));
        assert!(!tombstones.contains(&id(9)) && tombstones.contains(&id(10)));
    }
}
