//! Which instances of a view a channel connects to at all. Asked by the cluster task before nodes are made.

use std::{borrow::Cow, sync::Arc};

use meshwork_balance::{Rendezvous, RingAperture, Subsetting};
use meshwork_core::{Instance, Instances, Status};
use meshwork_resilience::chance;

use crate::{ClientConfig, standing::Standing};

/// What keeps a client's choice the same as long as it lives.
pub(crate) struct Aperture {
    subsetting: Option<Arc<dyn Subsetting>>,
    size: Option<usize>,
    salt: u64,
}

/// The instances of a view that are connected to.
pub(crate) struct Chosen<'a> {
    /// Sorted by id, as in the view.
    pub(crate) instances: Cow<'a, Instances>,
    /// Their weights, where they are not those of the records.
    weights: Option<Vec<u16>>,
    /// Instances that are up and left to other clients.
    pub(crate) aside: usize,
    /// Instances that are not among the chosen ones because they are not up.
    pub(crate) not_up: usize,
}

impl Chosen<'_> {
    /// The weight of the instance at `at`, where it is not that of its record.
    pub(crate) fn weight(&self, at: usize) -> Option<u16> {
        self.weights.as_ref().map(|weights| weights[at])
    }
}

impl Aperture {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            subsetting: config.subsetting.clone(),
            size: config.aperture.map(|size| size.max(1)),
            salt: chance::bits(),
        }
    }

    /// Whether it matters which of how many clients this one is.
    pub(crate) fn needs_rank(&self) -> bool {
        self.subsetting.is_none() && self.size.is_some()
    }

    /// Chooses.
    pub(crate) fn choose<'a>(&self, standing: &Standing, instances: &'a Instances) -> Chosen<'a> {
        let portions = match (&self.subsetting, self.size, standing.rank) {
            (Some(subsetting), ..) => subsetting.choose(instances),
            (None, Some(size), _) if size >= instances.len() => return all(instances),
            (None, Some(size), Some((rank, clients))) => {
                RingAperture::new(size, rank, clients).choose(instances)
            }
            (None, Some(size), None) => Rendezvous::new(size, self.salt).choose(instances),
            (None, None, _) => return all(instances),
        };
        // A choice of the user's own may name a place twice, or one that is not there.
        let mut portions: Vec<_> = portions.into_iter().filter(|p| p.at < instances.len()).collect();
        portions.sort_unstable_by_key(|portion| portion.at);
        portions.dedup_by_key(|portion| portion.at);
        let up = |instances: &[Arc<Instance>]| instances.iter().filter(|i| i.status == Status::Up).count();
        let chosen: Vec<_> = portions.iter().map(|portion| Arc::clone(&instances[portion.at])).collect();
        let aside = up(instances) - up(&chosen);
        let not_up = instances.len() - chosen.len() - aside;
        let weights = Some(portions.iter().map(|portion| portion.weight).collect());
        Chosen { instances: Cow::Owned(chosen), weights, aside, not_up }
    }
}

fn all(instances: &Instances) -> Chosen<'_> {
    Chosen { instances: Cow::Borrowed(instances), weights: None, aside: 0, not_up: 0 }
}

#[cfg(test)]
mod tests {
    use meshwork_balance::Portion;
    use meshwork_core::{InstanceId, ServiceName};

    use super::*;

    fn instances(count: usize) -> Vec<Arc<Instance>> {
        let of = |nth| {
            let service = ServiceName::new("users").unwrap();
            Arc::new(Instance::with_id(service, InstanceId::new(format!("users-{nth:03}")).unwrap()))
        };
        (0..count).map(of).collect()
    }

    fn with(change: impl FnOnce(&mut ClientConfig)) -> Aperture {
        let mut config = ClientConfig::default();
        change(&mut config);
        Aperture::new(&config)
    }

    fn ids(chosen: &Chosen<'_>) -> Vec<String> {
        chosen.instances.iter().map(|instance| instance.id.to_string()).collect()
    }

    #[test]
    fn without_it_all_are_chosen_and_nothing_is_copied() {
        let all = instances(5);
        let chosen = with(|_| {}).choose(&Standing::default(), &all);
        assert!(matches!(chosen.instances, Cow::Borrowed(_)));
        assert_eq!((chosen.instances.len(), chosen.weight(0), chosen.aside), (5, None, 0));
    }

    #[test]
    fn the_ranks_together_cover_everything_and_each_only_its_part() {
        let all = instances(30);
        let aperture = with(|config| config.aperture = Some(3));
        let mut covered: Vec<String> = Vec::new();
        for rank in 0..10 {
            let standing = Standing { rank: Some((rank, 10)), ..Standing::default() };
            let chosen = aperture.choose(&standing, &all);
            assert!(chosen.instances.len() <= 4 && chosen.instances.is_sorted_by_key(|i| i.id.clone()));
            assert_eq!(chosen.aside + chosen.instances.len(), 30);
            covered.extend(ids(&chosen));
        }
        covered.sort();
        covered.dedup();
        assert_eq!(covered.len(), 30);
    }

    #[test]
    fn without_a_rank_the_choice_is_the_clients_own_and_stays() {
        let all = instances(30);
        let aperture = with(|config| config.aperture = Some(3));
        let chosen = ids(&aperture.choose(&Standing::default(), &all));
        assert_eq!(chosen.len(), 3);
        assert_eq!(chosen, ids(&aperture.choose(&Standing::default(), &all)));
    }

    #[test]
    fn a_choice_that_makes_no_sense_is_taken_for_what_it_can_mean() {
        struct Odd;
        impl Subsetting for Odd {
            fn choose(&self, instances: &[Arc<Instance>]) -> Vec<Portion> {
                let mut twice = meshwork_balance::Rendezvous::new(2, 1).choose(instances);
                let last = *twice.last().unwrap();
                twice.insert(0, last);
                let mut beyond = last;
                beyond.at = 99;
                twice.push(beyond);
                twice
            }
        }
        let all = instances(5);
        let chosen =
            with(|config| config.subsetting = Some(Arc::new(Odd))).choose(&Standing::default(), &all);
        assert_eq!((chosen.instances.len(), chosen.aside), (2, 3));
    }
}
