//! Scenario 3: the link to one of three providers is black-holed under load, and healed after a while.
//!
//! Connections to it stay open and silent, and new ones come to nothing. Once through a proxy that reads no more, to an
//! instance that is asked for a sign of life; once, where the machine allows, in a network namespace whose routes
//! swallow all answers, to an endpoint that is never asked. Over each there are two clients at a time: one has nothing
//! but a deadline, the other a time-out of each attempt and a retry.

mod link;
mod namespace;

use std::{path::Path, sync::Arc, time::Duration};

use meshwork_client::{ClientConfig, ConnectionState, Limit, NodeView};
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    residue::Residue,
};
use tokio::time::{Instant, sleep, sleep_until};

use self::link::Stage;
use crate::{
    clients::{Clients, Mark, failed, leave, share_after, tail},
    frozen::{ATTEMPT, MAX, P99, TIME_OUTS},
};

pub(crate) use namespace::played;

const NODES: usize = 3;
/// Of each of the two clients, by length: a busy machine has more calls under way at the break.
const RATES: [f64; 3] = [120.0, 250.0, 250.0];
const DEADLINE: Duration = Duration::from_secs(2);
/// When a connection must be known to be dead: by asking, and by what the kernel does without.
const DEAD_BY_PING: Duration = Duration::from_secs(13);
const DEAD_WITHOUT: Duration = Duration::from_secs(20);
/// When the provider must have its share again.
const SHARE_WITHIN: Duration = Duration::from_secs(10);

/// What one client did about a hole.
struct Reaction {
    /// From the hole until its connection was given up.
    dead_after: Option<Duration>,
    /// Dials in the hole, those that failed and the one under way.
    dials: u64,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    judge.told("(a)", "proxy");
    let stage = Stage::behind_a_proxy(actor).await?;
    // Seconds are too few for the defaults.
    let quick = (length == Length::Short).then_some((Duration::from_secs(2), Duration::from_secs(1)));
    let dead = quick.map_or(DEAD_BY_PING, |(interval, timeout)| interval + timeout);
    part(stage, Some(dead), length, judge, |config| {
        if let Some((interval, timeout)) = quick {
            (config.ping_interval, config.ping_timeout) = (interval, timeout);
        }
    })
    .await?;
    namespace::play(length, judge).await
}

/// Plays one of the two parts; a connection must be dead within `dead`, where there is time to see it.
async fn part(
    stage: Stage,
    dead: Option<Duration>,
    length: Length,
    judge: &mut Judge,
    set: impl Fn(&mut ClientConfig),
) -> Result<()> {
    let Stage { fleet, link, discovery, ids, address } = stage;
    let before = Residue::now();
    let plain = Clients::new(Arc::clone(&discovery), 1, DEADLINE, &set)?;
    let retrying = Clients::new(discovery, 1, DEADLINE, |config| {
        set(config);
        config.attempt_timeout = Some(Limit::new(ATTEMPT, "the scenario"));
    })?;
    let clients = [plain, retrying];
    for client in &clients {
        client.connected(NODES).await?;
    }
    let [short, ordinary, long] = RATES;
    let rate = length.pick(short, ordinary, long);
    let loads = [clients[0].load(rate, Mark::None), clients[1].load(rate, Mark::Idempotent)];
    sleep(Duration::from_secs(length.pick(1, 5, 10))).await;

    // What is too short to be given up is over sooner.
    let hole = Duration::from_secs(length.pick(if dead.is_some() { 5 } else { 3 }, 30, 60));
    let dialled = clients.each_ref().map(|client| failed_dials(client, &address));
    let begun = link.connections();
    link.break_off().await?;
    let broken = Instant::now();
    let mut dead_after = [None; 2];
    while broken.elapsed() < hole {
        for (client, dead_after) in clients.iter().zip(&mut dead_after) {
            let is_dead = client.node(&address).is_none_or(|node| node.state != ConnectionState::Connected);
            if is_dead && dead_after.is_none() {
                *dead_after = Some(broken.elapsed());
            }
        }
        sleep_until((broken + hole).min(Instant::now() + Duration::from_millis(20))).await;
    }
    let dials = clients.each_ref().map(|client| failed_dials(client, &address) + 1);
    let connections = link.connections().zip(begun).map(|(now, before)| now - before);
    link.heal().await?;
    let healed = Instant::now();
    let after = length.pick(hole, SHARE_WITHIN * 6 / 5, SHARE_WITHIN * 3 / 2);
    sleep(after).await;

    let names = ["deadline only:", "| 250 ms + retry:"];
    for (n, (load, name)) in loads.into_iter().zip(names).enumerate() {
        load.stop();
        let report = load.report().await;
        judge.told(name, format_args!("calls {}", report.calls().len()));
        match n {
            // Calls that are under way when the connection is given up count as well.
            0 => failed(&report, TIME_OUTS, judge),
            _ => {
                failed(&report, 0, judge);
                tail(&report, P99, MAX, judge);
            }
        }
        let reaction = Reaction { dead_after: dead_after[n], dials: dials[n] - dialled[n] };
        reaction.judge(hole, dead, judge);
        match share_after(&report, fleet.providers[NODES - 1].pid(), NODES, healed) {
            // A connection that was not given up is remembered as slow, for ten times as long as it was.
            None if dead.is_none() => {}
            None => judge.holds("the one that is back gets its share", false),
            Some(after) => judge.time("share after", after, SHARE_WITHIN),
        }
    }
    if let Some(connections) = connections {
        // By both clients, as the other side sees it.
        let most = usize::try_from(hole.as_secs())? * clients.len();
        judge.count("| connections begun", usize::try_from(connections)?, most);
    }
    for client in clients {
        client.end(&ids, length, judge).await;
    }
    drop(link);
    leave(fleet, before, judge).await;
    Ok(())
}

fn failed_dials(client: &Clients, address: &str) -> u64 {
    client.node(address).as_ref().map_or(0, |node: &NodeView| node.failed_dials)
}

// === impl Reaction ===

impl Reaction {
    fn judge(&self, hole: Duration, dead: Option<Duration>, judge: &mut Judge) {
        match (self.dead_after, dead) {
            (Some(after), Some(most)) => judge.time("dead after", after, most),
            (Some(after), None) => judge.told("dead after", format_args!("{} ms", after.as_millis())),
            (None, Some(_)) => judge.holds("the dead connection is noticed", false),
            (None, None) => {}
        }
        let most = usize::try_from(hole.as_secs()).unwrap_or(usize::MAX);
        judge.count("dials", usize::try_from(self.dials).unwrap_or(usize::MAX), most);
    }
}
