//! Runs the suite: the calm behaviours beside each other, then those that need a server alone, then one disaster after
//! the other, each with all who go through it.

use std::{
    any::Any,
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    bench::Bench,
    flaw::Flaw,
    report::{Outcome, Report, Row},
    rig::{AnyRig, Deed, Limits, Rig},
    stage::{Seat, Stage},
    suite::{Behaviour, Setting, behaviours},
};

/// How many calm behaviours run at once.
const BESIDE: usize = 12;
/// The longest that one behaviour may take; one that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(90);
/// Chooses behaviours: a text that their names must contain; several are separated by commas.
const VARIABLE: &str = "MESHWORK_CONFORMANCE";

struct Run {
    rig: Arc<dyn AnyRig>,
    limits: Limits,
    salt: String,
    rows: Mutex<BTreeMap<&'static str, Row>>,
}

/// Runs the suite, or those behaviours whose names contain a text of the variable `MESHWORK_CONFORMANCE` (several texts
/// are separated by commas).
///
/// # Panics
/// Outside a tokio runtime; it wants one with several threads.
///
/// # Cancel safety
/// Dropping the future cuts the behaviours under way; the server stays as they left it.
pub async fn check(rig: impl Rig) -> Report {
    let wanted = std::env::var(VARIABLE).unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    check_only(rig, &wanted).await
}

/// Runs those behaviours whose names contain one of these texts; all, when there is none.
///
/// # Panics
/// As [`check`].
///
/// # Cancel safety
/// As [`check`].
pub async fn check_only(rig: impl Rig, wanted: &[&str]) -> Report {
    let begun = Instant::now();
    let (name, limits) = (rig.name(), rig.limits());
    let chosen: Vec<&'static Behaviour> = behaviours()
        .filter(|behaviour| wanted.is_empty() || wanted.iter().any(|text| behaviour.name.contains(text)))
        .collect();
    // Another run over the same server must not find the names of this one.
    let salt = format!("{:06x}", RandomState::new().hash_one(0) & 0xff_ffff);
    let run = Arc::new(Run { rig: Arc::new(rig), limits, salt, rows: Mutex::default() });
    let of = |setting: Setting| chosen.iter().copied().filter(move |behaviour| behaviour.setting == setting);
    run.beside(of(Setting::Calm), BESIDE).await;
    run.beside(of(Setting::Alone), 1).await;
    for (setting, deeds) in [
        (Setting::OneLost, vec![Deed::LoseOne, Deed::Start]),
        (Setting::Stopped, vec![Deed::Stop, Deed::Start]),
        (Setting::Wiped, vec![Deed::Wipe]),
        (Setting::Frozen, vec![Deed::Freeze, Deed::Thaw]),
    ] {
        run.together(of(setting), deeds).await;
    }
    let mut rows = std::mem::take(&mut *run.rows.lock().unwrap_or_else(PoisonError::into_inner));
    let rows = chosen.iter().filter_map(|behaviour| rows.remove(behaviour.name)).collect();
    Report { rig: name, rows, took: begun.elapsed() }
}

impl Run {
    /// Runs them, at most so many at once.
    async fn beside(self: &Arc<Self>, chosen: impl Iterator<Item = &'static Behaviour>, at_once: usize) {
        let (turns, mut running) = (Arc::new(Semaphore::new(at_once)), JoinSet::new());
        for behaviour in chosen {
            let (run, turns) = (Arc::clone(self), Arc::clone(&turns));
            running.spawn(async move {
                let _turn = turns.acquire_owned().await;
                run.prove(behaviour, None).await;
            });
        }
        running.join_all().await;
    }

    /// Runs all of them through one disaster.
    async fn together(self: &Arc<Self>, chosen: impl Iterator<Item = &'static Behaviour>, deeds: Vec<Deed>) {
        let (stage, mut running) = (Stage::new(), JoinSet::new());
        for behaviour in chosen {
            let (run, seat) = (Arc::clone(self), stage.seat());
            running.spawn(async move { run.prove(behaviour, Some(seat)).await });
        }
        let mut begun = false;
        for deed in deeds {
            // What was begun is ended, also when nobody is left to see it.
            if !stage.gathered().await && !begun {
                break;
            }
            begun = true;
            let text = deed.to_string();
            let done = time::timeout(DEADLINE / 2, self.rig.act(deed)).await;
            let undone = match done {
                Ok(Ok(())) => None,
                Ok(Err(undone)) => Some(Flaw::from(undone)),
                Err(_elapsed) => Some(Flaw::Failed(format!("the rig did not manage to {text} in time"))),
            };
            let ends = undone.is_some();
            stage.stepped(undone);
            if ends {
                break;
            }
        }
        running.join_all().await;
    }

    async fn prove(&self, behaviour: &'static Behaviour, seat: Option<Seat>) {
        let notes = Arc::<Mutex<Vec<String>>>::default();
        let number = behaviours().position(|other| other.name == behaviour.name).unwrap_or_default();
        // The number comes first: a rig may tell services apart by how their names begin.
        let salt = format!("{number:03}{}", self.salt);
        let bench = Bench::new(Arc::clone(&self.rig), self.limits.clone(), salt, seat, Arc::clone(&notes));
        let begun = Instant::now();
        // A task of its own, so that a panic is a failure like others.
        let mut proving = JoinSet::new();
        proving.spawn((behaviour.prove)(bench));
        let outcome = match time::timeout(DEADLINE, proving.join_next()).await {
            Ok(Some(Ok(Ok(())))) => Outcome::Passed,
            Ok(Some(Ok(Err(Flaw::Skipped(why))))) => Outcome::Skipped(why),
            Ok(Some(Ok(Err(Flaw::Failed(seen))))) => Outcome::Failed(seen),
            Ok(Some(Err(ended))) => Outcome::Failed(panicked(ended)),
            Ok(None) => Outcome::Failed("it was cut".to_owned()),
            Err(_elapsed) => Outcome::Failed(format!("it hangs: not ended after {DEADLINE:?}")),
        };
        let took = begun.elapsed();
        let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(PoisonError::into_inner));
        let row = Row { behaviour: behaviour.name, group: behaviour.group, outcome, took, notes };
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).insert(behaviour.name, row);
    }
}

fn panicked(ended: tokio::task::JoinError) -> String {
    let payload: Box<dyn Any + Send> = match ended.try_into_panic() {
        Ok(payload) => payload,
        Err(cut) => return format!("it was cut: {cut}"),
    };
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("it panicked: {}", text.unwrap_or_else(|| "with no text".to_owned()))
}

/// Runs the suite on a runtime of its own, prints the table, and asserts: the whole body of a test. `make` makes the
/// rig, and starts its server.
///
/// # Panics
/// When a behaviour failed, or the rig cannot be made.
pub fn run<R: Rig, F: Future<Output = Result<R, crate::Error>>>(make: impl FnOnce() -> F) {
    let report = on_own_runtime(async {
        match make().await {
            Ok(rig) => check(rig).await,
            Err(error) => panic!("the rig cannot be made: {error:?}"),
        }
    });
    println!("{report}");
    report.assert();
}

/// Runs `work` on a runtime of its own with two threads, and ends that.
pub fn on_own_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("invariant: a machine that runs tests can start a runtime");
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}
