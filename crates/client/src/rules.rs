//! What holds for calls, for each method: made of the configuration once, so that a call looks its method up once
//! and everything else is a place in a list. A change of the configuration makes new rules; calls under way keep
//! theirs.

use std::{collections::HashMap, ops::Deref, sync::Arc, time::Duration};

use http::HeaderName;
use meshwork_balance::{Member, Picker, Policy, Subset, SubsetId, Subsets, ZoneAware};
use meshwork_resilience::{
    deadline::{Limit, Limits},
    hedge::{HedgePolicy, Methods},
};

use crate::{ClientConfig, Local, MethodConfig, ZoneConfig, limit::Limiter, standing::Standing};

/// See the module.
pub(crate) struct Rules {
    /// The first one is the client's own: of every method that the configuration does not name.
    rules: Box<[Rule]>,
    methods: HashMap<Box<str>, usize>,
    policies: Vec<Arc<dyn Policy>>,
    /// The client's own time limit.
    timeout: Option<Limit>,
    /// The client's own limit of calls.
    limiter: Option<Arc<Limiter>>,
    subsets: Box<[Subset]>,
    zones: ZoneConfig,
    /// What is known of the latency of each method; only where any is hedged.
    hedges: Option<Arc<Methods>>,
}

/// What holds for the calls of one method.
pub(crate) struct Rule {
    pub(crate) timeout: Option<Limit>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) idempotent: bool,
    pub(crate) attempts: u8,
    pub(crate) hedge: bool,
    pub(crate) hash_header: Option<HeaderName>,
    limiter: Option<Arc<Limiter>>,
    /// Its place in the pickers of a store.
    policy: usize,
}

/// The rule of one call, with the rules that it is of.
#[derive(Clone)]
pub(crate) struct Ruled {
    rules: Arc<Rules>,
    at: usize,
}

/// The pickers of a store, one for each policy of the rules.
pub(crate) struct Pickers {
    rules: Arc<Rules>,
    pickers: Box<[Box<dyn Picker>]>,
}

// === impl Rules ===

impl Rules {
    /// As `config` says. What `before` learned and counts goes on, where it means the same.
    pub(crate) fn new(config: &ClientConfig, before: Option<&Self>) -> Self {
        let known =
            |method: &str| before.and_then(|before| before.rules[before.place(method)?].limiter.clone());
        let mut policies = vec![Arc::clone(&config.policy)];
        let mut rules = vec![Rule::new(config, &MethodConfig::default(), 0, None)];
        let mut methods = HashMap::with_capacity(config.methods.len());
        for (name, method) in &config.methods {
            let policy = method.policy.as_ref().map_or(0, |policy| place_of(policy, &mut policies));
            let limiter = Limiter::new(&method.limit, known(name));
            methods.insert(name.as_str().into(), rules.len());
            rules.push(Rule::new(config, method, policy, limiter));
        }
        let hedged = rules.iter().any(|rule| rule.hedge);
        let learned = || before.and_then(|before| before.hedges.clone());
        let unlearned = || Arc::new(Methods::new(HedgePolicy::default()));
        Self {
            rules: rules.into(),
            methods,
            policies,
            timeout: config.timeout.clone(),
            limiter: Limiter::new(&config.limit, before.and_then(|before| before.limiter.clone())),
            subsets: config.subsets.clone().into(),
            zones: config.zones,
            hedges: hedged.then(|| learned().unwrap_or_else(unlearned)),
        }
    }

    fn place(&self, method: &str) -> Option<usize> {
        self.methods.get(method).copied()
    }

    fn at(&self, path: &str) -> usize {
        if self.methods.is_empty() {
            return 0;
        }
        self.place(path.strip_prefix('/').unwrap_or(path)).unwrap_or(0)
    }

    /// What holds for a call to `path`.
    pub(crate) fn of(self: Arc<Self>, path: &str) -> Ruled {
        Ruled { at: self.at(path), rules: self }
    }

    /// The subsets, in the order in which calls are offered to their shares.
    pub(crate) fn subsets(&self) -> &[Subset] {
        &self.subsets
    }

    /// What is known of the latency of each method; only where any is hedged.
    pub(crate) fn hedges(&self) -> Option<&Arc<Methods>> {
        self.hedges.as_ref()
    }

    /// The client's own limit, then those of methods by name.
    pub(crate) fn limiters(&self) -> impl Iterator<Item = (Option<&str>, &Arc<Limiter>)> {
        let mut methods: Vec<_> = self.methods.iter().map(|(name, at)| (&**name, *at)).collect();
        methods.sort_unstable();
        let own = self.limiter.as_ref().map(|limiter| (None, limiter));
        let of = |(name, at): (_, usize)| Some((Some(name), self.rules[at].limiter.as_ref()?));
        own.into_iter().chain(methods.into_iter().filter_map(of))
    }
}

/// The place of `policy` among `policies`, added if it is new there.
fn place_of(policy: &Arc<dyn Policy>, policies: &mut Vec<Arc<dyn Policy>>) -> usize {
    policies.iter().position(|known| Arc::ptr_eq(known, policy)).unwrap_or_else(|| {
        policies.push(Arc::clone(policy));
        policies.len() - 1
    })
}

// === impl Rule ===

impl Rule {
    fn new(
        config: &ClientConfig,
        method: &MethodConfig,
        policy: usize,
        limiter: Option<Arc<Limiter>>,
    ) -> Self {
        let attempt_timeout = method.attempt_timeout.as_ref().or(config.attempt_timeout.as_ref());
        Self {
            timeout: method.timeout.clone(),
            attempt_timeout: attempt_timeout.map(Limit::duration),
            idempotent: method.idempotent,
            attempts: method.attempts.unwrap_or(config.retry.attempts),
            hedge: method.hedge.unwrap_or(config.hedge),
            hash_header: method.hash_header.as_ref().or(config.hash_header.as_ref()).cloned(),
            limiter,
            policy,
        }
    }
}

// === impl Ruled ===

impl Deref for Ruled {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        &self.rules.rules[self.at]
    }
}

impl Ruled {
    /// The configured limits of the call's time.
    pub(crate) fn limits(&self) -> Limits<'_> {
        Limits { method: self.timeout.as_ref(), client: self.rules.timeout.as_ref() }
    }

    /// What admits the call: the method's own limit, then the client's.
    pub(crate) fn limiters(&self) -> [Option<&Arc<Limiter>>; 2] {
        [self.limiter.as_ref(), self.rules.limiter.as_ref()]
    }

    /// What is known of the method's latency; only where its calls are hedged.
    pub(crate) fn hedges(&self) -> Option<&Arc<Methods>> {
        self.rules.hedges.as_ref().filter(|_| self.hedge)
    }

    /// The subset that a call of this lane asks for.
    pub(crate) fn asks(&self, lane: Option<&str>) -> Option<SubsetId> {
        if self.rules.subsets.is_empty() { None } else { lane.map(SubsetId::of) }
    }

    /// The subset of this id, where there is one.
    pub(crate) fn subset(&self, id: Option<SubsetId>) -> Option<&Subset> {
        let id = id?;
        self.rules.subsets.iter().find(|subset| subset.id() == id)
    }
}

// === impl Pickers ===

impl Pickers {
    /// Over `members`, for a client that stands there among its own kind.
    pub(crate) fn new(
        rules: &Arc<Rules>,
        local: &Local,
        standing: &Standing,
        members: &Arc<[Member]>,
    ) -> Self {
        let divided = |policy| divided(rules, local, standing, policy).picker(Arc::clone(members));
        Self { pickers: rules.policies.iter().map(divided).collect(), rules: Arc::clone(rules) }
    }

    /// The one for a call. `path` is looked at only when the rules were changed meanwhile.
    pub(crate) fn of(&self, call: &Ruled, path: &str) -> &dyn Picker {
        let rule = match Arc::ptr_eq(&self.rules, &call.rules) {
            true => &**call,
            false => &self.rules.rules[self.rules.at(path)],
        };
        &*self.pickers[rule.policy]
    }
}

/// `policy` inside each part of the service: subsets first, zones in each of them.
fn divided(rules: &Rules, local: &Local, standing: &Standing, policy: &Arc<dyn Policy>) -> Arc<dyn Policy> {
    let mut policy = Arc::clone(policy);
    let callers = &standing.callers;
    if !local.zone.is_empty() && rules.zones.aware.unwrap_or(!callers.is_empty()) {
        let aware = ZoneAware::new(Arc::clone(&local.zone), policy).max_skew(rules.zones.max_skew);
        policy = Arc::new(match callers.is_empty() {
            true => aware,
            false => aware.callers(callers.iter().map(|(zone, count)| (Arc::clone(zone), *count))),
        });
    }
    if !rules.subsets.is_empty() {
        let subsets = rules.subsets.iter().cloned();
        policy = Arc::new(subsets.fold(Subsets::of(policy), Subsets::with));
    }
    policy
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use meshwork_balance::RoundRobin;
    use meshwork_resilience::deadline::{Asked, Bound, Deadline};
    use tokio::time::Instant;

    use super::*;
    use crate::CallError;

    const MS: Duration = Duration::from_millis(1);

    fn rules(change: impl FnOnce(&mut ClientConfig)) -> Arc<Rules> {
        let mut config = ClientConfig::default();
        change(&mut config);
        Arc::new(Rules::new(&config, None))
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_names_the_methods_limit_where_it_has_one() {
        let rules = rules(|config| {
            config.methods.insert("a.B/C".into(), MethodConfig::new(Some(Limit::new(5 * MS, "here")), false));
        });
        let rule = rules.of("/a.B/C");
        let deadline = Deadline::new(Instant::now(), &Asked::default(), rule.limits());
        let passed = deadline.body().unwrap().passed("end", rule.limits());
        let error = CallError::from(passed.delivered_maybe());
        assert_eq!(error.to_string(), "no end within 5ms (here) (may have been delivered)");
    }

    #[tokio::test(start_paused = true)]
    async fn the_built_in_default_yields_to_the_caller_and_cuts_neither_streams_nor_bodies() {
        let (now, rule) = (Instant::now(), rules(|_| {}).of("/"));
        let deadline = Deadline::new(now, &Asked::default(), rule.limits());
        assert_eq!(deadline.waiting().map(Bound::at), Some(now + 10_000 * MS));
        assert!(deadline.exchange(true).is_none() && deadline.body().is_none());
        let asked = Asked { option: Some(60_000 * MS), ..Asked::default() };
        let chosen = Deadline::new(now, &asked, rule.limits());
        assert_eq!(chosen.exchange(false).map(Bound::at), Some(now + 60_000 * MS));
    }

    #[test]
    fn what_a_method_does_not_say_is_the_clients() {
        let rules = rules(|config| {
            config.attempt_timeout = Some(Limit::new(20 * MS, "client"));
            config.retry.attempts = 4;
            config.hedge = true;
            config.hash_header = Some(HeaderName::from_static("x-user"));
            config.methods.insert("a.B/Plain".into(), MethodConfig::default());
            let mut own = MethodConfig::new(None, true);
            own.attempt_timeout = Some(Limit::new(5 * MS, "method"));
            (own.attempts, own.hedge) = (Some(1), Some(false));
            own.hash_header = Some(HeaderName::from_static("x-tenant"));
            config.methods.insert("a.B/Own".into(), own);
        });
        let said = |path| {
            let rule = Arc::clone(&rules).of(path);
            let header = rule.hash_header.as_ref().map(ToString::to_string).unwrap();
            (rule.attempt_timeout, rule.attempts, rule.hedge, rule.idempotent, header)
        };
        assert_eq!(said("/a.B/Plain"), (Some(20 * MS), 4, true, false, "x-user".into()));
        assert_eq!(said("/a.B/Other"), said("/a.B/Plain"));
        assert_eq!(said("/a.B/Own"), (Some(5 * MS), 1, false, true, "x-tenant".into()));
    }

    #[test]
    fn methods_of_one_policy_share_a_picker() {
        let shared: Arc<dyn Policy> = Arc::new(RoundRobin::default());
        let rules = rules(|config| {
            for name in ["a.B/C", "a.B/D"] {
                let method = MethodConfig { policy: Some(Arc::clone(&shared)), ..MethodConfig::default() };
                config.methods.insert(name.into(), method);
            }
        });
        assert_eq!(rules.policies.len(), 2);
        let of = |path| Arc::clone(&rules).of(path).policy;
        assert_eq!((of("/a.B/C"), of("/a.B/D"), of("/a.B/E")), (1, 1, 0));
    }

    #[test]
    fn limits_that_did_not_change_go_on_counting_and_latencies_stay_known() {
        let mut config = ClientConfig::default();
        config.limit.concurrency = NonZeroU32::new(2);
        config.hedge = true;
        let mut method = MethodConfig::default();
        method.limit.concurrency = NonZeroU32::new(1);
        config.methods.insert("a.B/C".into(), method);
        let before = Rules::new(&config, None);
        config.methods.get_mut("a.B/C").unwrap().limit.concurrency = NonZeroU32::new(3);
        let after = Rules::new(&config, Some(&before));
        let limiters =
            |rules: &Rules| rules.limiters().map(|(_, l)| Arc::as_ptr(l).addr()).collect::<Vec<_>>();
        assert_eq!(limiters(&before)[0], limiters(&after)[0]);
        assert_ne!(limiters(&before)[1], limiters(&after)[1]);
        assert!(Arc::ptr_eq(before.hedges().unwrap(), after.hedges().unwrap()));
    }
}
