//! Scenario 10: a provider is offered twice what it can do.
//!
//! Four workers of 10 ms ± 2 behind a queue inside the handlers, as a saturated service has it: 400 calls a second.
//! Half of 800 a second over gRPC and half over HTTP, a fifth of them `critical`, a tenth `sheddable`. The server finds
//! its limit itself; whom it refuses is told at once, and nobody is ejected for it.

use std::{path::Path, time::Duration};

use meshwork::{App, CallError, Priority};
use meshwork_client::CallErrorKind;
use meshwork_testkit::{
    consul::Consul,
    etcd::Etcd,
    load::{Call, Load, Outcome, Report},
    ports::Port,
};
use meshwork_tests::{
    ENVIRONMENT, Result,
    behave::{Behaviour, Work},
    judge::{Judge, Length},
    provider::{Plan, Provider},
    residue::{Residue, resident},
};
use orders::users::{GetUser, users_client::UsersClient};
use tokio::time::{Instant, sleep};

use crate::caller::{Caller, nothing_left};

const WORKERS: usize = 4;
/// What one call takes, in milliseconds.
const TAKES: f64 = 10.0;
/// Which part of the capacity is offered before and after, and how many times it meanwhile.
const CALM: f64 = 0.25;
const OVERLOAD: f64 = 2.0;
/// What must be reached: of the capacity, and of critical calls.
const GOODPUT: f64 = 0.9;
const CRITICAL: f64 = 0.99;
/// How many times as long as in calm the slowest of a hundred accepted calls may take.
const SLOWER: u32 = 3;
/// When all must be as before.
const NORMAL: Duration = Duration::from_secs(5);
/// What the provider may grow by while it is overloaded, in KiB.
const GROWS: u64 = 4 * 1024;
/// How long an answer that helps anybody may take.
const HELPS: Duration = Duration::from_secs(1);
const STOP: Duration = Duration::from_secs(30);
const VIEW: Duration = Duration::from_secs(5);

/// How fast, and how long each part takes.
struct Run {
    /// A short run is slower: two busy cores stand still for longer than a few calls of 10 ms take.
    slower: u32,
    calm: Duration,
    overload: Duration,
}

/// A call that got no answer.
enum Refusal {
    /// For overload, as it should be.
    Overloaded,
    Other(String),
}

type Calls = Report<(), Refusal>;

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let seconds = |short, ordinary| Duration::from_secs(length.pick(short, ordinary, ordinary));
    let run = Run { slower: length.pick(4, 1, 1), calm: seconds(4, 10), overload: seconds(8, 30) };
    let plan = Plan::provider().config("drain.settle", "200ms").config("drain.deadline", "5s");
    let dir = tempfile::TempDir::new()?;
    let local = format!("use = \"local\"\n[registry.local]\ndir = {:?}\n", dir.path().display().to_string());
    run.play("local", plan.clone().local(dir.path()), &local, actor, length, judge).await?;
    // The decision is the same whatever the registry; a short run asks it once.
    if length != Length::Short {
        let etcd = Etcd::single().start().await.map_err(|error| format!("{error:?}"))?;
        let found = format!("use = \"etcd\"\n[registry.etcd]\nendpoints = {:?}\n", etcd.endpoints());
        run.play("etcd", plan.clone().etcd(&etcd.endpoints()), &found, actor, length, judge).await?;
        drop(etcd);
        let consul = Consul::dev().start().await.map_err(|error| format!("{error:?}"))?;
        let found = format!("use = \"consul\"\n[registry.consul]\naddress = {:?}\n", consul.url());
        run.play("consul", plan.consul(&consul.url()), &found, actor, length, judge).await?;
    }
    Ok(())
}

impl Run {
    async fn play(
        &self,
        registry: &str,
        plan: Plan,
        found: &str,
        actor: &Path,
        length: Length,
        judge: &mut Judge,
    ) -> Result<()> {
        let port = Port::claim()?;
        let plan = plan
            .on(&port)
            .config("server.shed.enabled", "true")
            .config("server.critical_from", "[\"127.0.0.1/32\"]");
        let provider = plan.start(actor).await?;
        let micros = TAKES * 1e3 * f64::from(self.slower);
        let work = Work::Between((micros * 0.8) as u64, (micros * 1.2) as u64);
        provider.controls().behave(Behaviour::default().working(work).by_workers(WORKERS)).await?;
        let before = Residue::now();
        // With the deadline that callers have who set none.
        let caller = Caller::of(
            App::new()
                .with_environment(ENVIRONMENT)
                .with_config(format!("[service]\nname = \"scenario\"\n[registry]\n{found}\n")),
        );
        caller.channel().ready().await?;
        // Both protocols have their connections.
        for number in [0, 5] {
            one(caller.clone(), number).await.map_err(|refusal| refusal.told())?;
        }

        let calm = load(&caller, self.rate(CALM), self.calm).await;
        let was = provider.controls().served().await?;
        let (loaded, grown) =
            tokio::join!(load(&caller, self.rate(OVERLOAD), self.overload), self.growth(&provider));
        let served = provider.controls().served().await?;
        let after = load(&caller, self.rate(CALM), NORMAL + self.calm).await;

        judge.told("|", registry);
        judge.count("failed in calm", calm.failed(), 0);
        self.judge_overload(&loaded, p99(&calm), judge);
        let handled = (served.get.entered + served.work.entered) - (was.get.entered + was.work.entered);
        let answered = loaded.calls().len() - loaded.failed();
        judge.holds(&format!("{registry}: no refused call reached a handler"), handled == answered as u64);
        match grown {
            Some(grown) => judge.count("memory grew by KiB", usize::try_from(grown)?, GROWS as usize),
            None => judge.skipped("memory", "the system does not tell"),
        }
        self.judge_after(&after, SLOWER * p99(&calm), length, judge);
        judge_standing(&caller, judge);

        let truth = [provider.id().to_owned()].into();
        judge.succeeds("views equal truth", caller.view_is(&truth, VIEW).await);
        caller.end().await;
        judge.succeeds("nothing leaked", nothing_left(before).await);
        let stopped = provider.stop(STOP).await?;
        judge.holds(
            &format!("{registry}: the provider stops cleanly"),
            stopped.code == 0 && stopped.faults.is_empty(),
        );
        Ok(())
    }

    /// What the provider can do in a second.
    fn capacity(&self) -> f64 {
        WORKERS as f64 * 1e3 / (TAKES * f64::from(self.slower))
    }

    fn rate(&self, part: f64) -> f64 {
        self.capacity() * part
    }

    /// By how much the provider's memory grows from the first third of the overload to its end, in KiB.
    async fn growth(&self, provider: &Provider) -> Option<u64> {
        sleep(self.overload / 3).await;
        let (begun, first) = (Instant::now(), resident(provider.pid())?);
        let mut most = first;
        while begun.elapsed() < self.overload / 3 * 2 {
            sleep(Duration::from_millis(200)).await;
            most = most.max(resident(provider.pid())?);
        }
        Some(most - first)
    }

    fn judge_overload(&self, calls: &Calls, calm: Duration, judge: &mut Judge) {
        let end = calls.begun() + self.overload;
        let helped = |call: &&Call<_, _>| !call.is_failed() && call.latency() <= HELPS && call.ended <= end;
        let good = calls.calls().iter().filter(helped).count() as f64;
        let goodput = good / self.overload.as_secs_f64() / self.capacity();
        let of = |priority| {
            let (mut all, mut answered) = (0_usize, 0_usize);
            for call in calls.calls().iter().filter(|call| priority_of(call.number) == priority) {
                all += 1;
                answered += usize::from(!call.is_failed());
            }
            answered as f64 / all.max(1) as f64
        };
        let critical = of(Priority::Critical);
        judge.told("goodput", format_args!("{:.1} % of {:.0} rps", goodput * 100.0, self.capacity()));
        judge.told("critical", format_args!("{:.2} %", critical * 100.0));
        judge.told("normal", format_args!("{:.1} %", of(Priority::Normal) * 100.0));
        judge.told("sheddable", format_args!("{:.1} %", of(Priority::Sheddable) * 100.0));
        judge.holds(
            &format!("goodput is at least {GOODPUT} of the capacity, not {goodput:.3}"),
            goodput >= GOODPUT,
        );
        judge.holds(&format!("critical calls: at least {CRITICAL}, not {critical:.4}"), critical >= CRITICAL);
        judge.told("p99 in calm", format_args!("{:.1} ms", calm.as_secs_f64() * 1e3));
        judge.time("accepted p99", p99(calls), SLOWER * calm);
        judge.told("refused", calls.failed());
        let other: Vec<_> = calls
            .failures()
            .filter_map(|call| match &call.outcome {
                Outcome::Failed(Refusal::Overloaded) => None,
                Outcome::Failed(other) => Some(other.told()),
                _ => Some("no answer at all".to_owned()),
            })
            .collect();
        judge.count("failed otherwise", other.len(), 0);
        if let Some(first) = other.first() {
            judge.note(&format!("a call failed with {first}"));
        }
    }

    /// From when on no call was refused any more, nor took `long`.
    fn judge_after(&self, calls: &Calls, long: Duration, length: Length, judge: &mut Judge) {
        let long = length.allows(long);
        let odd = calls.calls().iter().filter(|call| call.is_failed() || call.latency() > long);
        let last = odd.map(|call| call.intended - calls.begun()).max().unwrap_or_default();
        judge.time("normal after", last, NORMAL);
    }
}

/// Calls that begin so often for so long, with the calls that are under way at the end.
async fn load(caller: &Caller, rate: f64, lasting: Duration) -> Calls {
    let caller = caller.clone();
    Load::rate(rate).lasting(lasting).run(move |number| one(caller.clone(), number)).await
}

/// One of five is critical, one of ten sheddable.
fn priority_of(number: u64) -> Priority {
    match number % 10 {
        0 | 5 => Priority::Critical,
        9 => Priority::Sheddable,
        _ => Priority::Normal,
    }
}

/// One call; every other one of each priority is over gRPC, the others over HTTP.
async fn one(caller: Caller, number: u64) -> Result<(), Refusal> {
    let channel = caller.channel().priority(priority_of(number));
    if (number / 5).is_multiple_of(2) {
        let answer = UsersClient::new(channel).get(GetUser { id: 7 }).await;
        answer.map(drop).map_err(|status| match CallError::of(&status) {
            Some(error) => Refusal::by(error),
            None => Refusal::Other(status.to_string()),
        })
    } else {
        match channel.get("/work").send().await {
            Ok(answer) if answer.status().is_success() => {
                answer.text().await.map(drop).map_err(|e| Refusal::by(&e))
            }
            Ok(answer) => Err(Refusal::Other(answer.status().to_string())),
            Err(error) => Err(Refusal::by(&error)),
        }
    }
}

/// A refusal for overload says nothing of the provider's health.
fn judge_standing(caller: &Caller, judge: &mut Judge) {
    let nodes = caller.channel().nodes();
    let faults: u32 = nodes.iter().map(|node| node.failures + node.ejections).sum();
    judge.count("failures and ejections of its node", faults as usize, 0);
}

/// Of the calls that were answered.
fn p99(calls: &Calls) -> Duration {
    let answered = calls.calls().iter().filter(|call| !call.is_failed());
    let mut latencies: Vec<_> = answered.map(Call::latency).collect();
    latencies.sort_unstable();
    latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(Duration::MAX / 16)
}

impl Refusal {
    fn by(error: &CallError) -> Self {
        match error.kind() {
            CallErrorKind::Overloaded => Self::Overloaded,
            _ => Self::Other(error.to_string()),
        }
    }

    fn told(&self) -> String {
        match self {
            Self::Overloaded => "refused for overload".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }
}
