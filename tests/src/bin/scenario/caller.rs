//! The generator: one channel over the registry, calls through the generated client, and what is seen of both.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork::{App, CallError, Channel};
use meshwork_client::{ConnectionState, NodeView};
use meshwork_testkit::{
    etcd::Etcd,
    load::{Call, Outcome},
    truth::eventually,
};
use meshwork_tests::{ENVIRONMENT, Result, SERVICE, residue::Residue};
use orders::users::{GetUser, users_client::UsersClient};
use tokio::time::Instant;
use tonic::Code;

/// How long the end of everything may take: a view lingers for 30 s after its last watch.
const END: Duration = Duration::from_secs(45);
/// Answers remembered for [`Caller::share`].
const REMEMBERED: usize = 20_000;

/// A caller of [`SERVICE`]; clones share everything.
#[derive(Clone)]
pub(crate) struct Caller {
    channel: Channel,
    app: Arc<Mutex<Option<App>>>,
    answers: Arc<Mutex<VecDeque<(Instant, u32)>>>,
}

/// Why a call failed, and where it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    text: String,
    /// Where each attempt went.
    pub(crate) addresses: Vec<String>,
    /// Whether time was up.
    pub(crate) timed_out: bool,
    /// Whether it is a provider's own answer; then nothing is known of attempts.
    pub(crate) by_provider: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Caller ===

impl Caller {
    /// A caller that finds providers by this etcd; nothing has been asked yet. `timeout` bounds each call.
    pub(crate) fn new(etcd: &Etcd, timeout: &str) -> Self {
        let registry = format!("use = \"etcd\"\n[registry.etcd]\nendpoints = {:?}\n", etcd.endpoints());
        Self::over(&registry, timeout)
    }

    /// The same over the registry that this content of `[registry]` names.
    pub(crate) fn over(registry: &str, timeout: &str) -> Self {
        let app = App::new().with_environment(ENVIRONMENT).with_config(format!(
            "[service]\nname = \"scenario\"\n[registry]\n{registry}\n[client.{SERVICE}]\ntimeout = {timeout:?}\n"
        ));
        Self::of(app)
    }

    /// The calling side of this app, which need not serve.
    pub(crate) fn of(app: App) -> Self {
        let channel = app.channel(SERVICE);
        Self { channel, app: Arc::new(Mutex::new(Some(app))), answers: Arc::default() }
    }

    /// The channel itself.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// One call that must not run twice; the process that answered.
    pub(crate) async fn plain(self) -> Result<u32, Failure> {
        let channel = self.channel.clone();
        self.ask(channel).await
    }

    /// One call that may run twice.
    pub(crate) async fn idempotent(self) -> Result<u32, Failure> {
        let channel = self.channel.idempotent();
        self.ask(channel).await
    }

    async fn ask(&self, channel: Channel) -> Result<u32, Failure> {
        let pid = ask(channel).await?;
        let mut answers = locked(&self.answers);
        if answers.len() == REMEMBERED {
            answers.pop_front();
        }
        answers.push_back((Instant::now(), pid));
        Ok(pid)
    }

    /// Which part of the answers of the last second came from `pid`, 0.0 to 1.0.
    pub(crate) fn share(&self, pid: u32) -> f64 {
        let answers = locked(&self.answers);
        let recent = answers.iter().rev().take_while(|(at, _)| at.elapsed() < Duration::from_secs(1));
        let (of_it, all) =
            recent.fold((0, 0), |(of_it, all), (_, who)| (of_it + u32::from(*who == pid), all + 1));
        if all == 0 { 0.0 } else { f64::from(of_it) / f64::from(all) }
    }

    /// Calls in flight at `addr`.
    pub(crate) fn in_flight(&self, addr: SocketAddr) -> usize {
        self.at(addr).map(|node| node.inflight as usize).max().unwrap_or(0)
    }

    /// Whether there is a connection to `addr`.
    pub(crate) fn is_connected(&self, addr: SocketAddr) -> bool {
        self.at(addr).any(|node| node.state == ConnectionState::Connected)
    }

    /// How many dials of `addr` have failed.
    pub(crate) fn connects(&self, addr: SocketAddr) -> usize {
        let most = self.at(addr).map(|node| node.failed_dials).max().unwrap_or(0);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    fn at(&self, addr: SocketAddr) -> impl Iterator<Item = NodeView> {
        let addr = addr.to_string();
        self.channel.nodes().into_iter().filter(move |node| *node.address == addr)
    }

    /// Waits until the view holds these ids and no others.
    pub(crate) async fn view_is(&self, ids: &BTreeSet<String>, limit: Duration) -> Result<()> {
        let seen = || -> BTreeSet<String> {
            self.channel.nodes().iter().map(|node| node.instance.id.to_string()).collect()
        };
        if eventually(limit, "the view is the truth", || async { seen() == *ids }).await.is_ok() {
            return Ok(());
        }
        Err(format!("after {limit:?} the view is {:?}, the truth {ids:?}", seen()).into())
    }

    /// Waits until every process of `pids` has answered.
    pub(crate) async fn heard_of(&self, pids: &[u32], limit: Duration) -> Result<()> {
        let heard = || {
            let answers = locked(&self.answers);
            pids.iter().all(|pid| answers.iter().any(|(_, who)| who == pid))
        };
        eventually(limit, "every provider has answered", || async { heard() }).await?;
        Ok(())
    }

    /// How a call failed, for people.
    pub(crate) fn failure<T>(call: &Call<T, Failure>) -> Option<String> {
        match &call.outcome {
            Outcome::Answered(_) => None,
            Outcome::Failed(failure) => Some(failure.to_string()),
            Outcome::Unfinished => Some("no answer at all".to_owned()),
        }
    }

    /// Ends the channel and its registry.
    pub(crate) async fn end(self) {
        self.channel.close().await;
        drop(locked(&self.app).take());
    }
}

/// One call; the process that answered.
pub(crate) async fn ask(channel: Channel) -> Result<u32, Failure> {
    let answer = UsersClient::new(channel).get(GetUser { id: 7 }).await.map_err(|status| {
        let attempts = CallError::of(&status).map(CallError::attempts).unwrap_or_default();
        let addresses = attempts.iter().map(|attempt| attempt.address.to_string()).collect();
        let told = CallError::of(&status).map(ToString::to_string);
        let timed_out = status.code() == Code::DeadlineExceeded;
        let by_provider = told.is_none();
        Failure { text: told.unwrap_or_else(|| status.to_string()), addresses, timed_out, by_provider }
    })?;
    let name = answer.into_inner().name;
    let strange = || Failure {
        text: format!("`{name}` answered"),
        addresses: Vec::new(),
        timed_out: false,
        by_provider: true,
    };
    name.parse().map_err(|_| strange())
}

/// Waits until as much is left of callers as there was `before` them.
pub(crate) async fn nothing_left(before: Residue) -> Result<()> {
    let outcome = eventually(END, "nothing is left", || async { Residue::now().is_within(before) }).await;
    outcome.map_err(|error| format!("{error}: {:?}, before it {before:?}", Residue::now()).into())
}

/// The most dials that the back-off allows in `time`: one at once, then after 100 ms doubling to 5 s, each
/// pause up to 20 % shorter.
pub(crate) fn most_connects(time: Duration) -> usize {
    let pauses = std::iter::successors(Some(Duration::from_millis(80)), |pause| {
        Some((*pause * 2).min(Duration::from_secs(4)))
    });
    let mut left = time;
    1 + pauses.take_while(|pause| left.checked_sub(*pause).map(|rest| left = rest).is_some()).count()
}
