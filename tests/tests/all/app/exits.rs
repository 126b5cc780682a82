//! Exit codes, as a supervisor sees them.

use std::time::Duration;

use meshwork_testkit::{etcd::Etcd, truth::eventually};
use meshwork_tests::{SERVICE, event::Event, provider::Plan, records};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::rig::{LIMIT, actor, ended, port};

/// A plan that announces itself nowhere.
fn alone() -> Plan {
    Plan::run().config("registry.use", "none")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_the_configuration_is_2() {
    let process = alone().config("service.nmae", "a").launch(actor()).unwrap();
    let (code, said) = ended(&process).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("MESHWORK__SERVICE__NMAE") && said.contains("MESHWORK__SERVICE__NAME"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_that_leave_no_time_are_2_and_say_which_key_to_change() {
    let cases = [
        (&[("drain.deadline", "0s")][..], "MESHWORK__DRAIN__DEADLINE", "make the deadline 1s 200ms or more"),
        (&[("drain.deadline", "-5s")], "MESHWORK__DRAIN__DEADLINE", "`-5s` is no duration"),
        (&[("drain.settle", "-1s")], "MESHWORK__DRAIN__SETTLE", "`-1s` is no duration"),
        (
            &[("drain.settle", "4s"), ("drain.deadline", "4999ms")],
            "MESHWORK__DRAIN__DEADLINE",
            "make the deadline 5s or more",
        ),
        (&[("drain.settle", "1m")], "MESHWORK__DRAIN__SETTLE", "make the deadline 1m 1s or more"),
        (&[("service.start_timeout", "0s")], "MESHWORK__SERVICE__START_TIMEOUT", "start_timeout"),
        (&[("server.max_stream_age", "0s")], "MESHWORK__SERVER__MAX_STREAM_AGE", "max_stream_age"),
    ];
    for (settings, variable, hint) in cases {
        let plan = settings.iter().fold(alone(), |plan, (key, value)| plan.config(key, *value));
        let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(variable) && said.contains(hint), "{settings:?}: {said}");
    }
    // The least there can be.
    let plan = Plan::provider().config("registry.use", "none");
    let plan = plan.config("drain.settle", "0s").config("drain.deadline", "1s");
    assert_eq!(plan.start(actor()).await.unwrap().stop(LIMIT).await.unwrap().code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_3_and_names_its_owner() {
    let port = port();
    let owner = Plan::provider().config("registry.use", "none").on(&port).start(actor()).await.unwrap();
    let (code, said) = ended(&alone().on(&port).launch(actor()).unwrap()).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&port.addr().to_string()), "{said}");
    if cfg!(target_os = "linux") {
        assert!(said.contains(&owner.pid().to_string()) && said.contains("actor"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_registry_is_4_within_the_start_timeout_and_nothing_is_registered() {
    let etcd = Etcd::single().start().await.unwrap();
    etcd.kill9().await.unwrap();
    let began = std::time::Instant::now();
    let plan = Plan::run().etcd(&etcd.endpoints()).config("registry.start_timeout", "1s");
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(&etcd.endpoints()[0]) && said.contains("registry.required"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());

    etcd.start().unwrap();
    etcd.ready(LIMIT).await.unwrap();
    assert!(records::announced(&etcd, SERVICE).await.unwrap().is_empty());
    assert!(records::leases(&etcd).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_warm_up_is_5() {
    let (code, said) = ended(&alone().env("ACTOR_WARM_UP", "fail").launch(actor()).unwrap()).await;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("`warm_up` hook 1") && said.contains("cache has no room"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eager_channel_that_finds_nobody_is_5() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::run()
        .local(&dir.path().join("registry"))
        .config("registry.start_timeout", "1s")
        .config("client.payments.eager", "true");
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("`payments`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_signals_ask_for_a_clean_stop() {
    for (interrupt, cause) in [(false, "SIGTERM"), (true, "SIGINT")] {
        let plan = Plan::provider().config("registry.use", "none");
        let provider = plan.start(actor()).await.unwrap();
        if interrupt {
            provider.process().interrupt();
        } else {
            provider.process().terminate();
        }
        let stopped = provider.stopped(LIMIT).await.unwrap();
        assert_eq!((stopped.code, &*stopped.cause), (0, cause), "{stopped:?}");
        assert!(stopped.cut.is_empty() && stopped.faults.is_empty(), "{stopped:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_cut_at_the_deadline_is_6_and_named() {
    let plan = Plan::provider().config("registry.use", "none").config("drain.deadline", "1500ms");
    let provider = plan.start(actor()).await.unwrap();
    let mut peer = TcpStream::connect(provider.addr()).await.unwrap();
    peer.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    provider.event(|event| *event == Event::Hanging, LIMIT).await.unwrap();
    let stopped = provider.stop(LIMIT).await.unwrap();
    assert_eq!(stopped.code, 6);
    assert!(stopped.cut.iter().any(|line| line.contains("GET /hang")), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once_with_143() {
    let provider = Plan::provider().config("registry.use", "none").start(actor()).await.unwrap();
    let mut peer = TcpStream::connect(provider.addr()).await.unwrap();
    peer.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    provider.event(|event| *event == Event::Hanging, LIMIT).await.unwrap();
    let process = provider.process();
    process.terminate();
    let taken = || async { process.stderr().iter().any(|line| line.contains("leaving")) };
    eventually(LIMIT, "the first signal was taken", taken).await.unwrap();
    process.terminate();
    // Without the second one it would wait for the handler for 25 s.
    assert_eq!(process.ended(Duration::from_secs(15)).await.unwrap().code(), Some(143));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_leaves_no_port_behind() {
    let port = port();
    let plan = Plan::provider().config("registry.use", "none").on(&port);
    for _ in 0..3 {
        let provider = plan.start(actor()).await.unwrap();
        meshwork_tests::http1::get(provider.addr(), "/who").await.unwrap();
        provider.kill9().await.unwrap();
    }
}
