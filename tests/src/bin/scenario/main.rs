//! `scenario N [--short | --long]`: one acceptance scenario on real servers and processes.
//!
//! Prints its figures in one line, last, and exits with 1 when one of them is missed.

mod agents;
mod caller;
mod consul_fleet;
mod denied;
mod drain;
mod dual;
mod failover;
mod fleet;
mod refused;
mod roles;

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use meshwork_tests::{
    Result,
    judge::{Judge, Length},
};

/// Nothing takes longer, whatever hangs.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(code) = roles::played().await {
        return code;
    }
    let (number, length) = match arguments(env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}\nusage: scenario <1 | 4 | 12 | 18 | 19 | 20> [--short | --long]");
            return ExitCode::from(64);
        }
    };
    let mut judge = Judge::new(number, length);
    let began = Instant::now();
    let played = tokio::time::timeout(LIMIT, play(number, length, &mut judge)).await;
    let outcome = match played {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("not done within {LIMIT:?}")),
    };
    judge.succeeds("it came to its end", outcome);
    judge.told("took", format_args!("{:.1} s", began.elapsed().as_secs_f64()));
    judge.finish()
}

async fn play(number: u32, length: Length, judge: &mut Judge) -> Result<()> {
    let actor = beside("actor")?;
    match number {
        1 => failover::play(&actor, length, judge).await,
        4 => refused::play(&actor, length, judge).await,
        12 => drain::play(&actor, length, judge).await,
        18 => agents::play(&actor, length, judge).await,
        19 => denied::play(&actor, length, judge).await,
        20 => dual::play(&actor, length, judge).await,
        _ => Err("there is no such scenario".into()),
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<(u32, Length)> {
    let number = given.next().ok_or("no number")?;
    let number: u32 = number.parse().map_err(|e| format!("`{number}`: {e}"))?;
    if !matches!(number, 1 | 4 | 12 | 18 | 19 | 20) {
        return Err(format!("scenario {number} is not there").into());
    }
    let length = match given.next().as_deref() {
        None => Length::Ordinary,
        Some("--short") => Length::Short,
        Some("--long") => Length::Long,
        Some(other) => return Err(format!("`{other}` is no length").into()),
    };
    match given.next() {
        None => Ok((number, length)),
        Some(more) => Err(format!("`{more}` is too much").into()),
    }
}

/// The executable that cargo put beside ours.
fn beside(name: &str) -> Result<PathBuf> {
    let path = env::current_exe()?.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not built: cargo build -p meshwork-tests --bins", path.display()).into())
    }
}
