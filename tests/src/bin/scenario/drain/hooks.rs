//! Code of the author's that sleeps for ever, at each stage of a life: one process for each, all stopped at once.

use std::{collections::BTreeSet, time::Duration};

use meshwork_testkit::{ports::Port, process::Process, truth::eventually};
use meshwork_tests::{
    Result,
    event::{Event, Stopped},
    judge::Judge,
    provider::{Plan, Provider},
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    OFF, PATIENCE,
    stage::{Stage, names},
};

/// How long the record may stay, whatever sleeps.
const GONE: Duration = Duration::from_secs(1);
/// What sleeps while a process serves or stops, and as what its report must name it.
const STOPPING: [(&str, &str); 5] = [
    ("component stop", "component `vault`"),
    ("on_serving", "`on_serving` hook 2"),
    ("on_stop", "`on_stop` hook 1"),
    ("task", "task `outbox`"),
    ("schedule", "task `nightly`"),
];
/// What sleeps while it starts, and as what its log must name it.
const STARTING: [(&str, &str); 2] =
    [("component start", "component `vault`"), ("warm_up", "`warm_up` hook 1")];

/// How the stops went.
pub(super) struct Asleep {
    /// When the last record was gone.
    gone: Duration,
    /// The latest exit of those that served, and of a job.
    latest: Duration,
    /// The latest exit of those that were starting.
    starting: Duration,
    /// Who was not named, or ended with another code than it should.
    wrong: Vec<String>,
}

pub(super) async fn asleep(stage: &Stage<'_>) -> Result<Asleep> {
    let mut served = Vec::new();
    for (what, name) in STOPPING {
        let port = Port::claim()?;
        let provider = sleeping(stage, what).on(&port).start(stage.actor).await?;
        entered(provider.process(), what).await?;
        served.push((provider, name, port));
    }
    let mut starting = Vec::new();
    for (what, name) in STARTING {
        let process = sleeping(stage, what).launch(stage.actor)?;
        entered(&process, what).await?;
        starting.push((process, name));
    }
    let job = sleeping(stage, "job").program(stage.actor).arg("--job=sleep").start()?;
    entered(&job, "job").await?;

    let asked = Instant::now();
    let processes = served.iter().map(|(provider, ..)| provider.process());
    processes.chain(starting.iter().map(|(process, _)| process)).chain([&job]).for_each(Process::terminate);
    let gone = gone(stage, served.iter().map(|(provider, ..)| provider), asked).await?;
    let mut wrong = Vec::new();
    let mut early = Duration::ZERO;
    let mut ends = JoinSet::new();
    for (provider, name, port) in served {
        let limit = stage.deadline + PATIENCE;
        ends.spawn(async move {
            let stopped = provider.stopped(limit).await?;
            drop(port);
            Ok::<_, meshwork::BoxError>((asked.elapsed(), stopped, name))
        });
    }
    let starts = async {
        for (process, name) in &starting {
            let code = process.ended(stage.deadline + PATIENCE).await?.code();
            early = early.max(asked.elapsed());
            let is_named = process.stderr().iter().any(|line| line.contains(name));
            if code != Some(0) || !is_named {
                wrong.push(format!("{name} at the start: code {code:?}, named: {is_named}"));
            }
        }
        Ok::<_, meshwork::BoxError>(())
    };
    let (started, worked) = tokio::join!(starts, ended(&job, stage, asked));
    started?;
    let (mut latest, stopped) = worked?;
    if stopped.code != 6 || !names(&stopped, "job `sleep`") {
        wrong.push(format!("job: {stopped:?}"));
    }
    while let Some(end) = ends.join_next().await {
        let (took, stopped, name) = end??;
        latest = latest.max(took);
        if stopped.code != 6 || !names(&stopped, name) {
            wrong.push(format!("{name}: {stopped:?}"));
        }
    }
    Ok(Asleep { gone, latest, starting: early, wrong })
}

impl Asleep {
    pub(super) fn judge(&self, stage: &Stage<'_>, judge: &mut Judge) {
        judge.time("code that sleeps for ever at each stage: last key gone after", self.gone, GONE);
        judge.time("last exit after the deadline by", self.latest.saturating_sub(stage.deadline), OFF);
        judge.time("exit of those that were starting after", self.starting, GONE);
        judge.count("not named", self.wrong.len(), 0);
        self.wrong.iter().for_each(|wrong| judge.note(wrong));
    }
}

fn sleeping(stage: &Stage<'_>, what: &str) -> Plan {
    stage.plan().env("ACTOR_SLEEPS", what)
}

/// Waits until it sleeps; what runs only at the stop cannot have begun.
async fn entered(process: &Process, what: &str) -> Result<()> {
    if matches!(what, "component stop" | "on_stop") {
        return Ok(());
    }
    let sleeps = |line: &String| matches!(Event::read(line), Some(Event::Hook { name }) if name == what);
    let asleep = || async { process.stdout().iter().any(sleeps) };
    eventually(PATIENCE, &format!("`{what}` sleeps"), asleep).await?;
    Ok(())
}

async fn ended(process: &Process, stage: &Stage<'_>, asked: Instant) -> Result<(Duration, Stopped)> {
    let limit = stage.deadline + PATIENCE;
    let says = |line: &str| matches!(Event::read(line), Some(Event::Stopped(_) | Event::Failed { .. }));
    let line = process.wait_for_line(says, limit).await.map_err(|error| format!("{error:?}"))?;
    process.ended(limit).await?;
    match Event::read(&line) {
        Some(Event::Stopped(stopped)) => Ok((asked.elapsed(), stopped)),
        other => Err(format!("a job that was cut ended with {other:?}").into()),
    }
}

/// When the last of these was gone from the registry.
async fn gone<'a>(
    stage: &Stage<'_>,
    providers: impl Iterator<Item = &'a Provider>,
    asked: Instant,
) -> Result<Duration> {
    let mut left: BTreeSet<String> = providers.map(|provider| provider.id().to_owned()).collect();
    while !left.is_empty() {
        let announced = stage.registry.announced().await?;
        left.retain(|id| announced.contains(id));
        if asked.elapsed() > stage.deadline + PATIENCE {
            return Err(format!("still announced: {left:?}").into());
        }
    }
    Ok(asked.elapsed())
}
