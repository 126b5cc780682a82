//! One of a hundred answers takes a hundred times as long: P10.

use std::time::Duration;

use meshwork_resilience::{
    Budget,
    hedge::{HedgePolicy, Hedging, Suits},
};

use crate::{
    seeds,
    world::{MS, Plan, Rng, SECOND, quantile},
};

const GET: Suits = Suits { idempotent: true, kept: true, nested: false };

#[derive(Clone, Copy)]
enum Event {
    Arrives,
    /// The first attempt of this call has waited long enough.
    Due(usize),
    /// An answer to this call; from its hedge?
    Answer(usize, bool),
}

struct Call {
    began: u64,
    done: bool,
}

struct Record {
    took: Vec<u64>,
    /// Those of them that began after the first second, in which it learns.
    warm: Vec<u64>,
    attempts: u64,
}

/// Latencies, how many calls a second, how long; `hedges`: or not.
fn run(
    seed: u64,
    per_second: f64,
    seconds: u64,
    hedges: bool,
    latency: impl Fn(&mut Rng, u64) -> u64,
) -> Record {
    let (mut rng, mut plan, mut calls) = (Rng::new(seed), Plan::new(), Vec::<Call>::new());
    let start = plan.instant(0);
    let hedging = Hedging::new(HedgePolicy::default(), start);
    let budget = Budget::new(Budget::RATIO, Budget::MINIMUM, start);
    let mut record = Record { took: Vec::new(), warm: Vec::new(), attempts: 0 };
    plan.at(0, Event::Arrives);
    while let Some((now, event)) = plan.next() {
        let instant = plan.instant(now);
        match event {
            Event::Arrives => {
                let next = now + rng.gap(per_second);
                if next < seconds * SECOND {
                    plan.at(next, Event::Arrives);
                }
                let call = calls.len();
                calls.push(Call { began: now, done: false });
                budget.called(instant);
                record.attempts += 1;
                let answers = now + latency(&mut rng, now);
                plan.at(answers, Event::Answer(call, false));
                let after = hedging.after(GET, instant).filter(|_| hedges);
                if let Some(due) =
                    after.map(|after| now + after.as_micros() as u64).filter(|due| *due < answers)
                {
                    plan.at(due, Event::Due(call));
                }
            }
            Event::Due(call) => {
                if hedging.take(&budget, instant) {
                    record.attempts += 1;
                    plan.at(now + latency(&mut rng, now), Event::Answer(call, true));
                }
            }
            Event::Answer(call, hedge) => {
                let call = &mut calls[call];
                if std::mem::replace(&mut call.done, true) {
                    continue;
                }
                let took = now - call.began;
                record.took.push(took);
                if call.began >= SECOND {
                    record.warm.push(took);
                }
                let took = Duration::from_micros(took);
                if hedge { hedging.won(took, instant) } else { hedging.answered(took, instant) }
            }
        }
    }
    record
}

/// 10 ms ± 2, and a hundred times that for one of a hundred.
fn hiccups(rng: &mut Rng, _: u64) -> u64 {
    let base = rng.between(8 * MS, 12 * MS);
    if rng.chance(0.01) { base * 100 } else { base }
}

#[test]
fn hedging_cuts_the_tail_for_two_percent_more_load() {
    let plain =
        (0..seeds() / 20).map(|seed| quantile(&mut run(seed, 500.0, 11, false, hiccups).took, 0.999)).min();
    let plain = plain.expect("some seeds");
    let (mut tail, mut more) = (0, 0.0f64);
    for seed in 0..seeds() {
        let mut record = run(seed, 500.0, 11, true, hiccups);
        more = more.max(record.attempts as f64 / record.took.len() as f64 - 1.0);
        tail = tail.max(quantile(&mut record.warm, 0.999));
    }
    let ratio = tail as f64 / plain as f64;
    println!(
        "P10 (sim): {} seeds, 500 rps, 10 s, 1 % of answers 100 x slower: p99.9 at worst {} ms, {ratio:.3} x the best \
         without, for {:.2} % more load",
        seeds(),
        tail / MS,
        more * 100.0
    );
    assert!(ratio <= 0.2 && more <= 0.02, "{ratio} {more}");
}

#[test]
fn a_long_tail_of_its_own_is_not_hedged_to_death() {
    // Exponential latencies: one of twenty takes longer than p95, always.
    let exponential = |rng: &mut Rng, _| (-rng.unit().ln() * 10.0 * MS as f64) as u64;
    for seed in 0..seeds() / 20 {
        let record = run(seed, 500.0, 20, true, exponential);
        let load = record.attempts as f64 / record.took.len() as f64;
        assert!(load <= 1.025, "seed {seed}: {load}");
    }
}

#[test]
fn when_all_calls_become_slow_hedging_stops_by_itself() {
    let slow = |rng: &mut Rng, now: u64| rng.between(8 * MS, 12 * MS) * if now > 5 * SECOND { 20 } else { 1 };
    for seed in 0..seeds() / 20 {
        let record = run(seed, 500.0, 15, true, slow);
        let load = record.attempts as f64 / record.took.len() as f64;
        assert!(load <= 1.01, "seed {seed}: {load}: only until the new p95 was learned");
    }
}
