//! One-shot jobs: the same program and configuration, one piece of work instead of serving.

use std::{sync::Arc, time::Duration};

use meshwork_core::Error;
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use crate::{
    Report, RunError,
    component::Components,
    handle::{Handle, Shared},
    hooks::{Hook, Outcome},
    start::Start,
    stop::{self, Losses},
    wiring::Wiring,
};

/// The jobs of one app, as declared.
#[derive(Default)]
pub(crate) struct Jobs(Vec<(Box<str>, Hook)>);

impl Jobs {
    pub(crate) fn add<F, Fut>(&mut self, name: Box<str>, code: F)
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let hook = Hook::new(format!("job `{name}`"), None, code);
        self.0.push((name, hook));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// Takes one out.
    ///
    /// # Errors
    /// `Invalid` for a name that there is not, or twice, with those there are.
    pub(crate) fn take(mut self, name: &str) -> Result<Hook, Error> {
        let named = |(job, _): &(Box<str>, Hook)| **job == *name;
        match self.0.iter().filter(|job| named(job)).count() {
            0 => {
                let names: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
                let there_are = match names.is_empty() {
                    true => "this program has none".to_owned(),
                    false => format!("there are {}", names.join(", ")),
                };
                Err(Error::invalid(format!("no job `{}`; {there_are}", name.escape_debug())))
            }
            1 => Ok(self.0.remove(self.0.iter().position(named).expect("invariant: one was counted")).1),
            _ => Err(Error::invalid(format!("two jobs are named `{name}`"))),
        }
    }
}

/// Starts the components, runs `job`, stops the components. When asked to stop meanwhile, the job has until `drain.deadline`
/// but for `spare`.
///
/// # Errors
/// A component that did not start, or the job's own error.
pub(crate) async fn run(
    shared: &Arc<Shared>,
    wiring: &Arc<Wiring>,
    mut components: Components,
    job: Hook,
    spare: Duration,
) -> Result<Report, RunError> {
    let began = Instant::now();
    let grace = wiring.config.drain().deadline - spare;
    let control = &shared.control;
    let mut losses = Losses::default();
    let name = job.name().to_owned();
    let start = Start::new(shared, wiring);
    let started = select! {
        started = start.components(&mut components) => Some(started),
        _stop = control.asked() => None,
    };
    let stops: Vec<_> = components.into_stops().collect();
    let ended = match started {
        Some(Ok(())) => {
            tracing::info!("{name} begins");
            let handle = Handle::new(Arc::clone(shared));
            let own = grace - stop::reserve(&stops, grace);
            let over = async {
                let limit = control.asked().await.since + own;
                sleep_until(limit).await;
                limit
            };
            Ok(Some(job.begin(handle).until(over).await))
        }
        Some(Err(fault)) => Err(fault),
        None => Ok(None),
    };
    let deadline = control.wish().map_or_else(Instant::now, |stop| stop.since) + grace;
    stop::put_away(shared, stops, deadline, &mut losses).await;
    match ended? {
        Some(Ok(())) => tracing::info!(took = ?began.elapsed(), "{name} is done"),
        Some(Err(failure)) if failure.is_cut() => losses.note(&name, &failure),
        Some(Err(failure)) => return Err(RunError::Job { job: name.into(), cause: failure.into() }),
        None => losses.cut.push(format!("{name}: not begun")),
    }
    let cause = control.wish().map_or_else(|| name.into(), |stop| stop.cause);
    let Losses { cut, faults, stuck } = losses;
    Ok(Report { cause, took: began.elapsed(), cut, faults, stuck, ..Report::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(names: &[&str]) -> Jobs {
        let mut jobs = Jobs::default();
        names.iter().for_each(|name| jobs.add((*name).into(), |_| async {}));
        jobs
    }

    #[test]
    fn an_unknown_job_names_those_there_are() {
        let refused = |names: &[&str], name: &str| jobs(names).take(name).err().unwrap().to_string();
        assert_eq!(refused(&["migrate", "seed"], "migrat"), "no job `migrat`; there are `migrate`, `seed`");
        assert_eq!(refused(&[], "seed"), "no job `seed`; this program has none");
        assert_eq!(refused(&["seed", "seed"], "seed"), "two jobs are named `seed`");
        assert_eq!(jobs(&["migrate", "seed"]).take("seed").unwrap().name(), "job `seed`");
    }
}
