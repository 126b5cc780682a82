//! Every key of `[client.<service>]` reaches the settings of the channel.

use std::num::NonZero;

use meshwork_client::balance::{
    Arrival, Member, Node, NodeKey, Now, Outcome, Peers, Pick, Picked, Picker, Ticket,
};
use meshwork_core::{Instance, InstanceId, ServiceName};

use super::*;

fn read(toml: &str) -> Config {
    let builder = Config::builder().environment("test").without_files();
    builder.env_vars::<&str, &str>([]).code(toml).build().unwrap_or_else(|error| panic!("{toml}: {error}"))
}

fn users(toml: &str) -> ClientConfig {
    client(&read(toml), Callee { service: "users", order: None }).unwrap()
}

/// As one `key = value` of `[client.users]` says.
fn with(line: &str) -> ClientConfig {
    users(&format!("[client.users]\n{line}\n"))
}

/// As one `key = value` of a method says.
fn method(line: &str) -> MethodConfig {
    let mut client = users(&format!("[client.users.methods.\"a.B/C\"]\n{line}\n"));
    client.methods.remove("a.B/C").expect("the method is there")
}

fn said(limit: Option<Limit>) -> String {
    limit.expect("it was set").to_string()
}

#[test]
fn limits_of_time_arrive_with_their_place() {
    assert!(said(with("timeout = \"2s\"").timeout).starts_with("2s from `client.users.timeout` ("));
    assert!(with("timeout = \"0s\"").timeout.is_none());
    assert!(said(users("").timeout).contains("the default of"));
    assert!(said(with("attempt_timeout = \"1s\"").attempt_timeout).contains("client.users.attempt_timeout"));
    assert!(
        said(method("timeout = \"3s\"").timeout)
            .starts_with("3s from `client.users.methods.\"a.B/C\".timeout` (")
    );
    assert!(said(method("attempt_timeout = \"4s\"").attempt_timeout).starts_with("4s from"));
    assert!(method("idempotent = false").timeout.is_none());
}

#[test]
fn connections_are_as_configured() {
    let ms = Duration::from_millis;
    assert_eq!(with("connect_timeout = \"5ms\"").connect_timeout, ms(5));
    assert_eq!(with("max_connections = 7").max_connections, 7);
    assert_eq!(with("max_age = \"5ms\"").max_age, Some(ms(5)));
    assert_eq!(with("idle = \"5ms\"").idle, Some(ms(5)));
    assert_eq!(with("idle = \"0s\"").idle, None);
    assert_eq!(with("scheme = \"grpc\"").scheme, Some(Scheme::Grpc));
}

#[test]
fn retries_and_hedges_are_as_configured() {
    let client = with("retry = { attempts = 4, budget = 0.5 }\nhedge = true");
    assert_eq!((client.retry.attempts, client.retry.budget, client.hedge), (4, 0.5, true));
    let own = method("retry = { attempts = 5 }\nhedge = false\nidempotent = true");
    assert_eq!((own.attempts, own.hedge, own.idempotent), (Some(5), Some(false), true));
    let silent = method("");
    assert_eq!((silent.attempts, silent.hedge, silent.idempotent), (None, None, false));
}

#[test]
fn the_key_of_a_call_comes_from_the_header_that_is_named() {
    let header = |name: &str| Some(name.parse::<HeaderName>().unwrap());
    assert_eq!(with("hash_header = \"X-User\"").hash_header, header("x-user"));
    assert_eq!(method("hash_header = \"x-tenant\"").hash_header, header("x-tenant"));
    assert_eq!(users("").hash_header, None);
}

#[test]
fn limits_of_calls_arrive_with_their_place() {
    let all = "limit = { concurrency = 5, rate = 6, burst = 7, queue = 8, longest_wait = \"9ms\" }";
    for (limit, place) in [
        (with(all).limit, "`client.users.limit` ("),
        (method(all).limit, "`client.users.methods.\"a.B/C\".limit` ("),
    ] {
        let number = NonZero::new;
        assert_eq!((limit.concurrency, limit.rate, limit.burst), (number(5), number(6), number(7)));
        assert_eq!((limit.queue, limit.longest_wait), (8, Duration::from_millis(9)));
        assert!(limit.origin.starts_with(place), "{}", limit.origin);
    }
    let off = users("").limit;
    assert_eq!((off.concurrency, off.rate), (None, None));
}

#[test]
fn zones_and_the_aperture_are_as_configured() {
    let client = users(
        "[service]\nzone = \"a\"\nregion = \"eu\"\n[client.users]\nzone_aware = false\nzone_skew = 2.0\naperture = 20",
    );
    assert_eq!((client.zones.aware, client.zones.max_skew), (Some(false), 2.0));
    assert_eq!((&*client.local.zone, &*client.local.region), ("a", "eu"));
    assert_eq!(client.aperture, Some(20));
    let plain = users("");
    assert_eq!((plain.zones.aware, plain.zones.max_skew, plain.aperture), (None, 1.05, None));
}

#[test]
fn a_subset_has_the_instances_that_are_said_and_the_calls_that_are_said() {
    let client = users(
        "[client.users.subsets.blue]\nversion = \"2\"\ndeployment = \"d\"\nlabels = { colour = \"blue\" }\n\
         share = 0.25\nfallback = \"strict\"\n[client.users.subsets.canary]\nversion = \"3\"\nfallback = \"any\"\n\
         [client.users.subsets.dev]\nversion = \"4\"\n",
    );
    let [blue, canary, dev] = &client.subsets[..] else { panic!("{:?}", client.subsets) };
    assert_eq!((blue.name(), blue.part(), blue.when_empty()), ("blue", 0.25, balance::Fallback::Strict));
    assert_eq!((canary.part(), canary.when_empty()), (0.0, balance::Fallback::Any));
    assert_eq!(dev.when_empty(), balance::Fallback::Base);
    let instance = |version: &str, deployment: &str, colour: &str| {
        let mut instance = Instance::new(ServiceName::new("users").unwrap());
        instance.app_version = version.into();
        instance.deployment = deployment.into();
        instance.labels = [("colour", colour)].into_iter().collect();
        instance
    };
    assert!(blue.has(&instance("2", "d", "blue")));
    for other in [instance("1", "d", "blue"), instance("2", "x", "blue"), instance("2", "d", "red")] {
        assert!(!blue.has(&other), "{other:?}");
    }
}

/// Members whose nodes are ready, at 10.0.0.1, 10.0.0.2 and so on.
fn members(count: u16) -> Arc<[Member]> {
    let peers = Peers::new(|| Now::from_nanos(1));
    let member = |nth: u16| {
        let id = InstanceId::new(format!("users-{nth}")).unwrap();
        let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id);
        instance.weight = 100 * nth;
        let key = NodeKey::new([endpoint(nth)]);
        let arrival = Arrival::new(Now::from_nanos(1)).running_for(Some(Duration::from_secs(60)));
        let node = Node::new(key, Arc::new(()), &peers, arrival);
        node.set_ready(true);
        // It has answered before: what is not known yet is tried by one call at a time.
        let first = node.begin(Now::from_nanos(1)).expect("it is ready");
        first.finish(Now::from_nanos(1_000_000), Outcome::Success);
        Member::new(node, Arc::new(instance))
    };
    (1..=count).map(member).collect()
}

fn endpoint(nth: u16) -> Endpoint {
    format!("grpc://10.0.0.{nth}:80").parse().unwrap()
}

/// Chooses without an end: the calls stay in flight.
fn choose(picker: &dyn Picker, nth: u64, seed: &mut u64, hash: Option<u64>) -> (String, Ticket) {
    let mut random = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.rotate_left(32)
    };
    // A call each two milliseconds.
    let pick = Pick::new(Now::from_nanos(10_000_000_000 + nth * 2_000_000), &mut random);
    let hint = hash.map_or(balance::Hint::Any, balance::Hint::Hash);
    match picker.pick(&mut pick.hint(hint)) {
        Picked::Take(member, ticket) => (member.instance().id.to_string(), ticket),
        other => panic!("{other:?}"),
    }
}

/// How many of 60 calls in flight each of three members has, whose weights are 1 : 2 : 3.
fn spread(policy: &dyn Policy, hash: Option<u64>) -> [usize; 3] {
    let (picker, mut seed) = (policy.picker(members(3)), 7);
    let calls: Vec<_> = (0..60).map(|nth| choose(&*picker, nth, &mut seed, hash)).collect();
    [1, 2, 3].map(|nth| calls.iter().filter(|(id, _)| *id == format!("users-{nth}")).count())
}

#[test]
fn each_name_is_its_policy() {
    let of = |name: &str| with(&format!("balance = \"{name}\"")).policy;
    let hash = Some(5);
    assert_eq!(spread(&*of("round-robin"), hash), [20, 20, 20]);
    assert_eq!(spread(&*of("weighted-round-robin"), hash), [10, 20, 30]);
    assert_eq!(spread(&*of("first"), hash), [0, 0, 60], "the heaviest");
    let ring = spread(&*of("ring-hash"), hash);
    assert!(ring.iter().filter(|calls| **calls > 0).count() >= 2, "loads are bounded: {ring:?}");
    let [least, p2c] = ["least-request", "p2c"].map(|name| spread(&*of(name), hash));
    for [light, middle, heavy] in [least, p2c, spread(&*users("").policy, hash)] {
        assert!(light < middle && middle < heavy, "{light} {middle} {heavy}");
    }
}

#[test]
fn a_policy_takes_its_parameters() {
    let ring = |bound: &str| {
        let policy = with(&format!("balance = \"ring-hash\"\nhash_bound = {bound}")).policy;
        spread(&*policy, Some(5)).into_iter().max().unwrap()
    };
    assert_eq!(ring("1000.0"), 60, "one key, one instance");
    assert!(ring("1.05") < 45, "{}", ring("1.05"));
    // Of sixteen draws of three members one is the idlest, nearly always.
    let most = |choices: u8| {
        let policy = with(&format!("balance = \"least-request\"\nchoices = {choices}")).policy;
        let [light, _, _] = spread(&*policy, None);
        light.abs_diff(10)
    };
    assert!(most(16) <= 1, "{}", most(16));
}

#[test]
fn methods_have_policies_of_their_own_and_share_those_of_one_name() {
    let client = users(
        "[client.users]\nbalance = \"round-robin\"\n[client.users.methods]\n\"a.B/C\" = { balance = \"first\" }\n\
         \"a.B/D\" = { balance = \"first\" }\n\"a.B/E\" = { balance = \"round-robin\" }\n\"a.B/F\" = {}\n",
    );
    let of = |name: &str| client.methods[name].policy.clone();
    assert_eq!(spread(&*of("a.B/C").unwrap(), None), [0, 0, 60]);
    assert!(Arc::ptr_eq(&of("a.B/C").unwrap(), &of("a.B/D").unwrap()));
    assert!(Arc::ptr_eq(&of("a.B/E").unwrap(), &client.policy));
    assert!(of("a.B/F").is_none());
}

#[test]
fn first_keeps_the_order_of_a_direct_target() {
    let order = [2, 3, 1].map(endpoint);
    let config = read("[client.default]\nbalance = \"first\"\n");
    let client = client(&config, Callee { service: "users", order: Some(&order) }).unwrap();
    assert_eq!(spread(&*client.policy, None), [0, 60, 0]);
}

#[test]
fn what_a_running_channel_takes_over_is_known_by_its_key() {
    for live in [
        "client.users.timeout",
        "client.default.balance",
        "client.users.retry.attempts",
        "client.\"users.v1\".hedge",
        "client.users.limit.rate",
        "client.users.subsets.blue.share",
        "client.users.methods.\"a.B/C\".limit.rate",
    ] {
        assert!(is_live(live), "{live}");
    }
    for fixed in [
        "client.users.retry.budget",
        "client.users.connect_timeout",
        "client.users.tls.ca_file",
        "client.users.aperture",
        "client.users.timeouts",
        "client.users",
        "client.\"users.v1\"",
        "service.zone",
    ] {
        assert!(!is_live(fixed), "{fixed}");
    }
}
