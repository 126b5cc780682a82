//! Scenario 6: one of eleven providers takes 2 s instead of about 167 ms for the middle half of the run.
//!
//! From one, ten and a hundred channels, each with statistics of its own: the more there are, the less each of them
//! sees. Once with round robin beside it, and once with the service times of a real service.

use std::{path::Path, sync::Arc, time::Duration};

use meshwork_client::balance::RoundRobin;
use meshwork_tests::{
    Result,
    behave::{Behaviour, Work},
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::sleep;

use crate::clients::{Clients, Mark, behave, failed, leave};

const NODES: usize = 11;
const RATE: f64 = 1_000.0;
/// A call to the slow one is no failure, but late.
const DEADLINE: Duration = Duration::from_secs(10);
const USUAL: Work = Work::Between(147_000, 187_000);
const SLOW: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(1);
/// How long the full run takes: a short one may have as many late calls, since they come with the change.
const FULL: Duration = Duration::from_secs(60);
/// Which part of the calls must not be late.
const IN_TIME: [(usize, f64); 3] = [(1, 0.999), (10, 0.9985), (100, 0.995)];

/// One run.
struct Run {
    channels: usize,
    work: Work,
    lasting: Duration,
    /// Which part of the calls must not be late; without it round robin is told, and not judged.
    in_time: Option<f64>,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    let lasting = length.pick(Duration::from_secs(6), FULL, FULL);
    for (channels, in_time) in IN_TIME {
        // Seconds are too few for a hundred channels to see anything.
        if length == Length::Short && channels == 100 {
            continue;
        }
        let run = Run { channels, work: USUAL, lasting, in_time: Some(in_time) };
        run.play(&fleet, length, judge).await?;
        if length == Length::Long || length == Length::Ordinary && channels == 10 {
            Run { work: Work::Measured, ..run }.play(&fleet, length, judge).await?;
        }
    }
    let lasting = Duration::from_secs(length.pick(4, 20, 60));
    Run { channels: 1, work: USUAL, lasting, in_time: None }.play(&fleet, length, judge).await?;
    leave(fleet, before, judge).await;
    Ok(())
}

// === impl Run ===

impl Run {
    async fn play(&self, fleet: &LocalFleet, length: Length, judge: &mut Judge) -> Result<()> {
        behave(fleet, Behaviour::default().working(self.work)).await?;
        let clients = Clients::new(fleet.discovery()?, self.channels, DEADLINE, |config| {
            if self.in_time.is_none() {
                config.policy = Arc::new(RoundRobin::default());
            }
        })?;
        clients.connected(NODES).await?;
        let load = clients.load(RATE, Mark::None);
        let slow = fleet.providers[0].controls();
        sleep(self.lasting / 4).await;
        slow.behave(Behaviour::default().taking(SLOW)).await?;
        sleep(self.lasting / 2).await;
        slow.behave(Behaviour::default().working(self.work)).await?;
        sleep(self.lasting / 4).await;
        load.stop();
        let report = load.report().await;

        let calls = report.calls().len();
        let late = report.calls().iter().filter(|call| call.latency() > LATE).count();
        judge.told(&self.name(), format_args!("{:.3} %", 100.0 * (1.0 - late as f64 / calls as f64)));
        if let Some(in_time) = self.in_time {
            // What is late comes with the change: a short run may have as many as a full one.
            let calls = (RATE * FULL.as_secs_f64()).max(calls as f64);
            judge.count("late", late, ((1.0 - in_time) * calls).round() as usize);
        }
        judge.told("of", calls);
        failed(&report, 0, judge);
        clients.end(&fleet.living(), length, judge).await;
        Ok(())
    }

    fn name(&self) -> String {
        let policy = if self.in_time.is_some() { "" } else { "round robin, " };
        let work = if self.work == Work::Measured { ", measured times" } else { "" };
        let plural = if self.channels == 1 { "" } else { "s" };
        format!("| {policy}{} channel{plural}{work}: within 1 s", self.channels)
    }
}
