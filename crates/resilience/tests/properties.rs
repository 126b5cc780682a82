//! What holds for any input: parsers, the budget, the back-off, the limits.

use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use meshwork_core::{Delivered, Priority, timeout};
use meshwork_resilience::{
    Backoff, Budget, Jitter, Pushback,
    deadline::{self, Asked, Deadline, Inherit, Limit, Limits},
    hedge::{HedgePolicy, Hedging, Learned, Suits},
    limit::{Gate, GatePolicy, Order},
    retry::{Allowed, Next, Recovery, Reroute, Said, Trouble},
    shed::{Adaptive, AdaptivePolicy, Shares, Window},
};
use proptest::{collection::vec, option, prelude::*};
use tokio::time::Instant;

fn millis() -> impl Strategy<Value = Duration> {
    (0u64..100_000).prop_map(Duration::from_millis)
}

proptest! {
    // === grpc-timeout ===

    #[test]
    fn a_time_out_is_written_as_the_protocol_asks_and_read_back_never_shorter(nanos in any::<u128>()) {
        let given = Duration::new((nanos >> 32) as u64, (nanos % 1_000_000_000) as u32);
        let text = timeout::encode(given);
        prop_assert!((2..=9).contains(&text.len()), "{text}");
        let (digits, unit) = text.split_at(text.len() - 1);
        prop_assert!(digits.bytes().all(|b| b.is_ascii_digit()) && "HMSmun".contains(unit), "{text}");
        let read = timeout::parse(&text).expect("what was written is read");
        if given <= Duration::from_secs(99_999_999 * 3600) {
            prop_assert!(read >= given, "{read:?} of {given:?}");
            // At eight digits a unit is a ten-millionth of the whole, or a microsecond.
            let unit = Duration::from_micros(1).max(given / 100_000);
            prop_assert!(read <= given + unit, "{read:?} of {given:?}");
        }
    }

    #[test]
    fn any_text_is_a_time_out_of_the_protocol_or_none(text in "[0-9]{0,10}[HMSmunx ]?|\\PC{0,12}") {
        let digits = text.strip_suffix(['H', 'M', 'S', 'm', 'u', 'n']).unwrap_or_default();
        let is_one = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        prop_assert_eq!(timeout::parse(&text).is_some(), is_one, "{:?}", text);
    }

    #[test]
    fn any_header_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..40), is_grpc: bool) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        for name in ["grpc-timeout", "meshwork-timeout", "meshwork-attempt", "meshwork-priority", "meshwork-lane",
            "traceparent", "grpc-status", "meshwork-refused"] {
            headers.insert(name, value.clone());
        }
        let asked = deadline::asked(&headers, is_grpc);
        let now = Instant::now();
        let context = Inherit::default().context(&headers, now);
        prop_assert!(context.deadline.is_none_or(|at| at <= now + Duration::from_secs(60)));
        let deadline = Deadline::new(now, &Asked { header: asked, ..Asked::default() }, Limits::default());
        prop_assert_eq!(deadline.waiting().is_some(), asked.is_some_and(|asked| now.checked_add(asked).is_some()));
        let (said, code) = Said::of_head(is_grpc, StatusCode::OK, &headers);
        prop_assert!(said != Said::Nothing && code.is_some());
    }

    // === grpc-retry-pushback-ms and retry-after ===

    #[test]
    fn any_pushback_is_a_number_of_the_protocol_or_never(text in "-?[0-9]{0,12}|\\PC{0,12}") {
        let expected = match text.parse::<i32>() {
            Ok(ms) if ms >= 0 && !text.starts_with(['+', '-']) => Pushback::After(Duration::from_millis(ms as u64)),
            _ => Pushback::Never,
        };
        prop_assert_eq!(Pushback::of_grpc(text.as_bytes()), expected);
    }

    #[test]
    fn any_retry_after_is_seconds_a_date_or_nothing(bytes in vec(any::<u8>(), 0..40), seconds: u64) {
        let _no_panic = Pushback::of_http(&bytes, || SystemTime::UNIX_EPOCH);
        let text = seconds.to_string();
        let read = Pushback::of_http(text.as_bytes(), || unreachable!("no date"));
        prop_assert_eq!(read, Pushback::After(Duration::from_secs(seconds)));
        prop_assert_eq!(Pushback::of_http(format!("-{text}").as_bytes(), SystemTime::now), Pushback::Silent);
    }

    #[test]
    fn any_date_is_read_as_the_time_until_then(now in 0u64..4_000_000_000, then in 0u64..4_000_000_000) {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = httpdate::fmt_http_date(at(then));
        let expected = Duration::from_secs(then.saturating_sub(now));
        prop_assert_eq!(Pushback::of_http(text.as_bytes(), || at(now)), Pushback::After(expected));
    }

    // === deadlines ===

    #[test]
    fn the_least_of_all_bounds_a_call_and_names_itself(
        inherited in option::of(millis()),
        header in option::of(millis()),
        option in option::of(millis()),
        method in option::of(millis()),
        client in option::of((millis(), any::<bool>())),
    ) {
        let now = Instant::now();
        let method = method.map(|limit| Limit::new(limit, "the method"));
        let client = client.map(|(limit, yields)| {
            if yields { Limit::fallback(limit, "the client") } else { Limit::new(limit, "the client") }
        });
        let limits = Limits { method: method.as_ref(), client: client.as_ref() };
        let asked = Asked { inherited: inherited.map(|left| now + left), header, option };
        let deadline = Deadline::new(now, &asked, limits);
        let chosen = header.into_iter().chain(option).chain(method.as_ref().map(Limit::duration)).min();
        let whole = chosen.into_iter().chain(inherited).min();
        prop_assert_eq!(deadline.body().map(|bound| bound.at() - now), whole);
        prop_assert_eq!(deadline.exchange(true).map(|bound| bound.at()), deadline.body().map(|bound| bound.at()));
        let yields = |limit: &&Limit| method.is_some() || (chosen.is_some() && limit.yields());
        let own = client.as_ref().filter(|limit| !yields(limit)).map(Limit::duration);
        let least = whole.into_iter().chain(own).min();
        prop_assert_eq!(deadline.waiting().map(|bound| bound.at() - now), least);
        if let Some(bound) = deadline.waiting() {
            let passed = bound.passed("answer", limits);
            prop_assert_eq!(Some(passed.limit()), least);
            prop_assert!(!passed.origin().is_empty());
        }
    }

    #[test]
    fn what_is_left_never_grows_from_hop_to_hop(whole in 1u64..100_000, spent in vec(0u64..40_000, 1..6)) {
        let (mut now, mut left) = (Instant::now(), Duration::from_millis(whole));
        for spent in spent {
            let mut headers = HeaderMap::new();
            let asked = Asked { option: Some(left), ..Asked::default() };
            let deadline = Deadline::new(now, &asked, Limits::default());
            now += Duration::from_millis(spent);
            deadline::write(&mut headers, true, deadline.body().expect("an option was set"), now);
            let next = deadline::asked(&headers, true).expect("written by us");
            prop_assert!(next <= left.saturating_sub(Duration::from_millis(spent)) + Duration::from_micros(1));
            left = next;
        }
    }

    // === retries ===

    #[test]
    fn the_budget_is_exactly_its_window(
        ratio in 0.0f64..1.0,
        minimum in 0u32..20,
        steps in vec((0u64..400, 0usize..30, 0usize..30), 1..60),
    ) {
        let start = Instant::now();
        let budget = Budget::new(ratio, minimum, start);
        let (mut calls, mut retries) = (Vec::<u64>::new(), Vec::<u64>::new());
        let mut millis = 0u64;
        for (pause, called, asked) in steps {
            millis += pause;
            let now = start + Duration::from_millis(millis);
            for _ in 0..called {
                budget.called(now);
                calls.push(millis / 100);
            }
            for _ in 0..asked {
                let recent = |ticks: &[u64]| ticks.iter().filter(|tick| **tick + 10 > millis / 100).count() as f64;
                let earned = recent(&calls) * ratio + f64::from(minimum);
                let expected = recent(&retries) + 1.0 <= earned;
                prop_assert_eq!(budget.take(now), expected, "at {} ms", millis);
                if expected {
                    retries.push(millis / 100);
                }
            }
        }
    }

    #[test]
    fn whatever_happens_there_are_three_re_routes_and_four_retries_at_most(
        troubles in vec((any::<bool>(), 0u8..4, option::of(0u64..2_000), any::<bool>()), 1..40),
        idempotent: bool, kept: bool, nested: bool, attempts: u8, budget: bool, random: u64,
    ) {
        let allowed = Allowed { idempotent, kept, nested, attempts };
        let (mut recovery, left) = (Recovery::default(), Duration::from_secs(1));
        let (mut reroutes, mut retries) = (0, 0);
        for (maybe, reroute, pushback, never) in troubles {
            let pushback = match pushback {
                _ if never => Pushback::Never,
                Some(millis) => Pushback::After(Duration::from_millis(millis)),
                None => Pushback::Silent,
            };
            let trouble = Trouble {
                delivered: if maybe { Delivered::Maybe } else { Delivered::No },
                reroute: [Reroute::Never, Reroute::Free, Reroute::Once, Reroute::IfIdempotent][usize::from(reroute)],
                pushback,
            };
            match recovery.next(&trouble, &allowed, &Backoff::RETRY, left, || random, || true, || budget) {
                Next::Reroute => {
                    prop_assert!(trouble.reroute != Reroute::Never);
                    reroutes += 1;
                }
                Next::Retry(pause) => {
                    prop_assert!(idempotent && kept && !nested && budget && !never);
                    prop_assert!(pause < left && pause >= pushback.wait());
                    retries += 1;
                }
                Next::Stop(why) => prop_assert!(!why.words().is_empty()),
            }
        }
        prop_assert!(reroutes <= 3 && retries < attempts.clamp(1, 5) && recovery.retries() == retries);
    }

    #[test]
    fn a_pause_stays_in_its_bounds(first: u64, longest: u64, nth: u32, random: u64, full: bool) {
        let (first, longest) = (Duration::from_nanos(first), Duration::from_nanos(longest));
        let jitter = if full { Jitter::Full } else { Jitter::Fifth };
        let pause = Backoff::new(first, longest, jitter).pause(nth, random);
        prop_assert!(pause <= longest.mul_f64(1.2) + Duration::from_micros(1));
        if !full {
            prop_assert!(pause + Duration::from_micros(1) >= first.min(longest).mul_f64(0.8));
        }
    }

    // === hedging, shedding ===

    #[test]
    fn the_learned_quantile_is_close_to_the_exact_one(mut nanos in vec(2_000u64..60_000_000_000, 100..400)) {
        let now = Instant::now();
        let learned = Learned::new(0.95, 100, now);
        nanos.iter().for_each(|nanos| learned.record(Duration::from_nanos(*nanos), now));
        nanos.sort_unstable();
        let exact = nanos[(nanos.len() as f64 * 0.95).ceil() as usize - 1] as f64;
        let ratio = learned.quantile(now).expect("enough").as_nanos() as f64 / exact;
        prop_assert!((0.999..=1.092).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_adaptive_limit_stays_in_its_range(
        initial: u32, least: u32, most: u32,
        windows in vec((any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<bool>(), 0u64..20_000), 0..40),
    ) {
        let mut now = Instant::now();
        let mut policy = AdaptivePolicy::default();
        (policy.initial, policy.least, policy.most) = (initial, least, most);
        let mut adaptive = Adaptive::new(policy, now);
        let policy = policy.clamped();
        for (answered, total, calm, calm_total, refused, pause) in windows {
            now += Duration::from_millis(pause);
            let (total, calm_total) = (Duration::from_nanos(total), Duration::from_nanos(calm_total));
            adaptive.step(&Window { answered, total, calm, calm_total, refused }, now);
            let limit = adaptive.limit();
            prop_assert!(limit >= f64::from(policy.least) && limit <= f64::from(policy.most), "{limit}");
            prop_assert!(adaptive.calm_room() >= 1 && f64::from(adaptive.calm_room()) <= limit.max(1.0));
        }
    }

    #[test]
    fn a_higher_priority_never_has_less_room(limit in any::<f64>(), critical: f64, least: u32, normal: f64) {
        let mut shares = Shares::default();
        (shares.critical, shares.critical_least, shares.normal) = (critical, least, normal);
        let room = |priority| shares.room(limit, priority);
        prop_assert!(room(Priority::Sheddable) >= 1);
        prop_assert!(room(Priority::Sheddable) <= room(Priority::Normal));
        prop_assert!(room(Priority::Normal) <= room(Priority::Critical));
    }

    // === hedging ===

    #[test]
    fn no_policy_and_no_latency_makes_a_hedge_come_sooner_than_asked_for_or_for_what_may_not_run_twice(
        quantile: f64, stretch: f64, share: f64, least in 0u32..200, shortest: u64,
        latencies in vec((any::<u64>(), any::<bool>()), 0..200), idempotent: bool, kept: bool, nested: bool,
    ) {
        let (now, shortest) = (Instant::now(), Duration::from_nanos(shortest));
        let mut policy = HedgePolicy::default();
        (policy.quantile, policy.stretch, policy.share) = (quantile, stretch, share);
        (policy.least, policy.shortest) = (least, shortest);
        let hedging = Hedging::new(policy, now);
        for (nanos, won) in &latencies {
            // Up to what no clock can tell.
            let latency = Duration::from_nanos(*nanos).saturating_mul(if *nanos % 7 == 0 { u32::MAX } else { 1 });
            if *won { hedging.won(latency, now) } else { hedging.answered(latency, now) }
        }
        let suits = Suits { idempotent, kept, nested };
        let after = hedging.after(suits, now);
        prop_assert!(after.is_none_or(|after| after >= shortest && idempotent && kept && !nested), "{after:?}");
        let budget = Budget::new(1.0, 1000, now);
        let sent = (0..50).filter(|_| hedging.take(&budget, now)).count();
        prop_assert!(share > 0.0 || sent == 0, "{sent} of a share of {share}");
        prop_assert_eq!(hedging.stats().sent, sent as u64);
    }

    // === the concurrency limit ===

    #[test]
    fn a_gate_lets_in_its_limit_keeps_its_queue_and_loses_no_permit(
        limit in 0usize..4, waiting in 0usize..4, lifo: bool, steps in vec((0u8..5, 0usize..10), 0..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let order = if lifo { Order::Lifo } else { Order::Fifo };
            let mut policy = GatePolicy::new(limit);
            (policy.waiting, policy.order) = (waiting, order);
            let gate = Gate::new(policy);
            let limit = limit.max(1);
            let mut asking: Vec<Option<_>> = (0..10).map(|_| None).collect();
            let mut inside: Vec<Option<_>> = (0..10).map(|_| None).collect();
            for (step, which) in steps {
                match step {
                    0 | 1 => {
                        let ends = (step == 1).then(|| Instant::now() + Duration::from_millis(5));
                        asking[which] = Some(Box::pin(gate.acquire(ends)));
                    }
                    2 => if let Some(Some(outcome)) = asking[which].as_mut().map(|turn| turn.now_or_never()) {
                        asking[which] = None;
                        inside[which] = outcome.ok();
                    },
                    3 => drop((asking[which].take(), inside[which].take())),
                    _ => tokio::time::advance(Duration::from_millis(which as u64)).await,
                }
                let held = inside.iter().flatten().count();
                assert!(held <= gate.running() && gate.running() <= limit, "{held} of {}", gate.running());
                assert!(gate.waiting() <= waiting);
                // Nobody waits beside a free permit.
                assert!(gate.waiting() == 0 || gate.running() == limit);
            }
            drop((asking, inside));
            assert_eq!((gate.running(), gate.waiting()), (0, 0));
            let all: Vec<_> = std::iter::from_fn(|| gate.try_acquire()).collect();
            assert_eq!(all.len(), limit);
        });
    }
}
