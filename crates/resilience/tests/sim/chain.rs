//! Retries when all fails: one hop, and a chain of five services. Scenario 9.

use std::time::Duration;

use meshwork_core::Delivered;
use meshwork_resilience::{
    Backoff, Budget, Pushback,
    retry::{Allowed, Next, Recovery, Reroute, Trouble},
};
use tokio::time::Instant;

use crate::{
    seeds,
    world::{MS, Rng, SECOND},
};

/// Services in the chain; each calls the next one, the last one answers.
const HOPS: usize = 5;

struct World {
    start: Instant,
    rng: Rng,
    budgets: Vec<Budget>,
    /// Whether a failing answer says that retries are spent.
    tells: bool,
    /// When requests came, in order.
    requests: Vec<u64>,
    /// When attempts reached the last service.
    leaf: Vec<u64>,
}

/// How a call ended, and what the failing answer says of another attempt.
type Came = Result<(), Pushback>;

impl World {
    fn new(seed: u64, hops: usize, tells: bool) -> Self {
        let start = Instant::now();
        let budgets = (0..hops).map(|_| Budget::new(Budget::RATIO, Budget::MINIMUM, start)).collect();
        Self { start, rng: Rng::new(seed), budgets, tells, requests: Vec::new(), leaf: Vec::new() }
    }

    /// A call from `hop` to the next, made inside the caller's attempt of this number; it takes some time.
    fn call(&mut self, hop: usize, attempt: u32, now: &mut u64, fails: &impl Fn(u64) -> bool) -> Came {
        let instant = |start: Instant, micros| start + Duration::from_micros(micros);
        self.budgets[hop].called(instant(self.start, *now));
        let allowed = Allowed { idempotent: true, kept: true, nested: attempt > 0, attempts: 3 };
        let (mut recovery, ends) = (Recovery::default(), *now + SECOND);
        loop {
            let attempt = attempt + u32::from(recovery.retries());
            *now += self.rng.between(0, MS);
            let came = if hop + 1 == self.budgets.len() {
                self.leaf.push(*now);
                if fails(*now) { Err(Pushback::Silent) } else { Ok(()) }
            } else {
                self.call(hop + 1, attempt, now, fails)
            };
            let Err(pushback) = came else { return Ok(()) };
            let trouble = Trouble { delivered: Delivered::Maybe, reroute: Reroute::Never, pushback };
            let left = Duration::from_micros(ends.saturating_sub(*now));
            let (rng, budget) = (&mut self.rng, &self.budgets[hop]);
            let take = || budget.take(instant(self.start, *now));
            match recovery.next(&trouble, &allowed, &Backoff::RETRY, left, || rng.bits(), || true, take) {
                Next::Retry(pause) => *now += pause.as_micros() as u64,
                Next::Reroute => unreachable!("nothing here is surely undelivered"),
                Next::Stop(why) if self.tells && why.is_spent() => return Err(Pushback::Never),
                Next::Stop(_) => return Err(Pushback::Silent),
            }
        }
    }

    /// Calls per second for 12 s, of which the seconds 1 to 11 fail; the share that fails afterwards.
    fn run(&mut self, per_second: f64) -> f64 {
        let fails = |at| (SECOND..11 * SECOND).contains(&at);
        let (mut at, mut after, mut lost) = (0, 0, 0);
        while at < 12 * SECOND {
            at += self.rng.gap(per_second);
            self.requests.push(at);
            // A request takes a while, but the next one does not wait for it.
            let came = self.call(0, 0, &mut at.clone(), &fails);
            if at >= 11 * SECOND {
                after += 1;
                lost += usize::from(came.is_err());
            }
        }
        self.leaf.sort_unstable();
        lost as f64 / after as f64
    }

    /// Attempts that reached the last service, per request.
    fn amplified(&self, from: u64, to: u64) -> f64 {
        let within =
            |times: &[u64]| times.partition_point(|at| *at < to) - times.partition_point(|at| *at < from);
        within(&self.leaf) as f64 / within(&self.requests) as f64
    }

    /// The same in the worst second of the failure, at steps of 50 ms.
    fn worst_second(&self) -> f64 {
        let seconds = (20..200).map(|step| step * 50 * MS);
        seconds.map(|from| self.amplified(from, from + SECOND)).fold(0.0, f64::max)
    }
}

#[test]
fn when_all_fails_a_fifth_more_is_sent_and_in_no_second_three_tenths() {
    let (mut whole, mut second) = (0.0f64, 0.0f64);
    for seed in 0..seeds() {
        let mut world = World::new(seed, 1, true);
        let lost = world.run(1000.0);
        whole = whole.max(world.amplified(SECOND, 11 * SECOND));
        second = second.max(world.worst_second());
        assert!(lost <= 0.001, "seed {seed}: {lost} failed afterwards");
    }
    println!(
        "scenario 9 (sim): {} seeds, 1 000 rps: {whole:.3} x over 10 s, {second:.3} x in the worst 1 s",
        seeds()
    );
    assert!(whole <= 1.25 && second <= 1.30, "{whole} {second}");
}

#[test]
fn at_a_steady_rate_no_second_sees_three_tenths_more() {
    let start = Instant::now();
    for phase in 0..100 {
        let budget = Budget::new(Budget::RATIO, Budget::MINIMUM, start);
        let mut attempts: Vec<u64> = Vec::new();
        for nth in 0..5000u64 {
            let at = nth * MS + phase * MS;
            let now = start + Duration::from_micros(at);
            budget.called(now);
            attempts.push(at);
            // Fails from the middle of a slot on, whichever.
            if nth >= 1000 && budget.take(now) {
                attempts.push(at);
            }
        }
        let worst = attempts
            .iter()
            .enumerate()
            .map(|(place, from)| attempts[place..].partition_point(|at| *at < from + SECOND));
        let worst = worst.max().unwrap_or(0);
        assert!(worst <= 1300, "phase {phase}: {worst} attempts in a second of 1000 requests");
    }
}

#[test]
fn the_last_of_five_services_sees_a_quarter_more_at_most() {
    let mut worst = 0.0f64;
    for seed in 0..seeds() / 4 {
        let mut world = World::new(seed, HOPS, true);
        assert_eq!(world.run(500.0), 0.0, "seed {seed}");
        worst = worst.max(world.amplified(SECOND, 11 * SECOND));
    }
    println!("scenario 9 (sim), chain of {HOPS}: {} seeds, 500 rps: leaf {worst:.3} x", seeds() / 4);
    assert!(worst <= 1.25);
}

#[test]
fn the_attempt_number_alone_is_not_enough() {
    let mut world = World::new(1, HOPS, false);
    world.run(500.0);
    let leaf = world.amplified(SECOND, 11 * SECOND);
    println!(
        "scenario 9 (sim), chain of {HOPS} whose answers do not tell that retries are spent: leaf {leaf:.3} x"
    );
    assert!(leaf > 1.5, "{leaf}");
}
