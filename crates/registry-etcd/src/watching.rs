//! The one watch stream of a backend: creates and cancels the watches of all taps and hands out what
//! comes. It asks for progress as a sign of life; a stream that is silent for too long is cut. etcd judges
//! each new watch by the token that the stream was opened with, so an old token costs the stream.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use etcd_client::{
    WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream, proto::PbWatchResponse,
};
use meshwork_core::{Error, ErrorKind};
use tokio::{time, time::Instant};

use crate::{
    errors,
    link::Link,
    members::Members,
    record::Event,
    taps::{Range, Taps, Told, Wanted},
};

/// A stream without event, progress or any other message for this long is cut.
const SILENCE: Duration = Duration::from_secs(10);
/// How often progress is asked for.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// The watch id of what is told to all watches of a stream.
const ALL: i64 = -1;

/// Why a stream ended.
enum End {
    Failed(Error),
    /// Its token is not taken any more.
    Token,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the stream over `link` until that fails. Opens it with the first tap; opens another one when etcd
/// does not take its token any more.
///
/// # Cancel safety
/// May be dropped at any await; the taps must be cut then.
pub(crate) async fn run(taps: &Taps, link: &Link, members: &Members) -> Error {
    loop {
        let first = loop {
            match taps.next_wanted() {
                Some(wanted) => break wanted,
                None => taps.changed().await,
            }
        };
        let token = match members.token(link).await {
            Ok(token) => token,
            Err(error) => return error,
        };
        let (sender, answers) = match open(&first, link, members).await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        let creating = VecDeque::from([first.id]);
        let parts = HashMap::new();
        let stream = Stream { taps, link, members, sender, creating, parts, token };
        if let End::Failed(error) = stream.run(answers).await {
            return error;
        }
        if let Err(error) = members.renew(link, token).await {
            return error;
        }
        let text = format!("{} did not take the token of the watch stream", link.address);
        taps.cut(&Arc::new(Error::unavailable(text)), false);
    }
}

async fn open(
    first: &Wanted,
    link: &Link,
    members: &Members,
) -> Result<(WatchRequestSender, WatchResponseStream), Error> {
    let context = || format!("opening a watch stream at {}", link.address);
    let (mut client, (key, options)) = (link.watch.clone(), options(first));
    let opened = time::timeout(members.attempt_timeout(), client.watch(key, Some(options))).await;
    let stream = opened.map_err(|_elapsed| Error::unavailable(context()))?;
    Ok(stream.map_err(|e| errors::of(context(), e))?.split())
}

fn options(wanted: &Wanted) -> (String, WatchOptions) {
    let options =
        WatchOptions::new().with_watch_id(wanted.id).with_start_revision(wanted.from).with_fragment();
    match &wanted.range {
        Range::Prefix(prefix) => (prefix.to_string(), options.with_prefix()),
        Range::Key(key) => (key.to_string(), options),
    }
}

struct Stream<'a> {
    taps: &'a Taps,
    link: &'a Link,
    members: &'a Members,
    sender: WatchRequestSender,
    /// The watches that were sent and not yet answered. etcd answers them in order; a refusal does not
    /// say which one it means.
    creating: VecDeque<i64>,
    /// Events of a revision that was too large for one message, until its last part is here.
    parts: HashMap<i64, Vec<Event>>,
    /// The token that it was opened with.
    token: u64,
}

impl Stream<'_> {
    async fn run(mut self, mut answers: WatchResponseStream) -> End {
        let (mut heard, mut ask) = (Instant::now(), Instant::now() + ASK_EVERY);
        // Whatever was wanted while there was no stream; its wake-up may be spent.
        if let Err(error) = self.send_wishes().await {
            return error.into();
        }
        loop {
            tokio::select! {
                answer = answers.message() => {
                    heard = Instant::now();
                    if let Err(end) = self.answered(answer) {
                        return end;
                    }
                }
                () = self.taps.changed() => {
                    if let Err(error) = self.send_wishes().await {
                        return error.into();
                    }
                }
                () = time::sleep_until(ask) => {
                    ask = Instant::now() + ASK_EVERY;
                    if self.taps.is_idle() {
                        // etcd has nothing to answer about; pings still watch the connection.
                        heard = Instant::now();
                    } else if let Err(error) = self.ask_for_progress().await {
                        return error.into();
                    }
                }
                () = time::sleep_until(heard + SILENCE) => {
                    let text = format!("the watch stream of {} was silent for {SILENCE:?}", self.link.address);
                    return Error::unavailable(text).into();
                }
            }
        }
    }

    async fn send_wishes(&mut self) -> Result<(), Error> {
        while let Some(id) = self.taps.next_dropped() {
            self.parts.remove(&id);
            let sent = time::timeout(self.members.attempt_timeout(), self.sender.cancel(id)).await;
            self.sent(sent)?;
        }
        while let Some(wanted) = self.taps.next_wanted() {
            let (key, options) = options(&wanted);
            let sent =
                time::timeout(self.members.attempt_timeout(), self.sender.watch(key, Some(options))).await;
            self.sent(sent)?;
            self.creating.push_back(wanted.id);
        }
        Ok(())
    }

    async fn ask_for_progress(&mut self) -> Result<(), Error> {
        let sent = time::timeout(self.members.attempt_timeout(), self.sender.request_progress()).await;
        self.sent(sent)
    }

    fn sent(&self, sent: Result<Result<(), etcd_client::Error>, time::error::Elapsed>) -> Result<(), Error> {
        let context = || format!("sending on the watch stream of {}", self.link.address);
        sent.map_err(|_elapsed| Error::unavailable(context()))?.map_err(|e| errors::of(context(), e))
    }

    fn answered(&mut self, answer: Result<Option<WatchResponse>, etcd_client::Error>) -> Result<(), End> {
        let context = || format!("watching at {}", self.link.address);
        let answer = answer
            .map_err(|e| errors::of(context(), e))?
            .ok_or_else(|| Error::unavailable(format!("{}: the stream ended", context())))?;
        let revision = self.members.check(answer.header())?;
        self.dispatch(answer.0, revision)
    }

    fn dispatch(&mut self, answer: PbWatchResponse, revision: i64) -> Result<(), End> {
        let asked = if answer.created { self.creating.pop_front() } else { None };
        let id = if answer.watch_id == ALL { asked.unwrap_or(ALL) } else { answer.watch_id };
        if answer.canceled && self.members.is_login_behind(&answer.cancel_reason, self.token) {
            // What was asked for and not yet created goes to the next stream.
            self.creating.iter().chain([&id]).for_each(|id| self.taps.want_again(*id));
            return Err(End::Token);
        }
        if answer.canceled {
            self.parts.remove(&id);
            let told = match answer.compact_revision {
                0 => Told::Cut(Arc::new(refused(&answer.cancel_reason, self.link))),
                _ => Told::Compacted,
            };
            self.taps.tell(id, told);
        } else if answer.created {
            self.members.proved(self.token);
            self.taps.tell(id, Told::Created { revision });
        } else if answer.events.is_empty() {
            match id {
                ALL => self.taps.tell_progress(revision),
                id => self.taps.tell(id, Told::Progress { revision }),
            }
        } else {
            let parts = self.parts.entry(id).or_default();
            parts.extend(answer.events.into_iter().filter_map(Event::read));
            if !answer.fragment {
                let events = self.parts.remove(&id).unwrap_or_default();
                self.taps.tell(id, Told::Events(events));
            }
        }
        Ok(())
    }
}

fn refused(reason: &str, link: &Link) -> Error {
    let kind = if reason.is_empty() { ErrorKind::Unavailable } else { ErrorKind::Denied };
    Error::new(kind, format!("{} cancelled a watch", link.address)).with_source(errors::explained(reason))
}
