//! Instances die, freeze, refuse and fail under calls.

use std::time::Duration;

use meshwork_client::{CallErrorKind, RetryConfig};
use meshwork_core::{Context, Delivered, Seen, Verdict};
use tokio::time::{self, Instant};

use crate::{
    peer::Peer,
    support::{LIMIT, MS, Registry, native, text, until},
};

async fn three() -> (Vec<Peer>, Registry) {
    let mut peers = Vec::new();
    for name in ["users-0", "users-1", "users-2"] {
        peers.push(Peer::native(name).await);
    }
    let names = ["users-0", "users-1", "users-2"];
    let records = peers.iter().zip(names).map(|(peer, name)| native(name, "http", peer.addr));
    let registry = Registry::of(records.collect::<Vec<_>>());
    (peers, registry)
}

#[tokio::test]
async fn calls_in_flight_on_a_killed_instance_fail_and_marked_ones_do_not() {
    for marked in [false, true] {
        let (mut peers, registry) = three().await;
        let mut channel = registry.channel();
        if marked {
            channel = channel.idempotent();
        }
        peers.iter().for_each(|peer| peer.hang(true));
        channel.ready().await.unwrap();
        until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
        let calls: Vec<_> = (0..6).map(|_| tokio::spawn(text(channel.post("/")))).collect();
        until("all calls are in handlers", || peers.iter().map(Peer::running).sum::<usize>() == 6).await;
        let at_risk = peers[0].running();
        peers.iter().for_each(|peer| peer.hang(false));
        peers.remove(0).kill().await;
        // The others hang for ever: only the calls of the killed one end.
        let mut ended = Vec::new();
        for call in calls {
            if let Ok(result) = time::timeout(300 * MS, call).await {
                ended.push(result.unwrap());
            }
        }
        assert_eq!(ended.len(), at_risk);
        for result in ended {
            match result {
                Ok(_) => assert!(marked),
                Err(error) => {
                    assert!(!marked, "{error}");
                    assert_eq!(error.kind(), CallErrorKind::Transport);
                    assert_eq!(error.delivered(), Delivered::Maybe);
                    assert_eq!(error.attempts()[0].then, "no retry: not idempotent");
                }
            }
        }
        // Whoever comes later does not notice.
        for _ in 0..20 {
            text(channel.post("/")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_restarted_instance_is_found_again() {
    let peer = Peer::native("users-1").await;
    let registry = Registry::of([native("users-1", "http", peer.addr)]);
    let channel = registry.channel();
    text(channel.get("/")).await.unwrap();
    let addr = peer.kill().await;
    until("the end is seen", || channel.nodes()[0].failed_dials > 0).await;
    let _again = Peer::native_at(addr, "users-1").await;
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
}

#[tokio::test]
async fn an_attempt_time_out_takes_a_marked_call_to_another_instance() {
    let (peers, registry) = three().await;
    let channel = registry.channel().attempt_timeout(100 * MS);
    text(channel.get("/")).await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    peers[0].hang(true);
    let mut worst = Duration::ZERO;
    for _ in 0..60 {
        let begun = Instant::now();
        text(channel.get("/")).await.unwrap();
        worst = worst.max(begun.elapsed());
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    // Its failures count against it: it gets next to nothing.
    assert!(peers[0].requests() <= 10, "{}", peers[0].requests());
    let error = text(channel.to_instance("users-0").post("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert!(error.to_string().contains("no answer within 100ms"), "{error}");
}

#[tokio::test]
async fn a_retry_does_not_wait_for_an_instance_that_is_down() {
    let peer = Peer::native("users-1").await;
    peer.hang(true);
    let down = native("users-2", "http", crate::peer::refused().await);
    let channel = Registry::of([native("users-1", "http", peer.addr), down]).channel();
    channel.ready().await.unwrap();
    until("the other is known to be down", || channel.nodes()[1].failed_dials > 3).await;
    let begun = Instant::now();
    let error = text(channel.attempt_timeout(50 * MS).get("/")).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(error.delivered(), Delivered::Maybe, "{error}");
}

#[tokio::test]
async fn a_connection_silent_for_ten_time_outs_is_left_for_another() {
    let peer = Peer::native("users-1").await;
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    text(channel.get("/")).await.unwrap();
    peer.hang(true);
    // HTTP/2 control frames are bytes too: what is silent here is the peer's process.
    let frozen = crate::raw::Raw::start(crate::raw::Script::FreezeAfterFirst).await;
    let channel = Registry::of([crate::support::foreign("users-1", "grpc", frozen.addr)]).channel();
    text(channel.get("/")).await.unwrap();
    let short = channel.timeout(10 * MS);
    for _ in 0..12 {
        let _late = text(short.post("/")).await;
    }
    until("another connection was dialled", || frozen.connections() >= 2).await;
}

#[tokio::test]
async fn a_native_instance_that_gives_no_sign_of_life_loses_its_connection_and_its_calls() {
    let peer = Peer::native("users-1").await;
    let (proxy, wire) = crate::peer::black_hole(peer.addr).await;
    let registry = Registry::of([native("users-1", "http", proxy)]);
    let channel = registry.channel_with(|config| {
        config.ping_interval = 400 * MS;
        config.ping_timeout = 200 * MS;
    });
    text(channel.get("/")).await.unwrap();
    // Silence with signs of life is fine, with and without a call in flight.
    peer.delay(1500 * MS);
    text(channel.get("/")).await.unwrap();
    assert_eq!((peer.connections(), channel.nodes()[0].connects), (1, 1));

    peer.hang(true);
    let call = tokio::spawn(text(channel.post("/")));
    until("the call is in its handler", || peer.running() == 1).await;
    wire.stop();
    let error = time::timeout(LIMIT, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Transport, Delivered::Maybe));
    assert!(registry.has_seen("users-1", Seen::Silent));
}

#[tokio::test]
async fn a_draining_instance_is_left_without_a_failed_call() {
    let (peers, registry) = three().await;
    let channel = registry.channel();
    text(channel.post("/")).await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    peers[1].say(503, &[("meshwork-refused", "draining")]);
    for _ in 0..60 {
        text(channel.post("/")).await.unwrap();
    }
    assert!(registry.has_seen("users-1", Seen::Draining));
    assert!(peers[1].requests() <= 5, "{}", peers[1].requests());
}

#[tokio::test]
async fn a_misdirected_call_goes_elsewhere() {
    let (peers, registry) = three().await;
    let channel = registry.channel();
    peers[1].say(421, &[("meshwork-refused", "misdirected")]);
    for _ in 0..30 {
        text(channel.post("/")).await.unwrap();
    }
}

#[tokio::test]
async fn refused_by_all_ends_after_three_re_routes() {
    let (peers, registry) = three().await;
    peers.iter().for_each(|peer| peer.say(503, &[("meshwork-refused", "misdirected")]));
    let error = text(registry.channel().post("/")).await.unwrap_err();
    assert_eq!(error.delivered(), Delivered::No);
    assert_eq!(error.attempts().len(), 4, "{error}");
    assert_eq!(error.attempts()[3].then, "no more re-routes");
}

#[tokio::test]
async fn the_text_of_an_error_tells_where_each_attempt_went_and_why_there_is_no_further_one() {
    let (peers, registry) = three().await;
    for peer in &peers {
        peer.hang(true);
    }
    let channel = registry.channel_with(|config| config.retry.attempts = 3);
    channel.ready().await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    let error = text(channel.attempt_timeout(30 * MS).get("/")).await.unwrap_err();
    let mut words = error.to_string();
    let attempts = error.attempts();
    assert_eq!(attempts.len(), 3, "{error}");
    for (nth, attempt) in attempts.iter().enumerate() {
        assert!(attempts[..nth].iter().all(|other| other.address != attempt.address), "elsewhere: {error}");
        assert!(attempt.elapsed >= 30 * MS);
        let millis = format!("{:.1} ms", attempt.elapsed.as_secs_f64() * 1000.0);
        words = words.replace(&*attempt.address, &format!("{nth}")).replace(&millis, "30 ms");
    }
    assert_eq!(
        words,
        "calling `users`: no answer within 30ms (may have been delivered); attempts: \
         0 exchange: no answer within 30ms after 30 ms, retried; \
         1 exchange: no answer within 30ms after 30 ms, retried; \
         2 exchange: no answer within 30ms after 30 ms, no retry: attempts used up"
    );
}

#[tokio::test]
async fn overload_is_a_retry_and_not_free() {
    let (peers, registry) = three().await;
    peers.iter().for_each(|peer| peer.say(503, &[("meshwork-refused", "overloaded")]));
    let error = text(registry.channel().post("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Overloaded);
    assert_eq!(error.attempts().len(), 1, "{error}");
    let error = text(registry.channel().get("/")).await.unwrap_err();
    assert_eq!(error.attempts().len(), 2, "{error}");
}

/// A server that sheds is well: it says so at once, of calls that no handler saw.
#[tokio::test]
async fn refusals_for_overload_come_out_of_the_retry_budget_and_never_eject_an_instance() {
    let (peers, registry) = three().await;
    let channel = registry.channel_with(|config| {
        let mut retry = RetryConfig::default();
        retry.attempts = 5;
        retry.min_per_second = 0;
        config.retry = retry;
    });
    channel.ready().await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    const SHED: &[(&str, &str)] = &[("meshwork-refused", "overloaded"), ("grpc-retry-pushback-ms", "0")];
    peers.iter().for_each(|peer| peer.say(503, SHED));
    let (mut calls, mut unpaid) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let error = text(channel.get("/")).await.unwrap_err();
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Overloaded, Delivered::No), "{error}");
        unpaid += usize::from(error.attempts().last().unwrap().then == "no retry: the budget is used up");
        calls += 1;
        time::sleep(MS).await;
    }
    let attempts: usize = peers.iter().map(Peer::requests).sum();
    assert!(attempts as f64 <= f64::from(calls) * 1.25 + 1.0, "{attempts} attempts of {calls} calls");
    assert!(
        attempts > calls as usize && unpaid > 0,
        "some were retried, {unpaid} were not for want of budget"
    );
    for node in channel.nodes() {
        let known = (node.failures, node.consecutive_failures, node.ejections, node.ejected_for);
        assert_eq!(known, (0, 0, 0, None), "{}", node.address);
    }
    // Well again, it is asked like the others from the first moment.
    peers.iter().for_each(|peer| peer.say(200, &[]));
    let before: Vec<_> = peers.iter().map(Peer::requests).collect();
    for _ in 0..60 {
        text(channel.get("/")).await.unwrap();
    }
    for (peer, before) in peers.iter().zip(before) {
        assert!(peer.requests() > before, "{} of 60", peer.requests() - before);
    }
}

#[tokio::test]
async fn an_unavailable_answer_is_tried_once_elsewhere_and_else_handed_on() {
    let (peers, registry) = three().await;
    let channel = registry.channel();
    peers[0].say(503, &[("x-from", "users-0")]);
    for _ in 0..30 {
        text(channel.get("/")).await.unwrap();
    }
    // A call that may not run twice gets the answer itself.
    let pinned = channel.to_instance("users-0").post("/").send().await.unwrap();
    assert_eq!((pinned.status().as_u16(), pinned.headers()["x-from"].as_bytes()), (503, &b"users-0"[..]));
    // Nobody else: the answer, not an error of ours.
    peers[1].say(503, &[]);
    peers[2].say(503, &[]);
    assert_eq!(channel.get("/").send().await.unwrap().status(), 503);
}

#[tokio::test]
async fn a_call_made_inside_a_retry_is_not_retried_again() {
    let (peers, registry) = three().await;
    peers.iter().for_each(|peer| peer.say(503, &[]));
    let channel = registry.channel();
    let mut context = Context::default();
    context.attempt = 1;
    let status = context.scope(async { channel.get("/").send().await.unwrap().status() }).await;
    assert_eq!(status, 503);
    assert_eq!(peers.iter().map(Peer::requests).sum::<usize>(), 1);
}

#[tokio::test]
async fn when_all_fail_the_budget_bounds_the_attempts() {
    let (peers, registry) = three().await;
    peers.iter().for_each(|peer| peer.say(503, &[]));
    let channel = registry.channel_with(|config| {
        let mut retry = RetryConfig::default();
        retry.attempts = 5;
        retry.min_per_second = 0;
        config.retry = retry;
    });
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(channel.get("/").send().await.unwrap().status(), 503);
        calls += 1;
        time::sleep(MS).await;
    }
    let attempts: usize = peers.iter().map(Peer::requests).sum();
    assert!(attempts as f64 <= f64::from(calls) * 1.25 + 1.0, "{attempts} attempts of {calls} calls");
    assert!(attempts > calls as usize, "some were retried");
}

#[tokio::test]
async fn a_peer_that_closes_its_connections_all_the_time_fails_no_marked_call() {
    let (peers, registry) = three().await;
    let channel = registry.channel_with(|config| config.retry.min_per_second = 1000);
    channel.ready().await.unwrap();
    let end = Instant::now() + Duration::from_secs(1);
    let mut nth = 0;
    while Instant::now() < end {
        peers[nth % 3].cut();
        nth += 1;
        time::timeout(LIMIT, text(channel.get("/"))).await.unwrap().unwrap();
        time::sleep(5 * MS).await;
    }
}
