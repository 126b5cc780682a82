//! The steps that a client's stack takes for each call allocate nothing.

use std::{sync::Arc, time::Duration};

use allocation_counter::measure;
use http::{HeaderMap, HeaderValue, StatusCode};
use meshwork_core::{Delivered, Priority};
use meshwork_resilience::{
    Backoff, Budget, Pushback, chance,
    deadline::{self, Asked, Deadline, Limit, Limits},
    hedge::{HedgePolicy, Hedging, Suits},
    limit::{Gate, GatePolicy},
    retry::{Allowed, Recovery, Reroute, Said, Trouble},
    shed::{Ended, Shedder},
};
use tokio::time::Instant;

fn allocations(step: impl FnOnce()) -> u64 {
    measure(step).count_total
}

#[test]
fn bounding_a_call_and_writing_a_configured_limit_allocate_nothing() {
    let (now, limit) = (Instant::now(), Limit::new(Duration::from_millis(800), "[client.users] timeout"));
    let limits = Limits { method: Some(&limit), client: None };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert("grpc-timeout", HeaderValue::from_static("1S"));
    let count = allocations(|| {
        let asked = Asked { header: deadline::asked(&headers, true), ..Asked::default() };
        let deadline = Deadline::new(now, &asked, limits);
        let bound = deadline.body().expect("the method has one");
        deadline::write_first(&mut headers, true, bound, now, limits);
    });
    assert_eq!(count, 0);
}

#[test]
fn counting_and_deciding_on_a_retry_allocate_nothing() {
    let now = Instant::now();
    let budget = Budget::new(Budget::RATIO, Budget::MINIMUM, now);
    let allowed = Allowed { idempotent: true, kept: true, nested: false, attempts: 3 };
    let mut head = HeaderMap::new();
    head.insert("grpc-status", HeaderValue::from_static("14"));
    head.insert("grpc-retry-pushback-ms", HeaderValue::from_static("25"));
    let count = allocations(|| {
        budget.called(now);
        let trouble = Said::of_head(true, StatusCode::OK, &head).0.trouble().expect("unavailable");
        assert_eq!(trouble.pushback, Pushback::After(Duration::from_millis(25)));
        let trouble = Trouble { delivered: Delivered::Maybe, reroute: Reroute::Never, ..trouble };
        let (mut recovery, left) = (Recovery::default(), Duration::from_secs(1));
        for _ in 0..3 {
            let take = || budget.take(now);
            let next = recovery.next(&trouble, &allowed, &Backoff::RETRY, left, chance::bits, || true, take);
            assert!(!next.words().is_empty());
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn learning_and_asking_for_a_hedge_allocate_nothing() {
    let (now, budget) = (Instant::now(), Budget::new(1.0, 10, Instant::now()));
    let hedging = Hedging::new(HedgePolicy::default(), now);
    let count = allocations(|| {
        for _ in 0..500 {
            hedging.answered(Duration::from_millis(10), now);
            if hedging.after(Suits { idempotent: true, kept: true, nested: false }, now).is_some() {
                hedging.take(&budget, now);
            }
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn a_free_permit_and_a_place_in_a_server_allocate_nothing() {
    let (now, gate, shedder) = (Instant::now(), Gate::new(GatePolicy::new(2)), Arc::new(Shedder::default()));
    let count = allocations(|| {
        for nth in 0..500u64 {
            let _permit = gate.try_acquire().expect("free");
            let at = now + Duration::from_millis(nth);
            let call = shedder.admit(Priority::Normal, at).expect("room");
            call.finish(at + Duration::from_millis(10), Ended::Answered);
        }
    });
    assert_eq!(count, 0);
}
