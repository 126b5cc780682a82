//! What is found: records good and bad, neighbours, queries.

use meshwork_core::{ErrorKind, Status, encode};

use super::bench::{Bench, LONG, instance, key, key_of, named, query, shows, until};

#[tokio::test]
async fn a_quiet_service_is_fresh_at_once() {
    let bench = Bench::start().await;
    let watch = bench.opened().watch("quiet");
    let view = tokio::time::timeout(LONG, watch.ready()).await.unwrap();
    assert!(view.staleness().is_fresh() && view.value().is_empty());
}

#[tokio::test]
async fn a_registration_is_seen_changed_and_gone_by_another_process() {
    let bench = Bench::start().await;
    let (provider, caller) = (bench.opened(), bench.opened());
    let watch = caller.watch("user");
    let registration = provider.announce(instance("user", 80)).await;
    let id = registration.id();
    shows(&watch, [id.as_str()], LONG).await;
    registration.update(|instance| instance.weight = 7);
    until(&watch, LONG, "the weight is seen", |view| view.value()[0].weight == 7).await;
    registration.deregister().await.unwrap();
    shows(&watch, [], LONG).await;
}

#[tokio::test]
async fn values_that_nobody_can_read_hurt_only_themselves() {
    let bench = Bench::start().await;
    let head = r#"{"schema":1,"service":"user","id":"ID","endpoints":["http://127.0.0.1:80"]"#;
    let with = |id: &str, tail: &str| format!("{}{tail}", head.replace("ID", id)).into_bytes();
    let bad: [(&str, Vec<u8>); 8] = [
        ("not-json", b"nonsense".to_vec()),
        ("null", b"null".to_vec()),
        ("not-utf8", vec![0xff, 0xfe]),
        ("huge", vec![b' '; 1 << 20]),
        ("schema-2", br#"{"schema":2,"service":"user","id":"schema-2"}"#.to_vec()),
        ("port-0", String::from_utf8(with("port-0", "}")).unwrap().replace(":80", ":0").into_bytes()),
        ("weight-text", with("weight-text", r#","weight":"5"}"#)),
        ("misplaced", with("another-id", "}")),
    ];
    // Half of them are there before the list, the other half come by the watch.
    let put = async |from: usize, to: usize| {
        for (id, value) in &bad[from..to] {
            bench.raw.put(&key_of("user", id), value.clone()).await;
        }
    };
    put(0, 4).await;
    bench.raw.put(&key_of("user", "clamped"), with("clamped", r#","weight":-1}"#)).await;
    let watch = bench.opened().watch("user");
    shows(&watch, ["clamped"], LONG).await;
    assert_eq!(watch.latest().value()[0].weight, 0);
    put(4, 8).await;
    bench.raw.put_instance(&named("user", "good", 81)).await;
    shows(&watch, ["clamped", "good"], LONG).await;
    // A fresh look judges alike.
    shows(&bench.opened().watch("user"), ["clamped", "good"], LONG).await;
}

#[tokio::test]
async fn a_bad_update_of_a_good_record_leaves_the_good_one_standing_also_after_compaction() {
    let bench = Bench::start().await;
    let (first, second) = (named("user", "user-1", 81), named("user", "user-2", 82));
    bench.raw.put_instance(&first).await;
    bench.raw.put_instance(&second).await;
    let watch = bench.opened().watch("user");
    shows(&watch, ["user-1", "user-2"], LONG).await;
    bench.raw.put(&key(&first), "nonsense").await;
    let mut heavier = second.clone();
    heavier.weight = 9;
    bench.raw.put_instance(&heavier).await;
    until(&watch, LONG, "the later update is seen", |view| view.value()[1].weight == 9).await;
    shows(&watch, ["user-1", "user-2"], LONG).await;
    // Everything is read anew: the history that the watch would need is gone.
    bench.raw.compact().await;
    bench.etcd.restart(false).await.unwrap();
    heavier.weight = 10;
    bench.raw.put_instance(&heavier).await;
    until(&watch, LONG, "the watch is back", |view| view.value()[1].weight == 10).await;
    shows(&watch, ["user-1", "user-2"], LONG).await;
    bench.raw.delete(&key(&first)).await;
    shows(&watch, ["user-2"], LONG).await;
}

#[tokio::test]
async fn a_neighbour_whose_name_begins_alike_is_another_service() {
    let bench = Bench::start().await;
    bench.raw.put_instance(&named("user", "a", 80)).await;
    bench.raw.put_instance(&named("user-admin", "b", 81)).await;
    let opened = bench.opened();
    let (user, admin) = (opened.watch("user"), opened.watch("user-admin"));
    shows(&user, ["a"], LONG).await;
    shows(&admin, ["b"], LONG).await;
    bench.raw.put_instance(&named("user-admin", "c", 82)).await;
    shows(&admin, ["b", "c"], LONG).await;
    shows(&user, ["a"], LONG).await;
}

#[tokio::test]
async fn an_environment_sees_its_own_unless_the_query_names_another() {
    let bench = Bench::start().await;
    let mut in_prod = instance("user", 80);
    in_prod.env = "prod".into();
    let opened = bench.opened();
    let registration = opened.announce(in_prod).await;
    shows(&opened.watch("user"), [], LONG).await;
    let watch = opened.watch_query(&query("user").in_env("prod"));
    shows(&watch, [registration.id().as_str()], LONG).await;
}

#[tokio::test]
async fn an_unknown_parameter_is_invalid_and_names_itself() {
    let bench = Bench::start().await;
    let watch = bench.opened().watch_query(&query("user").with("dc", "west"));
    until(&watch, LONG, "the view says why", |view| view.staleness().cause().is_some()).await;
    let view = watch.latest();
    let cause = view.staleness().cause().unwrap();
    assert_eq!(cause.kind(), ErrorKind::Invalid);
    assert!(meshwork_core::ErrorChain(&**cause).to_string().contains("`dc`"), "{cause}");
}

#[tokio::test]
async fn a_service_larger_than_a_page_is_listed_whole() {
    let bench = Bench::start().await;
    let mut wanted = Vec::new();
    for round in 0..12u16 {
        let puts = (0..100u16).map(|n| {
            let instance = named("user", &format!("user-{:04}", round * 100 + n), 1000 + n);
            wanted.push(instance.id.clone());
            etcd_client::TxnOp::put(key(&instance), encode(&instance).unwrap(), None)
        });
        let txn = etcd_client::Txn::new().and_then(puts.collect::<Vec<_>>());
        bench.raw.client().txn(txn).await.unwrap();
    }
    let watch = bench.opened().watch("user");
    shows(&watch, wanted.iter().map(|id| id.as_str()), LONG).await;
}

#[tokio::test]
async fn leaving_is_seen_before_the_record_goes() {
    let bench = Bench::start().await;
    let (provider, caller) = (bench.opened(), bench.opened());
    let registration = provider.announce(instance("user", 80)).await;
    let key = key_of("user", registration.id().as_str());
    let watch = caller.watch("user");
    shows(&watch, [registration.id().as_str()], LONG).await;
    let options = etcd_client::WatchOptions::new();
    let mut seen = bench.raw.client().watch(key.as_str(), Some(options)).await.unwrap();
    registration.deregister().await.unwrap();
    let mut last = Vec::new();
    while let Ok(Some(answer)) = seen.message().await {
        last.extend(answer.events().iter().cloned());
        if last.len() == 2 {
            break;
        }
    }
    let marked = meshwork_core::decode(last[0].kv().unwrap().value()).unwrap();
    assert_eq!(marked.status, Status::Leaving);
    assert_eq!(last[1].event_type(), etcd_client::EventType::Delete);
}
