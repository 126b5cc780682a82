//! Which datacenter's instances are shown: failover by order, without I/O.
//!
//! The first datacenter that has a usable instance is shown. One that cannot be reached keeps its last answer for
//! 10 s and then counts as having none. Nothing is shown before every earlier datacenter has answered or failed.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Change, Error};
use tokio::time::Instant;

use crate::reader::{self, Found, Reading};

/// How long a datacenter that cannot be reached keeps its last answer.
const AWAY: Duration = Duration::from_secs(10);

/// What one lane has said.
#[derive(Debug, Default)]
struct Place {
    reading: Option<Reading>,
    failed: Option<(Instant, Arc<Error>)>,
}

/// The lanes of a subscription: the datacenters in their order, and the names in each.
#[derive(Debug)]
pub(crate) struct Places {
    /// By datacenter, then by name.
    all: Vec<Place>,
    names: usize,
    told: Option<Vec<Change>>,
}

/// What is to be told now.
#[derive(Debug)]
pub(crate) enum Say {
    /// Nothing.
    Nothing,
    /// These changes, the set last.
    Changes(Vec<Change>),
    /// Nobody can be reached.
    Failed(Arc<Error>),
}

impl Places {
    pub(crate) fn new(datacenters: usize, names: usize) -> Self {
        Self { all: (0..datacenters * names).map(|_| Place::default()).collect(), names, told: None }
    }

    /// One lane has answered.
    pub(crate) fn answered(&mut self, place: usize, reading: Reading, now: Instant) -> Say {
        self.all[place] = Place { reading: Some(reading), failed: None };
        self.look(now)
    }

    /// One lane has failed.
    pub(crate) fn failed(&mut self, place: usize, error: Arc<Error>, now: Instant) -> Say {
        let place = &mut self.all[place];
        let since = place.failed.as_ref().map_or(now, |(since, _)| *since);
        place.failed = Some((since, error));
        self.look(now)
    }

    /// When to look again though nothing happens.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let ends = self.all.iter().filter_map(|place| Some(place.failed.as_ref()?.0 + AWAY));
        ends.filter(|end| *end > now).min()
    }

    /// What is to be shown now.
    pub(crate) fn look(&mut self, now: Instant) -> Say {
        if self.datacenters().all(|places| failed_since(places).is_some()) {
            let first = self.all.iter().find_map(|place| place.failed.as_ref());
            return first.map_or(Say::Nothing, |(_, error)| Say::Failed(Arc::clone(error)));
        }
        let Some(shown) = self.shown(now) else { return Say::Nothing };
        let readings = shown.iter().filter_map(|place| place.reading.as_ref());
        let refused: Vec<_> = readings.clone().flat_map(|reading| reading.refused.clone()).collect();
        let mut found: Vec<Found> = readings.flat_map(|reading| reading.found.clone()).collect();
        found.sort_by(|a, b| a.instance.id.cmp(&b.instance.id));
        found.dedup_by(|a, b| a.instance.id == b.instance.id);
        let mut changes: Vec<Change> = refused.into_iter().map(Change::from).collect();
        changes.push(Change::Set(reader::set(&found)));
        if self.told.as_ref().is_some_and(|told| same(told, &changes)) {
            return Say::Nothing;
        }
        self.told = Some(changes.clone());
        Say::Changes(changes)
    }

    fn datacenters(&self) -> impl Iterator<Item = &[Place]> {
        self.all.chunks(self.names)
    }

    /// The places of the datacenter to be shown; none while that cannot be said.
    fn shown(&self, now: Instant) -> Option<&[Place]> {
        let mut answering = None;
        for places in self.datacenters() {
            let failed = failed_since(places);
            let is_complete = places.iter().all(|place| place.reading.is_some());
            if failed.is_some_and(|since| now >= since + AWAY) || (failed.is_some() && !is_complete) {
                continue;
            }
            if !is_complete {
                return None;
            }
            let mut found = places.iter().filter_map(|place| place.reading.as_ref()).flat_map(|r| &r.found);
            if found.any(Found::is_usable) {
                return Some(places);
            }
            // Nobody is usable anywhere: the first that answers says who is there.
            answering = answering.or(Some(places));
        }
        answering
    }
}

/// Since when a datacenter cannot be reached under one of the names.
fn failed_since(places: &[Place]) -> Option<Instant> {
    places.iter().filter_map(|place| place.failed.as_ref().map(|(since, _)| *since)).min()
}

/// Whether two tellings say the same; equal instances are mostly equal pointers.
fn same(a: &[Change], b: &[Change]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|pair| match pair {
            (Change::Set(a), Change::Set(b)) => a == b,
            (
                Change::Refused { id: a, record: b, reason: c },
                Change::Refused { id: d, record: e, reason: f },
            ) => (a, b, c) == (d, e, f),
            _ => false,
        })
}

#[cfg(test)]
mod tests {
    use meshwork_core::{Instance, InstanceId, ServiceName, Status};

    use super::*;

    fn reading(ids: &[&str], status: Status) -> Reading {
        let found = ids.iter().map(|id| {
            let id = InstanceId::new(id).unwrap();
            let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id);
            (instance.status, instance.start_time) = (status, None);
            Found::of(Arc::new(instance))
        });
        Reading { found: found.collect(), refused: Vec::new() }
    }

    fn up(ids: &[&str]) -> Reading {
        reading(ids, Status::Up)
    }

    fn error() -> Arc<Error> {
        Arc::new(Error::unavailable("no path to datacenter"))
    }

    fn set(say: &Say) -> Option<Vec<String>> {
        match say {
            Say::Changes(changes) => match changes.last() {
                Some(Change::Set(set)) => Some(set.iter().map(|i| i.id.to_string()).collect()),
                _ => None,
            },
            _ => None,
        }
    }

    #[test]
    fn the_first_datacenter_with_somebody_is_shown() {
        let (mut places, now) = (Places::new(2, 1), Instant::now());
        assert!(matches!(places.answered(1, up(&["far"]), now), Say::Nothing), "the first has not answered");
        assert_eq!(set(&places.answered(0, up(&["near"]), now)).unwrap(), ["near"]);
        assert_eq!(set(&places.answered(0, up(&[]), now)).unwrap(), ["far"]);
        assert!(matches!(places.answered(0, up(&[]), now), Say::Nothing), "equal is not told again");
        assert_eq!(set(&places.answered(0, reading(&["near"], Status::Unready), now)), None);
        assert_eq!(set(&places.answered(1, up(&[]), now)).unwrap(), ["near"], "nobody is usable");
    }

    #[test]
    fn a_datacenter_that_cannot_be_reached_keeps_its_answer_for_a_while() {
        let (mut places, now) = (Places::new(2, 1), Instant::now());
        places.answered(0, up(&["near"]), now);
        places.answered(1, up(&["far"]), now);
        assert!(matches!(places.failed(0, error(), now), Say::Nothing));
        let end = places.due(now).unwrap();
        assert_eq!(end, now + AWAY);
        assert_eq!(set(&places.look(end)).unwrap(), ["far"]);
        assert_eq!(set(&places.answered(0, up(&["near"]), end)).unwrap(), ["near"]);
    }

    #[test]
    fn one_that_fails_from_the_start_is_passed_over_and_all_failed_is_a_failure() {
        let (mut places, now) = (Places::new(2, 1), Instant::now());
        assert!(matches!(places.failed(0, error(), now), Say::Nothing));
        assert_eq!(set(&places.answered(1, up(&["far"]), now)).unwrap(), ["far"]);
        assert!(matches!(places.failed(1, error(), now), Say::Failed(_)));
        let mut single = Places::new(1, 1);
        single.answered(0, up(&["a"]), now);
        assert!(matches!(single.failed(0, error(), now), Say::Failed(_)));
    }

    #[test]
    fn the_names_of_one_service_are_one_set_and_fail_together() {
        let (mut places, now) = (Places::new(1, 2), Instant::now());
        assert!(matches!(places.answered(0, up(&["a"]), now), Say::Nothing));
        assert_eq!(set(&places.answered(1, up(&["a", "b"]), now)).unwrap(), ["a", "b"]);
        assert!(matches!(places.failed(1, error(), now), Say::Failed(_)));
    }
}
