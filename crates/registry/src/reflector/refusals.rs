//! The bad records of one view: which stand now, and which ids they keep from being removed.

use std::collections::{BTreeMap, HashSet};

use meshwork_core::{InstanceId, Query, Refusal};

use crate::RefusedRecord;

/// How many standing bad records are known one by one; further ones count at each reading.
const STANDING: usize = 1024;

/// The refusals of one view. A bad record that stays as it is counts once, however often it is read.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    standing: BTreeMap<Box<str>, (Option<InstanceId>, Refusal)>,
    reading: BTreeMap<Box<str>, (Option<InstanceId>, Refusal)>,
    kept: HashSet<InstanceId>,
}

impl Refusals {
    /// Takes one refusal of the reading under way; gives it back if it is to be counted.
    pub(crate) fn take(
        &mut self,
        query: &Query,
        id: Option<InstanceId>,
        record: Box<str>,
        reason: Refusal,
        is_known: bool,
    ) -> Option<RefusedRecord> {
        if let Some(id) = id.as_ref().filter(|_| is_known) {
            self.kept.insert(id.clone());
        }
        let stands = |known: &BTreeMap<Box<str>, (_, Refusal)>| {
            known.get(&record).is_some_and(|(_, standing)| *standing == reason)
        };
        let counted = !stands(&self.standing) && !stands(&self.reading);
        if self.reading.len() < STANDING {
            self.reading.insert(record.clone(), (id.clone(), reason.clone()));
        }
        counted.then(|| RefusedRecord { query: query.clone(), id, record, reason })
    }

    /// Whether the record of this id was refused in the reading under way: it is not absent from it.
    pub(crate) fn keeps(&self, id: &InstanceId) -> bool {
        self.kept.contains(id)
    }

    /// A complete set ended the reading: what it did not show does not stand any more.
    pub(crate) fn end_of_set(&mut self) {
        self.standing = std::mem::take(&mut self.reading);
        self.kept.clear();
    }

    /// A delta ended the reading.
    pub(crate) fn end_of_delta(&mut self) {
        if !self.reading.is_empty() {
            self.standing.append(&mut self.reading);
            while self.standing.len() > STANDING {
                self.standing.pop_first();
            }
        }
        self.kept.clear();
    }

    /// The records of these ids are good now, or gone.
    pub(crate) fn mended<'a>(&mut self, ids: impl Iterator<Item = &'a InstanceId>) {
        if !self.standing.is_empty() {
            let ids: HashSet<_> = ids.collect();
            self.standing.retain(|_, (of, _)| of.as_ref().is_none_or(|of| !ids.contains(of)));
        }
    }

    /// A subscription ended in the middle of a reading.
    pub(crate) fn abandon(&mut self) {
        // What was counted must not count again at the next reading.
        self.end_of_delta();
    }
}
