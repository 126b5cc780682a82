//! Parts of a service that calls are sent to by rule: versions, deployments, lanes, percentages.

use std::{fmt, sync::Arc};

use meshwork_core::Instance;

use crate::{Hint, Member, Pick, Picked, Picker, Policy, Pool, Reason, SubsetId, chance::scramble, parts};

/// Which instances make a part of a service, which calls go there, and what happens when it cannot take them.
///
/// ```
/// # use meshwork_balance::Subset;
/// let canary = Subset::named("canary").deployment("canary").share(0.05);
/// let blue = Subset::named("blue").label("lane", "blue").version("2.1.0").strict();
/// ```
#[derive(Clone, Debug)]
pub struct Subset {
    id: SubsetId,
    name: Arc<str>,
    /// All of them must hold.
    conditions: Vec<Condition>,
    share: f64,
    fallback: Fallback,
}

/// What a record must say.
#[derive(Clone, Debug)]
enum Condition {
    Version(Arc<str>),
    Deployment(Arc<str>),
    Label(Arc<str>, Arc<str>),
}

impl Condition {
    fn holds(&self, instance: &Instance) -> bool {
        match self {
            Self::Version(version) => instance.app_version == *version,
            Self::Deployment(deployment) => instance.deployment == *deployment,
            Self::Label(key, value) => instance.labels.get(key) == Some(&**value),
        }
    }
}

/// Where a call goes when no member of its subset can take it: none is there, or none is connected, healthy and
/// free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Fallback {
    /// To the base: the instances of no subset (all, when there are no such). The default.
    #[default]
    Base,
    /// To any instance.
    Any,
    /// Nowhere else: it waits, or ends with [`Reason::EmptySubset`] when the subset has no member.
    Strict,
}

impl Subset {
    /// All instances so far, no calls but those that ask for it, falling back to the base.
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self {
            id: SubsetId::of(&name),
            name,
            conditions: Vec::new(),
            share: 0.0,
            fallback: Fallback::default(),
        }
    }

    /// Only instances of this application version.
    pub fn version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.conditions.push(Condition::Version(version.into()));
        self
    }

    /// Only instances of this deployment.
    pub fn deployment(mut self, deployment: impl Into<Arc<str>>) -> Self {
        self.conditions.push(Condition::Deployment(deployment.into()));
        self
    }

    /// Only instances with this label.
    pub fn label(mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        self.conditions.push(Condition::Label(key.into(), value.into()));
        self
    }

    /// The part of the calls which ask for no subset that goes here, 0 to 1, whatever the number of instances.
    ///
    /// By the call's hash: equal hashes go the same way, and when the part grows, nobody goes back. Without a
    /// hash by chance.
    pub fn share(mut self, part: f64) -> Self {
        self.share = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        self
    }

    /// Where calls go that no member can take.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// The same as [`Fallback::Strict`].
    pub fn strict(self) -> Self {
        self.fallback(Fallback::Strict)
    }

    /// What calls carry to ask for it.
    pub fn id(&self) -> SubsetId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part of the calls of no subset that goes here.
    pub fn part(&self) -> f64 {
        self.share
    }

    /// Where calls go that no member can take.
    pub fn when_empty(&self) -> Fallback {
        self.fallback
    }

    /// Whether `instance` belongs to it.
    pub fn has(&self, instance: &Instance) -> bool {
        self.conditions.iter().all(|condition| condition.holds(instance))
    }
}

/// Divides the members by rules; inside each part another policy chooses.
///
/// For canaries, lanes, colours and sticky percentages. A call goes to the subset that it
/// [asks for](Pick::subset); one that asks for none, or for one that is not known here (a colour that only other
/// services have), to a subset by its [share](Subset::share), else to the base: the instances of no subset, or
/// all when there are no such. An instance may belong to several. All pickers are prepared with the snapshot:
/// rules cost a call a few comparisons. For new rules make a new policy over the same members; nodes keep what
/// they know.
///
/// Envoy's load balancer subsets and Istio's `DestinationRule` with weighted routes, but sticky as in
/// [istio#1703](https://github.com/istio/istio/issues/1703).
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{P2c, Policy, Subset, Subsets};
/// let policy: Arc<dyn Policy> = Arc::new(
///     Subsets::of(P2c::default()).with(Subset::named("canary").deployment("canary").share(0.05)),
/// );
/// ```
#[derive(Clone)]
pub struct Subsets {
    inner: Arc<dyn Policy>,
    subsets: Vec<Subset>,
}

impl Subsets {
    /// No subsets yet: all calls go to all members by `inner`.
    pub fn of(inner: impl Policy) -> Self {
        Self { inner: Arc::new(inner), subsets: Vec::new() }
    }

    /// Adds one; one of the same name is replaced. Calls of no subset are offered to their shares in this order.
    pub fn with(mut self, subset: Subset) -> Self {
        match self.subsets.iter_mut().find(|known| known.id == subset.id) {
            Some(known) => *known = subset,
            None => self.subsets.push(subset),
        }
        self
    }

    /// The part of those calls that the subsets before have left, which makes up the share.
    fn parts(&self) -> impl Iterator<Item = f64> {
        self.subsets.iter().scan(1.0f64, |left, subset| {
            let part = if *left > 0.0 { (subset.share / *left).min(1.0) } else { 0.0 };
            *left -= subset.share;
            Some(part)
        })
    }
}

impl fmt::Debug for Subsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subsets").field("subsets", &self.subsets).finish_non_exhaustive()
    }
}

impl Policy for Subsets {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        if self.subsets.is_empty() {
            return self.inner.picker(members);
        }
        let pool = Pool::new(members);
        let picker = |has: &dyn Fn(&Instance) -> bool| {
            let members: Vec<Member> = pool.iter().filter(|member| has(member.instance())).cloned().collect();
            (!members.is_empty()).then(|| self.inner.picker(members.into()))
        };
        let part = |(subset, part): (&Subset, f64)| Part {
            id: subset.id,
            until: (part * 2f64.powi(64)) as u64,
            fallback: subset.fallback,
            picker: picker(&|instance| subset.has(instance)),
        };
        let parts = self.subsets.iter().zip(self.parts()).map(part).collect();
        let base = picker(&|instance| !self.subsets.iter().any(|subset| subset.has(instance)));
        let all = self.inner.picker(pool.iter().cloned().collect());
        Box::new(ByRule { parts, base, all, pool })
    }
}

struct ByRule {
    pool: Pool,
    parts: Box<[Part]>,
    /// Absent when each instance belongs to a subset.
    base: Option<Box<dyn Picker>>,
    all: Box<dyn Picker>,
}

struct Part {
    id: SubsetId,
    /// Calls whose bits are below it go here by share.
    until: u64,
    fallback: Fallback,
    /// Absent when it has no member.
    picker: Option<Box<dyn Picker>>,
}

impl ByRule {
    /// The part that the call is for; `None` = the base.
    fn part(&self, pick: &mut Pick<'_>) -> Option<&Part> {
        if let Some(id) = pick.subset
            && let Some(asked) = self.parts.iter().find(|part| part.id == id)
        {
            return Some(asked);
        }
        // For each part other bits: that one grows, moves nobody between the others.
        self.parts.iter().filter(|part| part.until > 0).find(|part| {
            let bits = match pick.hint {
                Hint::Hash(hash) => scramble(hash.wrapping_add(part.id.bits())),
                _ => (pick.random)(),
            };
            bits < part.until || part.until == u64::MAX
        })
    }

    fn base(&self) -> &dyn Picker {
        self.base.as_deref().unwrap_or(&*self.all)
    }
}

impl Picker for ByRule {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = self.pool.without_choice(pick) {
            return answer;
        }
        let Some(part) = self.part(pick) else { return self.base().pick(pick) };
        let next = match part.fallback {
            Fallback::Base => self.base(),
            Fallback::Any => &*self.all,
            Fallback::Strict => {
                return part
                    .picker
                    .as_ref()
                    .map_or(Picked::Nothing(Reason::EmptySubset), |own| own.pick(pick));
            }
        };
        parts::ask(part.picker.as_deref().into_iter().chain([next]), pick)
    }
}
