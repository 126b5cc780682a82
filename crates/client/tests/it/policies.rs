//! Who chooses the instance of a call: policies for each client and method, keys, zones, the aperture.

use std::{collections::BTreeSet, sync::Arc};

use meshwork_client::{
    Channel, ClientConfig, Local, MethodConfig,
    balance::{First, LeastRequest, Member, Pick, Picked, Picker, Policy, Pool, RingHash, RoundRobin},
};
use meshwork_core::{Instance, Publisher, Staleness, Timestamp, Watch};

use tokio::time::Instant;

use crate::{
    peer::Peer,
    support::{LIMIT, Registry, id, native, service, text, until},
};

const NAMES: [&str; 4] = ["users-1", "users-2", "users-3", "users-4"];

struct Fleet {
    peers: Vec<Peer>,
    registry: Registry,
    channel: Channel,
}

impl Fleet {
    /// Native peers whose records `change` may touch.
    async fn new(
        count: usize,
        record: impl Fn(usize, &mut Instance),
        config: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let mut peers = Vec::new();
        for name in &NAMES[..count] {
            peers.push(Peer::native(name).await);
        }
        let registry = Registry::of(records(&peers, record));
        let channel = registry.channel_with(config);
        let fleet = Self { peers, registry, channel };
        fleet.channel.ready().await.unwrap();
        fleet.connected().await;
        fleet
    }

    async fn connected(&self) {
        until("all are connected", || self.channel.nodes().iter().all(|node| node.connects == 1)).await;
    }

    /// Who answers so many calls to `path`.
    async fn answers(&self, path: &str, calls: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..calls {
            answers.push(text(self.channel.get(path)).await.unwrap());
        }
        answers
    }
}

fn records(peers: &[Peer], record: impl Fn(usize, &mut Instance)) -> Vec<Instance> {
    let of = |(nth, peer): (usize, &Peer)| {
        let mut instance = native(NAMES[nth], "http", peer.addr);
        // Long enough ago that nobody is spared as a beginner.
        instance.start_time = Some(Timestamp::from_millis(1));
        record(nth, &mut instance);
        instance
    };
    peers.iter().enumerate().map(of).collect()
}

fn counts(answers: &[String]) -> Vec<usize> {
    NAMES.iter().map(|name| answers.iter().filter(|answer| answer == name).count()).collect()
}

fn by(policy: impl Policy) -> MethodConfig {
    let mut method = MethodConfig::default();
    method.policy = Some(Arc::new(policy));
    method
}

#[tokio::test]
async fn each_method_has_its_policy_over_the_same_connections_and_figures() {
    let fleet = Fleet::new(
        3,
        |nth, record| record.weight = if nth == 1 { 200 } else { 100 },
        |config| {
            config.policy = Arc::new(RoundRobin::default());
            config.methods.insert("primary".into(), by(First::default()));
        },
    )
    .await;
    // What is not known yet is tried first, whatever the policy.
    fleet.answers("/", 6).await;
    assert_eq!(counts(&fleet.answers("/", 30).await)[..3], [10, 10, 10]);
    assert_eq!(counts(&fleet.answers("/primary", 30).await)[..3], [0, 30, 0]);
    assert!(fleet.peers.iter().all(|peer| peer.connections() == 1));
    assert_eq!(fleet.channel.nodes().iter().map(|node| u64::from(node.successes)).sum::<u64>(), 66);
}

#[tokio::test]
async fn calls_with_one_value_of_a_header_meet_one_instance() {
    let fleet = Fleet::new(
        3,
        |_, _| {},
        |config| {
            config.policy = Arc::new(RingHash::default());
            config.hash_header = Some("x-user".parse().unwrap());
            let mut tenant = MethodConfig::default();
            tenant.hash_header = Some("x-tenant".parse().unwrap());
            config.methods.insert("tenants".into(), tenant);
        },
    )
    .await;
    fleet.answers("/", 12).await;
    let ask = async |path: &str, user: &str, tenant: &str| {
        text(fleet.channel.get(path).header("x-user", user).header("x-tenant", tenant)).await.unwrap()
    };
    let mut met = BTreeSet::new();
    for user in ["ada", "bo", "cleo", "dan", "eve", "fay", "gus", "hal"] {
        let first = ask("/users", user, "x").await;
        for _ in 0..5 {
            assert_eq!(ask("/users", user, "y").await, first, "the key is {user}");
        }
        met.insert(first);
    }
    assert!(met.len() > 1, "keys are spread: {met:?}");
    let first = ask("/tenants", "ada", "acme").await;
    for user in ["bo", "cleo", "dan", "eve", "fay", "gus", "hal"] {
        assert_eq!(ask("/tenants", user, "acme").await, first, "the method's header counts");
    }
    // A key that is given in code wins over the header.
    for user in ["ada", "bo", "cleo", "dan", "eve", "fay", "gus", "hal"] {
        let given = fleet.channel.hash(user);
        let met = text(given.get("/users").header("x-user", "ada")).await.unwrap();
        assert_eq!(met, ask("/users", user, "x").await, "the key is {user}");
    }
}

/// The member with the highest id, while it can take the call.
struct Last;

struct LastFirst(Pool);

impl Policy for Last {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(LastFirst(Pool::new(members)))
    }
}

impl Picker for LastFirst {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        self.0.take(pick, (0..self.0.len()).rev())
    }
}

#[tokio::test]
async fn a_policy_of_the_users_own_chooses_and_an_instance_that_fails_it_is_passed_over() {
    let fleet = Fleet::new(3, |_, _| {}, |config| config.policy = Arc::new(Last)).await;
    fleet.answers("/", 6).await;
    assert_eq!(counts(&fleet.answers("/", 10).await)[..3], [0, 0, 10]);
    fleet.registry.set(records(&fleet.peers, |_, _| {}).into_iter().take(2));
    until("the last one is gone", || fleet.channel.nodes().len() == 2).await;
    assert_eq!(counts(&fleet.answers("/", 10).await)[..3], [0, 10, 0]);
}

#[tokio::test]
async fn a_running_channel_takes_another_policy_and_keeps_its_connections() {
    let fleet = Fleet::new(3, |_, _| {}, |config| config.policy = Arc::new(RoundRobin::default())).await;
    fleet.answers("/", 6).await;
    let mut config = fleet.channel.config().clone();
    config.policy = Arc::new(Last);
    let mut method = MethodConfig::default();
    method.policy = Some(Arc::new(RoundRobin::default()));
    config.methods.insert("fair".into(), method);
    fleet.channel.clone().reconfigure(&config);
    // Calls may see the old pickers until the cluster's task has made the new ones.
    let end = Instant::now() + LIMIT;
    while counts(&fleet.answers("/", 6).await)[2] < 6 {
        assert!(Instant::now() < end, "the policy was not taken");
    }
    assert_eq!(counts(&fleet.answers("/", 9).await)[..3], [0, 0, 9]);
    assert_eq!(counts(&fleet.answers("/fair", 9).await)[..3], [3, 3, 3]);
    assert!(fleet.peers.iter().all(|peer| peer.connections() == 1));
}

fn zoned(nth: usize, record: &mut Instance) {
    record.zone = if nth < 2 { "a".into() } else { "b".into() };
}

/// Instances of the caller's own service, by zone.
fn callers(zones: &[&str]) -> Watch {
    let instance = |(nth, zone): (usize, &&str)| {
        let mut instance = Instance::with_id(service(), id(&format!("orders-{nth}")));
        instance.zone = (*zone).into();
        Arc::new(instance)
    };
    let publisher = Publisher::new(Arc::from([]));
    publisher.publish(Staleness::Fresh, zones.iter().enumerate().map(instance).collect(), Arc::new([]));
    publisher.watch()
}

fn in_zone_a(config: &mut ClientConfig, peers: Option<Watch>) {
    config.policy = Arc::new(LeastRequest::default());
    config.local.zone = "a".into();
    config.local.instance = Some(id("orders-0"));
    config.local.peers = peers;
}

/// How many of 300 calls cross from zone a to b.
async fn crossing(config: impl FnOnce(&mut ClientConfig)) -> usize {
    let fleet = Fleet::new(4, zoned, config).await;
    let counts = counts(&fleet.answers("/", 300).await);
    counts[2] + counts[3]
}

#[tokio::test]
async fn instances_that_one_view_brings_are_new_together() {
    // Were each new by itself, the first of them would be preferred in its slow start.
    for _ in 0..4 {
        let fleet = Fleet::new(
            4,
            |_, instance| instance.start_time = None,
            |config| config.policy = Arc::new(RoundRobin::default()),
        );
        let counts = counts(&fleet.await.answers("/", 40).await);
        assert!(counts.iter().all(|count| *count >= 8), "{counts:?}");
    }
}

#[tokio::test]
async fn calls_stay_in_the_zone_as_far_as_it_can_carry_its_callers() {
    // Half of the callers and half of the capacity are in the zone.
    let even = crossing(|config| in_zone_a(config, Some(callers(&["a", "b"])))).await;
    assert_eq!(even, 0);
    // Three of four callers are: a third of their calls is too much.
    let crowded = crossing(|config| in_zone_a(config, Some(callers(&["a", "a", "a", "b"])))).await;
    assert!((60..=130).contains(&crowded), "{crowded}");
    // What is too much for one is not for another.
    let skewed = crossing(|config| {
        in_zone_a(config, Some(callers(&["a", "a", "a", "b"])));
        config.zones.max_skew = 2.0;
    });
    assert_eq!(skewed.await, 0);
}

#[tokio::test]
async fn zones_count_only_where_they_are_known_and_asked_for() {
    let both = 100..=200;
    let unknown = crossing(|config| {
        // By calls in flight: by latency, a hiccup of the machine would be a reason to stay away from a zone.
        config.policy = Arc::new(LeastRequest::default());
        config.zones.aware = Some(true);
    });
    let unknown = unknown.await;
    assert!(both.contains(&unknown), "no zone of its own: {unknown}");
    let callers_unknown = crossing(|config| in_zone_a(config, None)).await;
    assert!(both.contains(&callers_unknown), "{callers_unknown}");
    let off = crossing(|config| {
        in_zone_a(config, Some(callers(&["a", "b"])));
        config.zones.aware = Some(false);
    });
    let off = off.await;
    assert!(both.contains(&off), "{off}");
    let asked = crossing(|config| {
        in_zone_a(config, None);
        config.zones.aware = Some(true);
    });
    assert_eq!(asked.await, 0);
}

#[tokio::test]
async fn a_client_connects_to_its_part_of_the_fleet_and_says_what_it_leaves_to_others() {
    let local = |rank: usize| {
        let mut local = Local::default();
        local.instance = Some(id(&format!("orders-{rank}")));
        local.peers = Some(callers(&["", ""]));
        local
    };
    let mut covered = BTreeSet::new();
    for rank in 0..2 {
        let fleet = Fleet::new(
            4,
            |_, _| {},
            |config| {
                config.local = local(rank);
                config.aperture = Some(2);
            },
        );
        let fleet = fleet.await;
        until("the rank is known", || fleet.channel.cluster_view().nodes.len() == 2).await;
        fleet.connected().await;
        let answers: BTreeSet<_> = fleet.answers("/", 20).await.into_iter().collect();
        assert_eq!(answers.len(), 2);
        let open = fleet.peers.iter().filter(|peer| peer.open() > 0).count();
        assert_eq!(open, 2, "nobody else is connected to");
        let funnel = fleet.channel.cluster_view().http.unwrap();
        assert_eq!((funnel.known, funnel.aside, funnel.usable), (4, 2, 2));

        // One of its own goes: it takes another one.
        let gone = answers.first().unwrap().clone();
        let left = records(&fleet.peers, |_, _| {}).into_iter().filter(|record| record.id.as_str() != gone);
        fleet.registry.set(left);
        until("it has another one", || {
            let nodes = fleet.channel.nodes();
            nodes.len() >= 2
                && nodes.iter().all(|node| node.instance.id.as_str() != gone && node.connects == 1)
        })
        .await;
        fleet.answers("/", 20).await;
        covered.extend(answers);
    }
    assert_eq!(covered.len(), 4, "together they use everybody");
}

#[tokio::test]
async fn an_instance_that_two_clients_share_has_half_its_weight_at_each() {
    let mut weights = Vec::new();
    for rank in 0..2 {
        let config = |config: &mut ClientConfig| {
            config.local.instance = Some(id(&format!("orders-{rank}")));
            config.local.peers = Some(callers(&["", ""]));
            config.aperture = Some(1);
        };
        let fleet = Fleet::new(3, |_, _| {}, config).await;
        until("the rank is known", || fleet.channel.nodes().len() == 2).await;
        let mut own: Vec<_> = fleet.channel.nodes().iter().map(|node| node.weight).collect();
        own.sort_unstable();
        assert_eq!(own[1], 2 * own[0], "one alone, and half of another one");
        weights.extend(own);
    }
    assert_eq!((weights[0], weights[1]), (weights[2], weights[3]));
}

#[tokio::test]
async fn an_aperture_as_large_as_the_fleet_changes_nothing() {
    let fleet = Fleet::new(3, |_, _| {}, |config| config.aperture = Some(3)).await;
    let view = fleet.channel.cluster_view();
    assert_eq!((view.nodes.len(), view.http.unwrap().aside), (3, 0));
    assert!(view.nodes.iter().all(|node| node.weight == 100));
    let request = fleet.channel.get("/").options(|options| options.idempotent());
    assert!(text(request).await.is_ok());
}
