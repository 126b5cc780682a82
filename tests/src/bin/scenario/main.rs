//! `scenario N [--short | --long]`: one acceptance scenario on real servers and processes; `scenario list`: all there
//! are.
//!
//! Prints its figures in one line, last, and exits with 1 when one of them is missed.

mod agents;
mod amplify;
mod caller;
mod clients;
mod consul_fleet;
mod denied;
mod drain;
mod dual;
mod ejection;
mod evenness;
mod failover;
mod faulty;
mod fleet;
mod frozen;
mod hole;
mod overload;
mod refused;
mod registry;
mod roles;
mod rolling;
mod slow;
mod subset;
mod unhealthy;

use std::{
    env,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use meshwork_tests::{
    Result,
    judge::{Judge, Length},
};

/// Nothing takes longer, whatever hangs. In minutes, by length.
const LIMITS: [u64; 3] = [10, 40, 120];

/// All scenarios, by number: the one place that names them.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        number: 1,
        what: "one of three providers is killed and comes back",
        play: |actor, length, judge| Box::pin(failover::play(actor, length, judge)),
    },
    Scenario {
        number: 2,
        what: "one of three providers is frozen and goes on",
        play: |actor, length, judge| Box::pin(frozen::play(actor, length, judge)),
    },
    Scenario {
        number: 3,
        what: "the link to one of three providers is black-holed and healed",
        play: |actor, length, judge| Box::pin(hole::play(actor, length, judge)),
    },
    Scenario {
        number: 4,
        what: "one provider lives, two refuse from the start",
        play: |actor, length, judge| Box::pin(refused::play(actor, length, judge)),
    },
    Scenario {
        number: 5,
        what: "one of eleven providers fails at once for half the time",
        play: |actor, length, judge| Box::pin(faulty::play(actor, length, judge)),
    },
    Scenario {
        number: 6,
        what: "one of eleven providers is slow for half the time",
        play: |actor, length, judge| Box::pin(slow::play(actor, length, judge)),
    },
    Scenario {
        number: 7,
        what: "one of five providers fails at random, then all fail a little",
        play: |actor, length, judge| Box::pin(ejection::play(actor, length, judge)),
    },
    Scenario {
        number: 8,
        what: "most of ten providers fail, and some and all of one, two and three",
        play: |actor, length, judge| Box::pin(unhealthy::play(actor, length, judge)),
    },
    Scenario {
        number: 9,
        what: "all providers fail under retries, and so does the last of a chain of five services",
        play: |actor, length, judge| Box::pin(amplify::play(actor, length, judge)),
    },
    Scenario {
        number: 10,
        what: "a provider is offered twice what it can do",
        play: |actor, length, judge| Box::pin(overload::play(actor, length, judge)),
    },
    Scenario {
        number: 11,
        what: "five providers are restarted one after the other, under calls",
        play: |actor, length, judge| Box::pin(rolling::play(actor, length, judge)),
    },
    Scenario {
        number: 12,
        what: "drain with open streams, hung handlers and hooks, silent and deaf peers, a second SIGTERM",
        play: |actor, length, judge| Box::pin(drain::play(actor, length, judge)),
    },
    Scenario {
        number: 18,
        what: "Consul's agent restarts, its index goes backwards, it hangs",
        play: |actor, length, judge| Box::pin(agents::play(actor, length, judge)),
    },
    Scenario {
        number: 19,
        what: "Consul's check is critical, its ACL denies, its servers are stale",
        play: |actor, length, judge| Box::pin(denied::play(actor, length, judge)),
    },
    Scenario {
        number: 20,
        what: "two registries disagree, fail, flap, and are moved between",
        play: |actor, length, judge| Box::pin(dual::play(actor, length, judge)),
    },
    Scenario {
        number: 23,
        what: "of a large fleet each client connects to twenty; one leaves, one comes",
        play: |actor, length, judge| Box::pin(subset::play(actor, length, judge)),
    },
    Scenario {
        number: 26,
        what: "equal providers get equal shares, also from a new client",
        play: |actor, length, judge| Box::pin(evenness::play(actor, length, judge)),
    },
];

struct Scenario {
    number: u32,
    what: &'static str,
    play: for<'a> fn(&'a Path, Length, &'a mut Judge) -> Played<'a>,
}

type Played<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What the arguments ask for.
enum Asked {
    List,
    Play(&'static Scenario, Length),
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(code) = roles::played().await {
        return code;
    }
    if let Some(code) = hole::played().await {
        return code;
    }
    if let Some(code) = subset::played().await {
        return code;
    }
    let (scenario, length) = match arguments(env::args().skip(1)) {
        Ok(Asked::Play(scenario, length)) => (scenario, length),
        Ok(Asked::List) => {
            SCENARIOS.iter().for_each(|scenario| println!("{} {}", scenario.number, scenario.what));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let numbers: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.number.to_string()).collect();
            eprintln!("error: {error}\nusage: scenario <list | {}> [--short | --long]", numbers.join(" | "));
            return ExitCode::from(64);
        }
    };
    let mut judge = Judge::new(scenario.number, length);
    let began = Instant::now();
    let [short, ordinary, long] = LIMITS;
    let limit = Duration::from_secs(60 * length.pick(short, ordinary, long));
    let played = tokio::time::timeout(limit, play(scenario, length, &mut judge)).await;
    let outcome = match played {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("not done within {limit:?}")),
    };
    judge.succeeds("it came to its end", outcome);
    judge.told("took", format_args!("{:.1} s", began.elapsed().as_secs_f64()));
    judge.finish()
}

async fn play(scenario: &Scenario, length: Length, judge: &mut Judge) -> Result<()> {
    (scenario.play)(&beside("actor")?, length, judge).await
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Asked> {
    let number = given.next().ok_or("no number")?;
    if number == "list" {
        return Ok(Asked::List);
    }
    let number: u32 = number.parse().map_err(|e| format!("`{number}`: {e}"))?;
    let found = SCENARIOS.iter().find(|scenario| scenario.number == number);
    let scenario = found.ok_or_else(|| format!("scenario {number} is not there"))?;
    let length = match given.next().as_deref() {
        None => Length::Ordinary,
        Some("--short") => Length::Short,
        Some("--long") => Length::Long,
        Some(other) => return Err(format!("`{other}` is no length").into()),
    };
    match given.next() {
        None => Ok(Asked::Play(scenario, length)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_is_there_once_and_in_order() {
        assert!(SCENARIOS.is_sorted_by(|a, b| a.number < b.number));
    }
}
