//! Two registries as one: every service on both, or each service on one of them.

use std::time::Duration;

use meshwork_core::{Backend, ServiceName};
use meshwork_registry::{Dual, Split};
use meshwork_testkit::conformance::{Deed, Limits, Linked, Rig, Undone};

/// Every service on both.
pub(super) struct Both<A, B>(A, B);

/// Services by how their names begin: half of them on the second.
pub(super) struct Apart<A, B>(A, B);

/// What leads to the second; the names of the suite begin with a `c` and the number of the behaviour.
const SECOND: [&str; 6] = ["c00", "c02", "c04", "c06", "c08", "c10"];

impl<A: Rig, B: Rig> Both<A, B> {
    pub(super) fn new(primary: A, secondary: B) -> Self {
        Self(primary, secondary)
    }
}

impl<A: Rig, B: Rig> Apart<A, B> {
    pub(super) fn new(default: A, second: B) -> Self {
        Self(default, second)
    }
}

impl<A: Rig, B: Rig> Rig for Both<A, B> {
    fn name(&self) -> String {
        let both = (self.0.name(), self.1.name());
        if both.0 == both.1 { format!("dual in {}", both.0) } else { "dual".to_owned() }
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(Dual::new(self.0.backend(), self.1.backend()))
    }

    fn env(&self) -> String {
        self.0.env()
    }

    fn limits(&self) -> Limits {
        let mut limits = widest(&self.0.limits(), &self.1.limits());
        limits.connections = self.0.limits().connections + self.1.limits().connections;
        limits.idle_bytes = self.0.limits().idle_bytes + self.1.limits().idle_bytes;
        limits
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        match deed {
            Deed::LoseOne => self.1.act(Deed::Stop).await,
            // The second first: it is the one that may not be able to, and then nothing was done.
            deed => {
                self.1.act(deed.clone()).await?;
                self.0.act(deed).await
            }
        }
    }

    async fn linked(&self) -> Result<Linked, Undone> {
        let (a, mut links) = self.0.linked().await?.into_parts();
        let (b, others) = self.1.linked().await?.into_parts();
        links.extend(others);
        Ok(Linked::new(Dual::new(a, b), links))
    }
}

impl<A: Rig, B: Rig> Rig for Apart<A, B> {
    fn name(&self) -> String {
        "split".to_owned()
    }

    fn backend(&self) -> Box<dyn Backend> {
        let split = Split::new(self.0.backend());
        Box::new(
            SECOND.iter().fold(split, |split, begins| split.route(&format!("{begins}*"), self.1.backend())),
        )
    }

    fn env(&self) -> String {
        self.1.env()
    }

    fn limits(&self) -> Limits {
        widest(&self.0.limits(), &self.1.limits())
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        match service_of(&deed) {
            Some(service) if SECOND.iter().any(|begins| service.as_str().starts_with(begins)) => {
                self.1.act(deed).await
            }
            Some(_) => self.0.act(deed).await,
            None if matches!(deed, Deed::LoseOne) => Err(Undone::cannot("each service has one server")),
            None => {
                self.0.act(deed.clone()).await?;
                self.1.act(deed).await
            }
        }
    }

    async fn linked(&self) -> Result<Linked, Undone> {
        Err(Undone::cannot("half of the services have no link to cut"))
    }
}

fn service_of(deed: &Deed) -> Option<&ServiceName> {
    match deed {
        Deed::Forget(instance) | Deed::Erase(instance) | Deed::Put(instance) | Deed::Spoil(instance) => {
            Some(&instance.service)
        }
        Deed::Plant(_, service, _) | Deed::PutForeign(service, _) => Some(service),
        _ => None,
    }
}

/// What both keep: the longer time, the weaker promise.
fn widest(a: &Limits, b: &Limits) -> Limits {
    let longer = |of: fn(&Limits) -> Duration| of(a).max(of(b));
    let mut limits = Limits::of_ttl(longer(|limits| limits.ttl));
    limits.seen = longer(|limits| limits.seen);
    limits.own_loss = longer(|limits| limits.own_loss);
    limits.wiped = longer(|limits| limits.wiped);
    limits.returned = longer(|limits| limits.returned);
    limits.noticed = longer(|limits| limits.noticed);
    limits.leave = longer(|limits| limits.leave);
    limits.settles = longer(|limits| limits.settles);
    limits.sees_every_revision = a.sees_every_revision && b.sees_every_revision;
    limits.keeps_records = a.keeps_records && b.keeps_records;
    limits
}
