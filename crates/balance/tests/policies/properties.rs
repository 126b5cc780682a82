//! Whatever happens to the nodes, the counts are right and the pick obeys the states.
//!
//! 256 cases of each; `PROPTEST_CASES` sets another number.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use meshwork_balance::{
    Arrival, Ejection, Hint, Member, Node, NodeKey, Now, Outcome, P2c, Peers, Pick, Picked, Picker, Policy,
    Reason, Ticket,
};
use meshwork_core::{Instance, InstanceId, ServiceName, Status};
use proptest::prelude::*;

use crate::all::all;

const STATUS: [Status; 5] = [Status::Up, Status::Up, Status::Up, Status::Unready, Status::Leaving];

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Back(u64),
    Leap(u64),
    Pick,
    PickHash(u64),
    PickAvoiding(usize),
    PickPinned(usize),
    Answered(usize),
    Finish(usize, bool),
    Drop(usize),
    Ready(usize, bool),
    Full(usize, bool),
    Capacity(usize, u32),
    Reset(usize),
    /// A new snapshot, in which one record says something else.
    Record(usize, u16, usize),
}

fn weight() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0u16), Just(100), Just(u16::MAX), 1..1000u16]
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..64;
    prop_oneof![
        2 => (1u64..3_000).prop_map(Step::Wait),
        8 => Just(Step::Pick),
        3 => any::<u64>().prop_map(Step::PickHash),
        1 => at.clone().prop_map(Step::PickAvoiding),
        1 => at.clone().prop_map(Step::PickPinned),
        2 => at.clone().prop_map(Step::Answered),
        8 => (at.clone(), any::<bool>()).prop_map(|(at, ok)| Step::Finish(at, ok)),
        2 => at.clone().prop_map(Step::Drop),
        2 => (at.clone(), prop::bool::weighted(0.7)).prop_map(|(at, on)| Step::Ready(at, on)),
        1 => (at.clone(), prop::bool::weighted(0.3)).prop_map(|(at, on)| Step::Full(at, on)),
        1 => (at.clone(), 0u32..6).prop_map(|(at, calls)| Step::Capacity(at, calls)),
        1 => at.clone().prop_map(Step::Reset),
        1 => (at, weight(), 0..STATUS.len()).prop_map(|(at, weight, status)| Step::Record(at, weight, status)),
    ]
}

struct Bed {
    clock: Arc<AtomicU64>,
    peers: Arc<Peers>,
    nodes: Vec<Arc<Node>>,
    records: Vec<Instance>,
    members: Arc<[Member]>,
    policy: Arc<dyn Policy>,
    picker: Box<dyn Picker>,
    tickets: Vec<Ticket>,
    seed: u64,
    /// Whether the policy keeps calls of no subset out of subsets, though nobody else takes them.
    divides: bool,
    /// Whether the clock did what no clock does.
    leapt: bool,
}

impl Bed {
    fn new(policy: Arc<dyn Policy>, records: &[(u16, usize)]) -> Self {
        Self::with(policy, records, Ejection::default())
    }

    fn with(policy: Arc<dyn Policy>, records: &[(u16, usize)], ejection: Ejection) -> Self {
        let clock = Arc::new(AtomicU64::new(1));
        let read = Arc::clone(&clock);
        let peers = Peers::with_ejection(move || Now::from_nanos(read.load(Relaxed)), ejection);
        let service = ServiceName::new("users").expect("a name");
        let record = |(index, (weight, status)): (usize, &(u16, usize))| {
            let id = InstanceId::new(format!("users-{index:05}")).expect("an id");
            let mut instance = Instance::with_id(service.clone(), id);
            instance.weight = *weight;
            instance.status = STATUS[*status];
            instance.zone = ["a", "b", "c"][index % 3].into();
            instance.deployment = if index % 4 == 3 { "canary" } else { "" }.into();
            instance
        };
        let node = |index: usize| {
            let endpoint = format!("grpc://10.0.0.{}:80", index + 1).parse().expect("an endpoint");
            Node::new(NodeKey::new([endpoint]), Arc::new(index), &peers, Arrival::new(Now::from_nanos(1)))
        };
        let nodes: Vec<_> = (0..records.len()).map(node).collect();
        let picker = policy.picker(Arc::new([]));
        let mut bed = Self {
            clock,
            peers,
            nodes,
            records: records.iter().enumerate().map(record).collect(),
            members: Arc::new([]),
            policy,
            picker,
            tickets: Vec::new(),
            seed: 1,
            divides: false,
            leapt: false,
        };
        bed.renew();
        bed
    }

    /// Makes the snapshot of the moment.
    fn renew(&mut self) {
        let pairs = self.nodes.iter().zip(&self.records);
        self.members =
            pairs.map(|(node, record)| Member::new(Arc::clone(node), Arc::new(record.clone()))).collect();
        self.picker = self.policy.picker(Arc::clone(&self.members));
    }

    fn now(&self) -> Now {
        Now::from_nanos(self.clock.load(Relaxed))
    }

    fn can_take(&self, member: &Member) -> bool {
        let alone = self.members.iter().any(|m| m.takes_calls() && m.weight() > 0);
        member.takes_calls()
            && (member.weight() > 0 || !alone)
            && member.node().is_ready()
            && !member.node().is_full()
    }

    fn pick(&mut self, hint: Hint<'_>, avoid: &[NodeKey]) {
        let able = self.members.iter().filter(|member| self.can_take(member)).count();
        let others = self.members.iter().any(|m| self.can_take(m) && !avoid.contains(m.node().key()));
        let now = self.now();
        let before: Vec<bool> = self.members.iter().map(|member| self.can_take(member)).collect();
        let known = |m: &Member| m.node().stats(now).latency.is_some();
        let known = self.members.iter().any(|m| self.can_take(m) && known(m));
        let seed = &mut self.seed;
        let mut random = || {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *seed ^ (*seed >> 29)
        };
        let mut pick = Pick::new(now, &mut random).hint(hint).avoid(avoid);
        match self.picker.pick(&mut pick) {
            Picked::Take(member, ticket) => {
                let index = *member.node().attachment::<usize>().expect("the index");
                assert!(Arc::ptr_eq(member.node(), self.members[index].node()));
                if matches!(hint, Hint::Any | Hint::Hash(_)) {
                    assert!(before[index], "{index} was no candidate");
                    let lonely = self.divides || !others || member.node().stats(now).latency.is_none();
                    assert!(
                        lonely || !avoid.contains(member.node().key()),
                        "avoided while others were there"
                    );
                } else {
                    assert!(matches!(hint, Hint::Instance(id) if *id == member.instance().id));
                    assert!(member.takes_calls());
                }
                self.tickets.push(ticket);
            }
            Picked::Wait if matches!(hint, Hint::Any | Hint::Hash(_)) && !self.divides => {
                assert!(able == 0 || !known, "waits beside {able} nodes that could take the call");
            }
            Picked::Wait => {}
            Picked::Nothing(Reason::Empty) => assert!(!self.members.iter().any(Member::takes_calls)),
            Picked::Nothing(Reason::NoSuchInstance) => {
                assert!(!matches!(hint, Hint::Any | Hint::Hash(_)));
            }
            Picked::Nothing(reason) => panic!("{reason}"),
        }
    }

    fn take(&mut self, at: usize) -> Option<Ticket> {
        (!self.tickets.is_empty()).then(|| self.tickets.swap_remove(at % self.tickets.len()))
    }

    fn apply(&mut self, step: &Step) {
        let node = |at: &usize| Arc::clone(self.members[at % self.members.len()].node());
        let now = self.now();
        match step {
            Step::Wait(ms) => {
                self.clock.fetch_add(ms * 1_000_000, Relaxed);
            }
            Step::Back(ms) => {
                self.leapt = true;
                let back = |now: u64| Some(now.saturating_sub(ms * 1_000_000));
                self.clock.fetch_update(Relaxed, Relaxed, back).expect("always");
            }
            Step::Leap(by) => {
                self.leapt = true;
                self.clock
                    .fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_add(*by)))
                    .expect("always");
            }
            Step::Pick => self.pick(Hint::Any, &[]),
            Step::PickHash(hash) => self.pick(Hint::Hash(*hash), &[]),
            Step::PickAvoiding(at) => self.pick(Hint::Any, &[node(at).key().clone()]),
            Step::PickPinned(at) => {
                let id = self.members[at % self.members.len()].instance().id.clone();
                self.pick(Hint::Instance(&id), &[]);
            }
            Step::Answered(at) => {
                let count = self.tickets.len();
                if count > 0 {
                    self.tickets[at % count].answered(now);
                }
            }
            Step::Finish(at, ok) => {
                let outcome = if *ok { Outcome::Success } else { Outcome::Failure };
                if let Some(ticket) = self.take(*at) {
                    ticket.finish(now, outcome);
                }
            }
            Step::Drop(at) => drop(self.take(*at)),
            Step::Ready(at, ready) => node(at).set_ready(*ready),
            Step::Full(at, full) => node(at).set_full(*full),
            Step::Capacity(at, calls) => node(at).set_capacity(*calls),
            Step::Reset(at) => node(at).reset_statistics(now),
            Step::Record(at, weight, status) => {
                let at = at % self.records.len();
                self.records[at].weight = *weight;
                self.records[at].status = STATUS[*status];
                self.renew();
            }
        }
    }

    /// At most max(1, 30 %) are ejected; more only because others lost their connections, and then all are used.
    fn check_cap(&self) {
        let most = (self.peers.connected() * 3 / 10).max(1);
        assert!(self.peers.ejected() <= most || self.peers.is_panicking());
    }

    fn check(&self) {
        let count = |is: fn(&Node) -> bool| self.members.iter().filter(|m| is(m.node())).count() as u32;
        assert_eq!(self.peers.connected(), count(Node::is_ready));
        assert_eq!(self.peers.ejected(), count(Node::is_ejected));
        assert!(self.peers.unhealthy() >= self.peers.ejected());
        for member in self.members.iter() {
            let open = self.tickets.iter().filter(|t| Arc::ptr_eq(t.node(), member.node())).count();
            assert_eq!(member.node().inflight() as usize, open);
            let latency = member.node().stats(self.now()).latency;
            let sane = latency.is_none_or(|latency| latency.as_secs() < 1_000_000);
            assert!(self.leapt || sane, "{latency:?}");
        }
    }
}

/// Runs the steps through one of all policies.
fn run(which: usize, records: &[(u16, usize)], steps: &[Step], ejection: Option<Ejection>) {
    let policies = all();
    let (name, policy) = &policies[which % policies.len()];
    let senseless = ejection.is_some();
    let mut bed = Bed::with(Arc::clone(policy), records, ejection.unwrap_or_default());
    bed.divides = name.contains("subsets");
    bed.check();
    for step in steps {
        bed.apply(step);
        bed.check();
        if !senseless {
            bed.check_cap();
        }
    }
    bed.tickets.clear();
    bed.check();
}

fn records() -> impl Strategy<Value = Vec<(u16, usize)>> {
    prop_oneof![
        prop::collection::vec((weight(), 0..STATUS.len()), 1..4),
        prop::collection::vec((weight(), 0..STATUS.len()), 1..14),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counts_and_picks_obey_the_states(
        which in any::<usize>(),
        records in records(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        run(which, &records, &steps, None);
    }

    #[test]
    fn neither_clocks_nor_rules_without_sense_break_anything(
        which in any::<usize>(),
        records in records(),
        steps in prop::collection::vec(prop_oneof![
            12 => step(),
            1 => (1u64..100_000).prop_map(Step::Back),
            1 => any::<u64>().prop_map(Step::Leap),
        ], 1..120),
        rules in prop::array::uniform3(prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(-1.0), Just(0.0), 0.0f32..2.0]),
        counts in prop::array::uniform2(prop_oneof![Just(0), Just(1), Just(u32::MAX), 1u32..10]),
        times in prop::array::uniform2(prop_oneof![Just(0), Just(u64::MAX), 1u64..100_000]),
    ) {
        let mut ejection = Ejection::default();
        [ejection.success_rate, ejection.share_at_most, ejection.panic_below] = rules;
        [ejection.consecutive_failures, ejection.calls_at_least] = counts;
        [ejection.first, ejection.longest] = times.map(std::time::Duration::from_millis);
        run(which, &records, &steps, Some(ejection));
    }
}

#[test]
fn an_unknown_node_gets_one_probe_at_a_time() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    bed.pick(Hint::Any, &[]);
    bed.pick(Hint::Any, &[]);
    assert_eq!(bed.members.iter().map(|m| m.node().inflight()).collect::<Vec<_>>(), [1, 1]);
    assert!(bed.members.iter().all(|member| member.node().begin(bed.now()).is_none()));
}

#[test]
fn a_fresh_client_waits_a_moment_before_it_sends_more_to_the_first_that_connected() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0), (100, 0)]);
    bed.members[1].node().set_ready(true);
    (0..5).for_each(|_| bed.pick(Hint::Any, &[]));
    assert_eq!(bed.tickets.len(), 1);
    bed.apply(&Step::Wait(21));
    (0..5).for_each(|_| bed.pick(Hint::Any, &[]));
    assert_eq!(bed.tickets.len(), 6);
}

#[test]
fn weight_zero_gets_only_pinned_calls_unless_all_have_it() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(0, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    (0..50).for_each(|_| bed.pick(Hint::Any, &[]));
    assert_eq!(bed.members[0].node().inflight(), 0);
    bed.apply(&Step::PickPinned(0));
    assert_eq!(bed.members[0].node().inflight(), 1);

    let mut bed = Bed::new(Arc::new(P2c::default()), &[(0, 0), (0, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    (0..50).for_each(|_| bed.pick(Hint::Any, &[]));
    assert!(bed.members.iter().all(|member| member.node().inflight() > 0));
}

#[test]
fn a_pinned_call_never_goes_elsewhere() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 4)]);
    bed.members[0].node().set_ready(true);
    let now = bed.now();
    let absent = InstanceId::new("users-none").unwrap();
    let mut random = || 0;
    let mut ask = |hint| match bed.picker.pick(&mut Pick::new(now, &mut random).hint(hint)) {
        Picked::Take(member, _) => Ok(member.instance().id.to_string()),
        Picked::Wait => Err(None),
        Picked::Nothing(reason) => Err(Some(reason)),
    };
    assert_eq!(ask(Hint::Instance(&absent)), Err(Some(Reason::NoSuchInstance)));
    assert_eq!(ask(Hint::Addr("10.0.0.1:80".parse().unwrap())), Ok("users-00000".into()));
    assert_eq!(ask(Hint::Addr("10.0.0.2:80".parse().unwrap())), Err(Some(Reason::NoSuchInstance)), "leaving");
    bed.members[0].node().set_ready(false);
    let id = &bed.members[0].instance().id;
    assert_eq!(ask(Hint::Instance(id)), Err(None));
    bed.apply(&Step::Reset(0));
}

#[test]
fn an_address_that_became_another_process_starts_anew() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    let node = Arc::clone(bed.members[0].node());
    for _ in 0..5 {
        bed.apply(&Step::PickPinned(0));
        bed.apply(&Step::Finish(0, false));
    }
    assert!(node.is_ejected());
    assert_eq!(node.stats(bed.now()).consecutive_failures, 5);
    bed.apply(&Step::Reset(0));
    let stats = node.stats(bed.now());
    assert!(!node.is_ejected() && stats.latency.is_none() && stats.failures == 0);
}

/// Alternating, so that no five failures come in a row.
fn fails_every_second_of(bed: &mut Bed, calls: usize) {
    for call in 0..calls {
        bed.apply(&Step::PickPinned(0));
        bed.apply(&Step::Finish(0, call % 2 == 0));
    }
}

#[test]
fn a_node_that_is_asked_little_is_judged_by_what_it_fails() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    let node = Arc::clone(bed.members[0].node());
    fails_every_second_of(&mut bed, 9);
    assert!(!node.is_ejected(), "4 failures are a fifth of 20 calls");
    fails_every_second_of(&mut bed, 2);
    assert!(node.is_ejected(), "5 are more");
}

#[test]
fn what_went_well_before_a_node_failed_does_not_stand_for_it_for_ten_seconds() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    let node = Arc::clone(bed.members[0].node());
    for _ in 0..100 {
        bed.apply(&Step::PickPinned(0));
        bed.apply(&Step::Finish(0, true));
    }
    let mut seconds = 0;
    while node.stats(bed.now()).ejections == 0 && seconds < 20 {
        bed.apply(&Step::Wait(1_000));
        fails_every_second_of(&mut bed, 4);
        seconds += 1;
    }
    assert_eq!(seconds, 8, "the first quarter of the window ends after 7.5 s");
}

#[test]
fn one_success_of_the_probe_brings_an_ejected_node_back() {
    let mut bed = Bed::new(Arc::new(P2c::default()), &[(100, 0), (100, 0)]);
    bed.members.iter().for_each(|member| member.node().set_ready(true));
    bed.apply(&Step::PickPinned(1));
    bed.apply(&Step::Wait(10));
    bed.apply(&Step::Finish(0, true));
    for _ in 0..5 {
        bed.apply(&Step::PickPinned(0));
        bed.apply(&Step::Finish(0, false));
    }
    let node = Arc::clone(bed.members[0].node());
    let ejected_for = node.stats(bed.now()).ejected_for.unwrap().as_millis();
    assert!((800..=1_200).contains(&ejected_for), "{ejected_for}");
    (0..50).for_each(|_| bed.pick(Hint::Any, &[]));
    assert_eq!(node.inflight(), 0);
    bed.apply(&Step::Wait(1_201));
    (0..50).for_each(|_| bed.pick(Hint::Any, &[]));
    assert_eq!(node.inflight(), 1, "one real request as probe");
    let probe = bed.tickets.iter().position(|t| Arc::ptr_eq(t.node(), &node)).unwrap();
    bed.apply(&Step::Finish(probe, true));
    assert!(!node.is_ejected());
    assert_eq!(node.stats(bed.now()).latency, bed.peers.median());
}
