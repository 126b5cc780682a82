//! Callers that share a view and nothing else: so many channels, each with connections and statistics of its own.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use meshwork::Channel;
use meshwork_client::{ClientConfig, ConnectionState, Limit, NodeView};
use meshwork_core::{Discovery, Query, Scheme, ServiceName};
use meshwork_testkit::{
    load::{Call, Load, Outcome, Report, RunningLoad},
    truth::eventually,
};
use meshwork_tests::{
    Result, SERVICE,
    behave::Behaviour,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::Instant;

use crate::caller::{Caller, Failure, ask, nothing_left};

/// How long all channels may take until they are connected to every instance.
const CONNECTED: Duration = Duration::from_secs(20);
/// How long a view may take to be the truth.
const TRUE: Duration = Duration::from_secs(1);
/// Over which time a share is taken, and how much of a fair one is enough.
const SPAN: Duration = Duration::from_secs(1);
const SHARE: f64 = 0.8;
/// How many failures are noted.
const NOTED: usize = 50;

/// Channels to one service, of which calls take turns.
#[derive(Clone)]
pub(crate) struct Clients {
    channels: Arc<[Channel]>,
    /// Its watches end with it.
    _discovery: Arc<dyn Discovery>,
}

/// Whether calls may run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    None,
    Idempotent,
}

pub(crate) type Calls = Report<u32, Failure>;

// === impl Clients ===

impl Clients {
    /// So many channels, with what `set` changes of the default configuration and `deadline` for each call.
    pub(crate) fn new(
        discovery: Arc<dyn Discovery>,
        count: usize,
        deadline: Duration,
        set: impl Fn(&mut ClientConfig),
    ) -> Result<Self> {
        let service = ServiceName::new(SERVICE)?;
        let watch = discovery.watch(&Query::new(service.clone()));
        let channel = |_| {
            let mut config = ClientConfig::default();
            config.timeout = Some(Limit::new(deadline, "the scenario"));
            // One connection to each instance, not another for the kind of calls that nobody makes.
            config.scheme = Some(Scheme::Grpc);
            set(&mut config);
            Channel::new(service.clone(), watch.clone(), config)
        };
        Ok(Self { channels: (0..count).map(channel).collect(), _discovery: discovery })
    }

    /// Waits until each channel is connected to `nodes` instances.
    pub(crate) async fn connected(&self, nodes: usize) -> Result<()> {
        for channel in self.channels.iter() {
            // Connections are opened for who calls. On a busy machine the first may take longer than a call may.
            let _opening = channel.ready().await;
        }
        let is_connected = |node: &NodeView| node.state == ConnectionState::Connected;
        // All of them: what connecting costs must not fall into what is measured.
        let all = |channel: &Channel| {
            let known = channel.nodes();
            known.len() >= nodes && known.iter().all(is_connected)
        };
        let outcome = eventually(CONNECTED, "all are connected", || async { self.channels.iter().all(all) });
        Ok(outcome.await?)
    }

    /// Calls without an end, so many per second over all channels.
    pub(crate) fn load(&self, rate: f64, mark: Mark) -> RunningLoad<u32, Failure> {
        let channels: Arc<[Channel]> = match mark {
            Mark::None => Arc::clone(&self.channels),
            Mark::Idempotent => self.channels.iter().map(Channel::idempotent).collect(),
        };
        Load::rate(rate).lasting(Duration::MAX).start(move |number| {
            let turn = usize::try_from(number).unwrap_or_default() % channels.len();
            ask(channels[turn].clone())
        })
    }

    /// What the first channel knows of all nodes.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        self.channels[0].nodes()
    }

    /// What the first channel knows of the node at this address.
    pub(crate) fn node(&self, address: &str) -> Option<NodeView> {
        self.nodes().into_iter().find(|node| *node.address == *address)
    }

    /// Waits until each view holds these ids and no others.
    async fn views_are(&self, ids: &BTreeSet<String>, limit: Duration) -> Result<()> {
        let seen = |channel: &Channel| -> BTreeSet<String> {
            channel.nodes().iter().map(|node| node.instance.id.to_string()).collect()
        };
        let outcome = eventually(limit, "every view is the truth", || async {
            self.channels.iter().all(|channel| seen(channel) == *ids)
        });
        Ok(outcome.await?)
    }

    /// Ends the channels, whose views must be the truth.
    pub(crate) async fn end(self, truth: &BTreeSet<String>, length: Length, judge: &mut Judge) {
        judge.succeeds("views equal truth", self.views_are(truth, length.allows(TRUE)).await);
        let mut in_time = true;
        for channel in self.channels.iter() {
            in_time &= channel.close().await;
        }
        judge.holds("no call is left", in_time);
    }
}

/// Ends a fleet whose clients have ended, of whom nothing may be left: what was there `before` them is.
pub(crate) async fn leave(fleet: LocalFleet, before: Residue, judge: &mut Judge) {
    judge.succeeds("nothing leaked", nothing_left(before).await);
    judge.succeeds("providers stop", fleet.stop().await);
}

/// All providers behave so from now on.
pub(crate) async fn behave(fleet: &LocalFleet, behaviour: Behaviour) -> Result<()> {
    for provider in &fleet.providers {
        provider.controls().behave(behaviour).await?;
    }
    Ok(())
}

// === what became of calls ===

/// From `since` until the answers of `pid` were four fifths of a fair share of all in one second.
pub(crate) fn share_after(report: &Calls, pid: u32, nodes: usize, since: Instant) -> Option<Duration> {
    let mut answers: Vec<_> =
        report.calls().iter().filter_map(|call| Some((call.ended, *call.answer()?))).collect();
    answers.sort_unstable();
    let mut recent = VecDeque::new();
    let mut of_it = 0_usize;
    for (at, who) in answers.into_iter().filter(|(at, _)| *at >= since) {
        recent.push_back((at, who));
        of_it += usize::from(who == pid);
        while let Some((_, who)) = recent.front().copied().filter(|(then, _)| *then + SPAN < at) {
            recent.pop_front();
            of_it -= usize::from(who == pid);
        }
        // A second after `since` has more than the calls that were answered at once.
        let enough = of_it as f64 >= SHARE * recent.len() as f64 / nodes as f64;
        if at >= since + SPAN && enough {
            return Some(at - since);
        }
    }
    None
}

/// Judges that so many failed at most, and notes how the first did.
pub(crate) fn failed(report: &Calls, most: usize, judge: &mut Judge) {
    judge.count("failed", report.failed(), most);
    note_first(report, judge);
}

/// Judges that time was up for so many at most and that no other failed, and notes how the first did.
pub(crate) fn timed_out(report: &Calls, time_outs: usize, judge: &mut Judge) {
    let is_late = |call: &&Call<u32, Failure>| match &call.outcome {
        Outcome::Failed(failure) => failure.timed_out,
        _ => false,
    };
    let late = report.failures().filter(is_late).count();
    judge.count("timed out", late, time_outs);
    judge.count("failed otherwise", report.failed() - late, 0);
    note_first(report, judge);
}

/// How the first failed, and when each did.
fn note_first(report: &Calls, judge: &mut Judge) {
    if let Some(first) = report.failures().find_map(Caller::failure) {
        judge.note(&format!("first failure: {first}"));
        let begins = report.failures().take(NOTED).map(|call| call.began - report.begun());
        let begins: Vec<_> = begins.map(|begin| format!("{:.2}", begin.as_secs_f64())).collect();
        judge.note(&format!("calls that failed began after {} s", begins.join(", ")));
    }
}

/// Tells the median, and judges the tail.
pub(crate) fn tail(report: &Calls, p99: Duration, max: Duration, judge: &mut Judge) {
    judge.told("p50", format_args!("{:.1} ms", report.p50().as_secs_f64() * 1e3));
    judge.time("p99", report.p99(), p99);
    judge.time("max", report.latency(1.0), max);
}
