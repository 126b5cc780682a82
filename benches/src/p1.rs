//! P1: pick and record, against tower's p2c over peak-EWMA.
//!
//! A tenth of our nodes is ejected (tower knows no ejection; all of its are used). One clock read per call on
//! our side, as on a connection task that finishes one call and begins the next; tower reads its own.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use meshwork_balance::{Node, Now, Outcome, P2c, Pick, Picked, Picker, Policy, Ticket};
use meshwork_core::BoxError;
use tower::{
    Service,
    balance::p2c::Balance,
    discover::ServiceList,
    load::{CompleteOnResponse, PeakEwma},
};

use crate::{
    cpu,
    fleet::{self, Chance},
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const ROUNDS: usize = 15;
const SIZES: [usize; 3] = [3, 100, 10_000];
const CALLS: usize = 300_000;

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let _entered = runtime.enter();
    let (rounds, calls) = (mode.rounds(ROUNDS), mode.of(CALLS, 1_000));
    let (mut findings, mut medians) = (Findings::new(mode), Vec::new());
    for size in SIZES {
        let picker = ours(size)?;
        let tower = Mutex::new(theirs(size));
        let [mut one, mut peer_one, mut two, mut peer_two] = [const { Rounds::new() }; 4];
        for round in 0..rounds + 1 {
            let figures = [
                pick_and_record(&*picker, calls),
                tower_call(&tower, calls),
                in_two(calls, || pick_and_record(&*picker, calls)),
                in_two(calls, || tower_call_locked(&tower, calls)),
            ];
            // The first round warms up.
            if round > 0 {
                one.push(figures[0]);
                peer_one.push(figures[1]);
                two.push(figures[2]);
                peer_two.push(figures[3]);
            }
        }
        let (ratio, ratio_two) = (one.over(&peer_one).spread(), two.over(&peer_two).spread());
        findings.text(format!(
            "N={size} {ratio} ({:.0} / {:.0} ns), 2 threads {ratio_two}",
            one.median(),
            peer_one.median()
        ));
        let place = format!("N={size}");
        findings.at_most(ratio.median, 0.35, &place);
        findings.steady(peer_one.spread(), &place);
        if size >= 100 {
            let place = format!("N={size} in 2 threads");
            findings.at_most(ratio_two.median, 0.5, &place);
            findings.steady(peer_two.spread(), &place);
        }
        medians.push(one.median());
    }
    let growth = medians[2] / medians[1];
    findings.text(format!("10k / 100 {growth:.2}"));
    findings.at_most(growth, 1.3, &"10k / 100");
    Ok(findings.verdict(&format!("P1 pick + record, ours / tower p2c + peak-EWMA, {rounds} rounds")))
}

/// A picker over `size` nodes of about 10 ms, a tenth of them ejected for the whole run.
fn ours(size: usize) -> Result<Box<dyn Picker>, BoxError> {
    let members = fleet::members(size)?;
    for member in &members {
        let now = fleet::now();
        let later = now.after(Duration::from_millis(10));
        begin(member.node(), now)?.finish(later, Outcome::Success);
    }
    let far = Now::from_nanos(u64::MAX / 4);
    for member in members.iter().take(size / 10) {
        for _ in 0..5 {
            begin(member.node(), far)?.finish(far, Outcome::Failure);
        }
    }
    Ok(P2c::default().picker(members.into()))
}

fn begin(node: &Arc<Node>, now: Now) -> Result<Ticket, BoxError> {
    node.begin(now).ok_or_else(|| "a connected node refused a call".into())
}

/// Nanoseconds per call.
fn pick_and_record(picker: &dyn Picker, calls: usize) -> f64 {
    let mut chance = Chance(thread_seed());
    let mut random = || chance.bits();
    let mut open: Option<Ticket> = None;
    let began = cpu::of_thread();
    for _ in 0..calls {
        let now = fleet::now();
        if let Some(ticket) = open.take() {
            ticket.finish(now, Outcome::Success);
        }
        match picker.pick(&mut Pick::new(now, &mut random)) {
            Picked::Take(member, ticket) => {
                black_box(member);
                open = Some(ticket);
            }
            Picked::Wait | Picked::Nothing(_) => {}
        }
    }
    (cpu::of_thread() - began).as_nanos() as f64 / calls as f64
}

fn thread_seed() -> u64 {
    fleet::now().as_nanos()
}

/// Answers at once.
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

type Tower = Balance<ServiceList<Vec<PeakEwma<Echo>>>, u64>;

fn theirs(size: usize) -> Tower {
    let ten_ms = Duration::from_millis(10);
    let decay = Duration::from_secs(10).as_nanos() as f64;
    let service = |_| PeakEwma::new(Echo, ten_ms, decay, CompleteOnResponse::default());
    Balance::new(ServiceList::new((0..size).map(service).collect::<Vec<_>>()))
}

fn tower_call(tower: &Mutex<Tower>, calls: usize) -> f64 {
    let mut tower = tower.lock().unwrap_or_else(PoisonError::into_inner);
    let mut context = Context::from_waker(Waker::noop());
    let began = cpu::of_thread();
    for call in 0..calls {
        if tower.poll_ready(&mut context).is_ready() {
            let mut answer = std::pin::pin!(tower.call(call as u64));
            let _ = black_box(answer.as_mut().poll(&mut context));
        }
    }
    (cpu::of_thread() - began).as_nanos() as f64 / calls as f64
}

/// The same, sharing it the only way that it can be shared without a task of its own.
fn tower_call_locked(tower: &Mutex<Tower>, calls: usize) -> f64 {
    let mut context = Context::from_waker(Waker::noop());
    let began = cpu::of_thread();
    for call in 0..calls {
        let answer = {
            let mut tower = tower.lock().unwrap_or_else(PoisonError::into_inner);
            if tower.poll_ready(&mut context).is_pending() {
                continue;
            }
            tower.call(call as u64)
        };
        let mut answer = std::pin::pin!(answer);
        let _ = black_box(answer.as_mut().poll(&mut context));
    }
    (cpu::of_thread() - began).as_nanos() as f64 / calls as f64
}

/// Nanoseconds per call of two threads that do the same at once, by the wall clock: waiting for a lock counts.
fn in_two(calls: usize, work: impl Fn() -> f64 + Sync) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(&work);
        scope.spawn(&work);
    });
    began.elapsed().as_nanos() as f64 / (2 * calls) as f64
}
