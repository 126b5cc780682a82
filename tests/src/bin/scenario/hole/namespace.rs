//! The part that needs a network of its own: this executable starts itself in a new network namespace, whose routes it
//! may change.

use std::{env, process::ExitCode, time::Duration};

use meshwork_testkit::process::Program;
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
};

use super::{DEAD_WITHOUT, part};
use crate::{beside, hole::link::Stage};

/// The address that is cut off.
pub(super) const THERE: &str = "127.0.0.9";
/// The rule that swallows what comes from there, before that for all local addresses is asked.
pub(super) const RULE: [&str; 6] = ["pref", "10", "from", THERE, "type", "blackhole"];
/// How long a command may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// How long the part may take.
const PART: Duration = Duration::from_secs(300);
/// The first argument in the namespace.
const ROLE: &str = "behind-a-route";
/// Loopback, local addresses after our rule, and a proof that it is obeyed.
const PREPARE: &str = "ip link set lo up && ip rule add pref 100 lookup local && ip rule del pref 0";

/// Starts itself in a namespace, where the machine allows, and takes its judgement over.
pub(super) async fn play(length: Length, judge: &mut Judge) -> Result<()> {
    let ways = [&["--net"][..], &["--map-root-user", "--net"]];
    let mut refusals = Vec::new();
    for way in ways {
        let trial = Program::new("unshare")
            .args(way)
            .args(["sh", "-c"])
            .arg(format!("{PREPARE} && ip rule add {}", RULE.join(" ")));
        match tried(trial).await {
            Ok(()) => return in_namespace(way, length, judge).await,
            Err(error) => refusals.push(error.to_string()),
        }
    }
    judge.skipped("| (b) blackhole route", &refusals.join("; "));
    Ok(())
}

async fn tried(mut trial: Program) -> Result<()> {
    let process = trial.start()?;
    let status = process.ended(LIMIT).await?;
    if status.success() { Ok(()) } else { Err(format!("{status}, {:?}", process.stderr()).into()) }
}

async fn in_namespace(way: &[&str], length: Length, judge: &mut Judge) -> Result<()> {
    let length = match length {
        Length::Short => "short",
        Length::Ordinary => "ordinary",
        Length::Long => "long",
    };
    let me = env::current_exe()?;
    let mut program = Program::new("unshare").args(way).args(["sh", "-c"]);
    program = program.arg(format!("{PREPARE} && exec \"$0\" {ROLE} {length}")).arg(me);
    let process = program.start()?;
    let status = process.ended(PART).await?;
    let said = process.stdout();
    for line in &said {
        if let Some(note) = line.strip_prefix("note: ") {
            judge.note(&format!("(b) {note}"));
        } else if let Some(miss) = line.strip_prefix("missed: ") {
            judge.holds(&format!("(b) {miss}"), false);
        }
    }
    let figures = said.last().and_then(|line| line.strip_prefix("scenario 3 ")?.split_once(": "));
    let (_, figures) = figures.ok_or_else(|| format!("(b) ended with {status}: {:?}", process.stderr()))?;
    judge.told("| (b) blackhole route:", figures);
    Ok(())
}

/// Plays the part, if the arguments say so: then this is the namespace.
pub(crate) async fn played() -> Option<ExitCode> {
    let given: Vec<String> = env::args().skip(1).collect();
    let length = match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ROLE, "short"] => Length::Short,
        [ROLE, "ordinary"] => Length::Ordinary,
        [ROLE, "long"] => Length::Long,
        _ => return None,
    };
    let mut judge = Judge::new(3, length);
    let outcome = inside(length, &mut judge).await;
    judge.succeeds("it came to its end", outcome);
    Some(judge.finish())
}

async fn inside(length: Length, judge: &mut Judge) -> Result<()> {
    let stage = Stage::behind_a_route(&beside("actor")?).await?;
    // Nothing is seen of it in seconds.
    let dead = (length != Length::Short).then_some(DEAD_WITHOUT);
    part(stage, dead, length, judge, |_| {}).await
}
