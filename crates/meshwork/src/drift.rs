//! Notices that an address that was found for this process is gone, and moves the record to the one that took its place.
//!
//! An address that is still there stays the announced one, whatever else the machine gets; one that is gone is looked at
//! twice, since an interface that is configured anew has none for a moment.

use std::{sync::Arc, time::Duration};

use meshwork_config::AdvertiseConfig;
use meshwork_core::{Endpoint, ErrorChain, Host, Task};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    advertise::{Candidate, Offer, candidates, endpoints, is_found, objection},
    handle::Shared,
    notice::{NoticeKind, NoticeState},
    wiring::Wiring,
};

/// The pause before an address that is gone is looked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// What the board calls it.
const NAME: &str = "advertise";

/// Looks as long as the task lives; `None` where nothing was found that could move.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn spawn(shared: &Arc<Shared>, wiring: &Wiring, offers: Vec<Offer>) -> Option<Task> {
    let config = wiring.config.service().advertise.clone();
    let pause = config.recheck;
    if pause.is_zero() || !offers.iter().any(|offer| is_found(&config, offer.bound)) {
        return None;
    }
    let announced = shared.everybody().first()?.endpoints.clone();
    let mut drift = Drift::new(config, offers, candidates(), announced);
    let shared = Arc::clone(shared);
    let handle = tokio::spawn(async move {
        let mut next = pause;
        loop {
            sleep(next).await;
            // A few system calls, less than it would take to hand them to another thread.
            let look = drift.look(candidates());
            next = if matches!(look, Look::Gone) { pause.min(AGAIN) } else { pause };
            tell(&shared, look);
        }
    });
    Some(Task::new("addresses", CancellationToken::new(), handle))
}

fn tell(shared: &Shared, look: Look) {
    match look {
        Look::Same => shared.notices.well(NoticeKind::Address, NAME),
        Look::Gone => {}
        Look::Nowhere(error) => {
            shared.notices.trouble(NoticeKind::Address, NAME, NoticeState::Warning, Some(error));
        }
        Look::Moved { from, to } => {
            let (from, names) = (listed(&from), listed(&to));
            tracing::warn!(from, to = names, "address of this process has changed, the record moves");
            shared.update(move |instance| instance.endpoints = to);
            shared.notices.news(NoticeKind::Address, NAME, format!("moved from {from} to {names}"));
        }
    }
}

fn listed(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a look at the machine came to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// What is announced is there.
    Same,
    /// It is not there, for the first time.
    Gone,
    /// It is not there, and nothing that could take its place.
    Nowhere(String),
    /// Something else took its place.
    Moved { from: Vec<Endpoint>, to: Vec<Endpoint> },
}

/// What is announced, and where it was found.
struct Drift {
    config: AdvertiseConfig,
    offers: Vec<Offer>,
    /// How the machine was when it was chosen.
    machine: Vec<Candidate>,
    announced: Vec<Endpoint>,
    is_gone: bool,
}

impl Drift {
    fn new(
        config: AdvertiseConfig,
        offers: Vec<Offer>,
        machine: Vec<Candidate>,
        announced: Vec<Endpoint>,
    ) -> Self {
        Self { config, offers, machine, announced, is_gone: false }
    }

    fn look(&mut self, machine: Vec<Candidate>) -> Look {
        if self.is_there(&machine) {
            self.is_gone = false;
            return Look::Same;
        }
        if !std::mem::replace(&mut self.is_gone, true) {
            return Look::Gone;
        }
        match endpoints(&self.config, &self.offers, &self.preferred(&machine)) {
            Err(error) => Look::Nowhere(ErrorChain(&error).to_string()),
            Ok(to) => {
                (self.machine, self.is_gone) = (machine, false);
                let from = std::mem::replace(&mut self.announced, to.clone());
                Look::Moved { from, to }
            }
        }
    }

    /// Whether every address that was found is there, on the interface that was asked for.
    fn is_there(&self, machine: &[Candidate]) -> bool {
        let is_asked_for = |candidate: &Candidate| {
            self.config.interface.as_ref().is_none_or(|name| candidate.interface == *name)
        };
        self.hosts().all(|host| {
            let mut here = machine.iter().filter(|candidate| is_asked_for(candidate));
            here.any(|candidate| Host::Ip(candidate.ip) == *host)
        })
    }

    /// The hosts that were found; each offer has an endpoint for each of its schemes.
    fn hosts(&self) -> impl Iterator<Item = &Host> {
        let mut endpoints = self.announced.iter();
        self.offers.iter().filter_map(move |offer| {
            let first = endpoints.by_ref().take(offer.schemes.len()).map(Endpoint::host).next_back();
            first.filter(|_| is_found(&self.config, offer.bound))
        })
    }

    /// The addresses of the interfaces that the old ones were on, where they have usable ones; else all.
    fn preferred(&self, machine: &[Candidate]) -> Vec<Candidate> {
        let hosts: Vec<_> = self.hosts().collect();
        let was_home = |name: &str| {
            let mut before = self.machine.iter().filter(|before| before.interface == name);
            before.any(|before| hosts.contains(&&Host::Ip(before.ip)))
        };
        let is_usable =
            |ip| self.offers.iter().all(|offer| objection(&self.config, offer.bound, ip).is_none());
        let same: Vec<_> = machine
            .iter()
            .filter(|candidate| is_usable(candidate.ip) && was_home(&candidate.interface))
            .cloned()
            .collect();
        if same.is_empty() { machine.to_vec() } else { same }
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::Scheme;

    use super::*;

    fn machine(ips: &[(&str, &str)]) -> Vec<Candidate> {
        let one =
            |(name, ip): &(&str, &str)| Candidate { interface: (*name).into(), ip: ip.parse().unwrap() };
        ips.iter().map(one).collect()
    }

    fn drift(config: AdvertiseConfig, bound: &[&str], ips: &[(&str, &str)]) -> Drift {
        let offers: Vec<_> = bound
            .iter()
            .map(|bound| Offer { bound: bound.parse().unwrap(), schemes: vec![Scheme::Http, Scheme::Grpc] })
            .collect();
        let machine = machine(ips);
        let announced = endpoints(&config, &offers, &machine).unwrap();
        Drift::new(config, offers, machine, announced)
    }

    fn moved(look: Look) -> String {
        match look {
            Look::Moved { to, .. } => listed(&to),
            other => format!("{other:?}"),
        }
    }

    const LO: (&str, &str) = ("lo", "127.0.0.1");

    #[test]
    fn an_address_that_is_still_there_stays_whatever_else_comes() {
        let mut drift = drift(AdvertiseConfig::default(), &["0.0.0.0:80"], &[LO, ("eth0", "192.168.0.7")]);
        let more = [LO, ("docker0", "10.0.0.1"), ("eth0", "192.168.0.8"), ("eth0", "192.168.0.7")];
        assert_eq!(drift.look(machine(&more)), Look::Same);
    }

    #[test]
    fn one_that_is_gone_for_a_moment_does_not_move_the_record() {
        let here = [LO, ("docker0", "172.17.0.1"), ("eth0", "10.0.0.7")];
        let mut config = AdvertiseConfig::default();
        config.interface = Some("eth0".into());
        let mut drift = drift(config, &["0.0.0.0:80"], &here);
        assert_eq!(drift.look(machine(&here[..2])), Look::Gone);
        assert_eq!(drift.look(machine(&here)), Look::Same);
        assert_eq!(drift.look(machine(&here[..2])), Look::Gone);
        let Look::Nowhere(error) = drift.look(machine(&here[..2])) else { panic!("there is no other") };
        assert!(error.contains("eth0"), "{error}");
        let moves = drift.look(machine(&[LO, ("eth0", "10.0.0.8")]));
        assert_eq!(moved(moves), "http://10.0.0.8:80, grpc://10.0.0.8:80");
        assert_eq!(drift.look(machine(&[LO, ("eth0", "10.0.0.8")])), Look::Same);
    }

    #[test]
    fn the_interface_it_was_on_comes_before_others() {
        let here = [LO, ("docker0", "172.17.0.1"), ("eth0", "203.0.113.7")];
        let mut config = AdvertiseConfig::default();
        config.allow_loopback = false;
        let mut drift = drift(config, &["0.0.0.0:80", "127.0.0.1:90"], &here[2..]);
        let after = [here[1], ("eth0", "203.0.113.8")];
        assert_eq!(drift.look(machine(&after)), Look::Gone);
        let moves = moved(drift.look(machine(&after)));
        assert!(
            moves.starts_with("http://203.0.113.8:80, grpc://203.0.113.8:80, http://127.0.0.1:90"),
            "{moves}"
        );
        // It has none any more: another is better than none.
        assert_eq!(drift.look(machine(&here[..2])), Look::Gone);
        assert!(moved(drift.look(machine(&here[..2]))).starts_with("http://172.17.0.1:80"));
    }

    #[test]
    fn what_was_said_or_bound_cannot_move() {
        let mut said = AdvertiseConfig::default();
        said.ip = Some("10.0.0.7".parse().unwrap());
        assert!(!is_found(&said, "0.0.0.0:80".parse().unwrap()));
        let silent = AdvertiseConfig::default();
        assert!(!is_found(&silent, "10.0.0.7:80".parse().unwrap()));
        assert!(is_found(&silent, "[::]:80".parse().unwrap()));
    }
}
