//! How long a connection may do nothing: a state machine that its task asks now and then.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use crate::{ServerConfig, conn::Conn, drain::CutKind};

/// What an HTTP/2 client sends before its first request at least: preface and the head of SETTINGS.
const H2_OPENING: u64 = 24 + 9;
/// After the goodbye, how long a connection without a request may take to end by itself.
const GOODBYE_HTTP1: Duration = Duration::from_millis(500);
/// The same for HTTP/2, where late requests may be on their way and the goodbye needs an answer.
const GOODBYE_HTTP2: Duration = Duration::from_secs(3);

/// How long, from its acceptance, a connection that is silent when the drain begins has for its first words: its peer
/// connected while we still listened, and its request is on the way.
pub(crate) const FIRST_WORDS: Duration = Duration::from_millis(500);

/// What to do with a connection now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again then.
    Wait(Instant),
    /// Close it, for this reason.
    Close(&'static str),
}

/// The patience with one connection.
#[derive(Debug)]
pub(crate) struct Patience {
    first_request: Duration,
    head: Duration,
    idle: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing asked yet.
    New,
    /// A request was in flight, or came since the last look.
    Busy,
    /// Nothing in flight since then; so many bytes had come.
    Idle { since: Instant, started: u64, received: u64 },
    /// Bytes have come while nothing was in flight: a head is on its way.
    Head { since: Instant, started: u64 },
    /// The drain has begun.
    Goodbye { quiet_since: Instant, moved: u64 },
}

impl Patience {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            first_request: config.first_request_timeout,
            head: config.header_read_timeout,
            idle: config.idle_timeout,
            state: State::New,
        }
    }

    /// When to look for the first time.
    pub(crate) fn first_look(&self, conn: &Conn) -> Instant {
        conn.opened + self.first_request.min(self.step())
    }

    /// The time between two looks.
    fn step(&self) -> Duration {
        (self.head / 2).min(self.idle).max(Duration::from_millis(1))
    }

    /// The drain begins; says when to look.
    pub(crate) fn goodbye(&mut self, conn: &Conn, now: Instant) -> Instant {
        self.state = State::Goodbye { quiet_since: now, moved: moved(conn) };
        now + GOODBYE_HTTP1
    }

    /// Judges the connection.
    pub(crate) fn look(&mut self, conn: &Conn, now: Instant) -> Verdict {
        let started = conn.started.load(Relaxed);
        let received = conn.received.load(Relaxed);
        // Pending bytes of an answer count as work.
        let busy = conn.in_flight.load(Relaxed) > 0 || conn.blocked.load(Relaxed);
        if let State::Goodbye { quiet_since, moved: before } = self.state {
            return self.look_after_goodbye(conn, now, busy, quiet_since, before);
        }
        if conn.kind() == CutKind::Http2 && (started > 0 || received >= H2_OPENING) {
            // From here on pings decide.
            return Verdict::Wait(now + Duration::from_secs(24 * 3600));
        }
        let next = now + self.step();
        match self.state {
            State::New if started == 0 => {
                let end = conn.opened + self.first_request;
                return if now >= end {
                    Verdict::Close("no request came")
                } else {
                    Verdict::Wait(end.min(next))
                };
            }
            State::Idle { started: before, since, received: then } if !busy && before == started => {
                if received != then {
                    self.state = State::Head { since, started };
                } else if now >= since + self.idle {
                    return Verdict::Close("idle for too long");
                }
            }
            State::Head { started: before, since } if !busy && before == started => {
                if now >= since + self.head {
                    return Verdict::Close("a request head took too long");
                }
            }
            _ if busy => self.state = State::Busy,
            _ => self.state = State::Idle { since: now, started, received },
        }
        Verdict::Wait(next)
    }

    fn look_after_goodbye(
        &mut self,
        conn: &Conn,
        now: Instant,
        busy: bool,
        quiet_since: Instant,
        before: u64,
    ) -> Verdict {
        let moved = moved(conn);
        let limit = if conn.kind() == CutKind::Http2 { GOODBYE_HTTP2 } else { GOODBYE_HTTP1 };
        // A trickle of bytes is no work in HTTP/1 (a head that never ends), but is in HTTP/2.
        let active = busy || (conn.kind() == CutKind::Http2 && moved != before);
        if active {
            self.state = State::Goodbye { quiet_since: now, moved };
        } else if now >= quiet_since + limit {
            return Verdict::Close("nothing in flight after the goodbye");
        }
        Verdict::Wait(now + GOODBYE_HTTP1 / 2)
    }
}

fn moved(conn: &Conn) -> u64 {
    conn.received.load(Relaxed) + conn.sent.load(Relaxed)
}
