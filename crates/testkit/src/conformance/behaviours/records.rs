//! Everything that a record can say, through the registry and back.

use meshwork_core::{ErrorChain, ErrorKind, Instance, InstanceId, Labels, Timestamp};
use tokio::time;

use crate::conformance::{
    bench::{Bench, LONG, endpoint, find, name, shown},
    flaw::{Flaw, Proof, ensure},
    suite::group,
};

group! { "records":
    Calm every_field_is_seen_as_it_was_written = "the instance record",
    Calm weight_0_is_not_lost = "kitex#1393, registry-etcd!40: weight 0 was replaced by the default",
    Calm weight_65535_is_not_cut = "core: weights are 0 to 65535",
    Calm sixty_four_labels_are_seen_whole = "a record has at most 64 labels",
    Calm labels_of_any_text_are_seen_as_written = "core: labels are free pairs",
    Calm an_ipv6_endpoint_is_seen_as_written = "go-micro#104: addresses of every kind",
    Calm eight_endpoints_keep_their_order = "nitro-plugins#540: one instance, several endpoints",
    Calm an_instance_that_says_little_is_seen_as_it_is = "core: optional fields stay absent",
    Calm an_unready_instance_is_seen_from_the_start = "core: status",
    Calm the_longest_names_and_ids_are_kept = "core: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`",
    Calm more_than_64_labels_are_refused_at_once = "Registration::live: an error that waiting cannot mend",
    Calm more_than_8_endpoints_are_refused_at_once = "Registration::live: an error that waiting cannot mend",
    Calm a_record_over_16_kib_is_refused_at_once = "Registration::live: an error that waiting cannot mend",
}

/// Announces it, and compares what another process sees.
async fn returns(bench: &Bench, instance: Instance) -> Proof {
    let (id, service) = (instance.id.clone(), instance.service.clone());
    let registration = bench.open()?.announce(instance.clone()).await?;
    ensure!(registration.id() == id, "its id was given up for {}", registration.id());
    let watch = bench.open()?.watch(&service)?;
    let view = bench.see(&watch, "it is seen", |view| !view.value().is_empty()).await?;
    let Some(seen) = find(&view, &id) else {
        return Err(Flaw::Failed(format!("another is seen: {}", shown(&view))));
    };
    ensure!(*seen == instance, "written {instance:?}, seen {seen:?}");
    Ok(())
}

/// Announces it; the registration must say at once that this can never be.
async fn is_refused(bench: &Bench, instance: Instance) -> Proof {
    let (service, process) = (instance.service.clone(), bench.open()?);
    let registration = process.register(instance)?;
    let Ok(ended) = time::timeout(LONG, registration.live()).await else {
        return Err(Flaw::Failed("it waits for what waiting cannot mend".into()));
    };
    let Err(error) = ended else { return Err(Flaw::Failed("it is live".into())) };
    ensure!(error.kind() == ErrorKind::Invalid, "it is {}: {}", error.kind(), ErrorChain(&*error));
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, []).await?;
    Ok(())
}

async fn every_field_is_seen_as_it_was_written(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.endpoints =
        ["http://127.0.0.1:80", "grpc://127.0.0.1:90", "https://users.example.org:443"].map(endpoint).into();
    instance.region = "north".into();
    instance.zone = "zone-1".into();
    instance.weight = 250;
    instance.deployment = "canary".into();
    instance.app_version = "1.2.3-rc.1+build.5".into();
    instance.build_time = Some(Timestamp::from_millis(1_700_000_000_123));
    instance.start_time = Some(Timestamp::from_millis(1_763_000_000_456));
    instance.overridden = vec!["weight".into(), "labels.team".into()];
    instance.labels = [("team", "core"), ("tier", "1")].into_iter().collect();
    returns(&bench, instance).await
}

async fn weight_0_is_not_lost(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.weight = 0;
    returns(&bench, instance).await
}

async fn weight_65535_is_not_cut(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.weight = u16::MAX;
    returns(&bench, instance).await
}

async fn sixty_four_labels_are_seen_whole(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.labels = (0..64).map(|n| (format!("label-{n:02}"), "v".repeat(n * 3))).collect();
    returns(&bench, instance).await
}

async fn labels_of_any_text_are_seen_as_written(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    let odd = [
        ("größe", "über 9000 – ✓ 🦀"),
        ("a.b/c d:e", "dots, slashes, blanks"),
        ("quoted", "\"quotes\" and \\backslashes\\ and {braces}"),
        ("lines", "one\ntwo\ttabbed\r\n"),
        ("empty", ""),
        ("UPPER", "a"),
        ("upper", "b"),
        ("percent", "100%20&x=y#z"),
        ("日本語", "名前"),
    ];
    instance.labels = Labels::from_iter(odd);
    instance.labels.set("long", "ü".repeat(128));
    returns(&bench, instance).await
}

async fn an_ipv6_endpoint_is_seen_as_written(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.endpoints = ["http://[2001:db8::7]:8080", "grpc://[::1]:9090"].map(endpoint).into();
    returns(&bench, instance).await
}

async fn eight_endpoints_keep_their_order(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    let of = |n: usize| {
        let scheme = ["grpc", "http", "https", "grpcs"][n % 4];
        endpoint(&format!("{scheme}://10.0.0.{}:{}", 9 - n, 8000 + n))
    };
    instance.endpoints = (0..8).map(of).collect();
    returns(&bench, instance).await
}

async fn an_instance_that_says_little_is_seen_as_it_is(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    (instance.start_time, instance.build_time) = (None, None);
    instance.frame_version = "".into();
    returns(&bench, instance).await
}

async fn an_unready_instance_is_seen_from_the_start(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.status = meshwork_core::Status::Unready;
    returns(&bench, instance).await
}

async fn the_longest_names_and_ids_are_kept(bench: Bench) -> Proof {
    let base = bench.service("X._-");
    let service = name(&format!("{base}{}", "x".repeat(128 - base.as_str().len())));
    let mut instance = bench.instance(&service);
    instance.id = InstanceId::new(format!("{base}{}", "i".repeat(128 - base.as_str().len())))
        .expect("invariant: as long as an id may be");
    returns(&bench, instance).await
}

async fn more_than_64_labels_are_refused_at_once(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.labels = (0..=64).map(|n| (format!("label-{n}"), "x")).collect();
    is_refused(&bench, instance).await
}

async fn more_than_8_endpoints_are_refused_at_once(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.endpoints = (1..=9).map(|n| endpoint(&format!("http://10.0.0.{n}:80"))).collect();
    is_refused(&bench, instance).await
}

async fn a_record_over_16_kib_is_refused_at_once(bench: Bench) -> Proof {
    let mut instance = bench.instance(&bench.service("users"));
    instance.labels = (0..60).map(|n| (format!("label-{n}"), "x".repeat(300))).collect();
    is_refused(&bench, instance).await
}
