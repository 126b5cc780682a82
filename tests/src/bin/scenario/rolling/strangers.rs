//! Clients that are not ours, in closed loops over connections that they keep: tonic's own channel, curl, wrk.

use std::{net::SocketAddr, time::Duration};

use meshwork_testkit::process::Program;
use meshwork_tests::{Result, judge::Judge};
use orders::users::{GetUser, users_client::UsersClient};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Loops of calls at a time.
const LOOPS: usize = 10;
/// What a call may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Of a program that asks a while and ends.
const ENDS: Duration = Duration::from_secs(60);
/// Of failures, so many are noted.
const NOTED: usize = 5;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// A connection for each loop.
    Tonic,
    /// One connection for all loops.
    TonicShared,
    Curl,
    Wrk,
}

impl Stranger {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tonic => "tonic",
            Self::TonicShared => "tonic with parallel calls",
            Self::Curl => "curl",
            Self::Wrk => "wrk",
        }
    }

    /// Whether this machine has it.
    pub(super) fn is_here(self) -> bool {
        matches!(self, Self::Tonic | Self::TonicShared)
            || Program::new(self.name()).arg("--version").start().is_ok()
    }

    /// Asks until it is stopped. All addresses have one port; more than one only curl and tonic can use.
    pub(super) async fn ask(self, addrs: Vec<SocketAddr>, stop: CancellationToken) -> Result<Tally> {
        let mut loops = JoinSet::new();
        match self {
            Self::Tonic => {
                for _ in 0..LOOPS {
                    loops.spawn(calls(dialled(&addrs)?, stop.clone()));
                }
            }
            Self::TonicShared => {
                let channel = dialled(&addrs)?;
                (0..LOOPS).for_each(|_| drop(loops.spawn(calls(channel.clone(), stop.clone()))));
            }
            Self::Curl => (0..LOOPS / 2).for_each(|turn| {
                // Each begins with another, as resolvers see to.
                let (mut addrs, first) = (addrs.clone(), turn % addrs.len());
                addrs.rotate_left(first);
                drop(loops.spawn(curls(addrs, stop.clone())));
            }),
            Self::Wrk => drop(loops.spawn(wrks(addrs[0], stop))),
        }
        let mut all = Tally::default();
        while let Some(tally) = loops.join_next().await {
            all.add(tally??);
        }
        Ok(all)
    }
}

/// What became of the calls.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: usize,
    /// Calls that were sent again, because the client itself had taken them back unsent.
    taken_back: usize,
    failures: Vec<String>,
    /// Of answers, where it is known of each.
    took: Vec<Duration>,
    /// What the program says of them otherwise.
    said: Option<String>,
}

impl Tally {
    fn add(&mut self, mut other: Self) {
        self.answered += other.answered;
        self.taken_back += other.taken_back;
        self.failures.append(&mut other.failures);
        self.took.append(&mut other.took);
        self.said = other.said.or(self.said.take());
    }

    /// Tells the latencies, and judges that none failed.
    pub(super) fn judged(mut self, judge: &mut Judge) {
        judge.told("answered", self.answered);
        judge.count("failed", self.failures.len(), 0);
        if self.taken_back > 0 {
            judge.told("taken back by the client unsent, and sent again", self.taken_back);
        }
        judge.holds("there were answers", self.answered > 50);
        self.took.sort_unstable();
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let place = (self.took.len() as f64 * share) as usize;
            if let Some(took) = self.took.get(place.min(self.took.len().saturating_sub(1))) {
                judge.told(name, format_args!("{:.1} ms", took.as_secs_f64() * 1e3));
            }
        }
        if let Some(said) = self.said {
            judge.told("latencies of the last run", said);
        }
        for failure in self.failures.iter().take(NOTED) {
            judge.note(&format!("failed: {failure}"));
        }
    }
}

// === tonic ===

/// One connection, or one to each.
fn dialled(addrs: &[SocketAddr]) -> Result<Channel> {
    let endpoints = addrs.iter().map(|addr| Endpoint::from_shared(format!("http://{addr}")));
    let mut endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
    Ok(match endpoints.pop() {
        Some(only) if endpoints.is_empty() => only.connect_lazy(),
        last => Channel::balance_list(endpoints.into_iter().chain(last)),
    })
}

async fn calls(channel: Channel, stop: CancellationToken) -> Result<Tally> {
    let mut users = UsersClient::new(channel);
    let mut tally = Tally::default();
    while !stop.is_cancelled() {
        let began = Instant::now();
        match timeout(DEADLINE, users.get(GetUser { id: 7 })).await {
            Ok(Ok(_user)) => {
                tally.answered += 1;
                tally.took.push(began.elapsed());
            }
            Ok(Err(status)) if is_taken_back(&status) => tally.taken_back += 1,
            Ok(Err(status)) => tally.failures.push(format!("{status:?}")),
            Err(_elapsed) => tally.failures.push(format!("no answer within {DEADLINE:?}")),
        }
    }
    Ok(tally)
}

/// Whether a call was never sent, because the connection chosen for it had just said goodbye: before hyper's client
/// looked, or between two of its looks. tonic tells it only so; grpc-go sends such a call again by itself. That none of
/// them ran is counted where they would have.
fn is_taken_back(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled => status.message() == "operation was canceled",
        Code::Internal => {
            let told = format!("{status:?}");
            told.contains("GoAway(") && told.contains("NO_ERROR, Remote")
        }
        _ => false,
    }
}

// === curl ===

async fn curls(addrs: Vec<SocketAddr>, stop: CancellationToken) -> Result<Tally> {
    let port = addrs[0].port();
    let ips: Vec<_> = addrs.iter().map(|addr| addr.ip().to_string()).collect();
    let limit = DEADLINE.as_secs().to_string();
    let mut tally = Tally::default();
    while !stop.is_cancelled() {
        let curl = Program::new("curl")
            .args(["--silent", "--output", "/dev/null", "--max-time", &limit])
            .args(["--resolve", &format!("users.test:{port}:{}", ips.join(","))])
            .args(["--write-out", "%{http_code} %{exitcode} %{time_total} %{errormsg}\n"])
            // One connection for all of them, as long as it is kept.
            .arg(format!("http://users.test:{port}/work?[1-100]"))
            .start()?;
        curl.ended(ENDS).await?;
        let lines = curl.stdout();
        if lines.len() != 100 {
            return Err(
                format!("curl tells of {} calls, not of 100: {:?}", lines.len(), curl.stderr()).into()
            );
        }
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["200", "0", took, ..] => {
                    tally.answered += 1;
                    tally.took.push(Duration::from_secs_f64(took.parse()?));
                }
                _ => tally.failures.push(line),
            }
        }
    }
    Ok(tally)
}

// === wrk ===

async fn wrks(addr: SocketAddr, stop: CancellationToken) -> Result<Tally> {
    let limit = format!("{}s", DEADLINE.as_secs());
    let mut tally = Tally::default();
    while !stop.is_cancelled() {
        let wrk = Program::new("wrk")
            .args(["-t1", &format!("-c{LOOPS}"), "-d2s", "--timeout", &limit, "--latency"])
            .arg(format!("http://{addr}/work"))
            .start()?;
        wrk.ended(ENDS).await?;
        tally.add(read(&wrk.stdout())?);
    }
    Ok(tally)
}

/// What wrk says: lines of errors only when there were any.
fn read(lines: &[String]) -> Result<Tally> {
    let trimmed = || lines.iter().map(|line| line.trim());
    let count = trimmed().find_map(|line| line.split_once(" requests in ")).ok_or("wrk counts nothing")?;
    let mut tally = Tally { answered: count.0.parse()?, ..Tally::default() };
    for line in trimmed() {
        if let Some(errors) = line.strip_prefix("Socket errors: ") {
            for (what, count) in errors.split(", ").filter_map(|error| error.split_once(' ')) {
                tally.failures.extend((0..count.parse()?).map(|_| format!("wrk: {what} error")));
            }
        }
        if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses: ") {
            tally.failures.extend((0..count.parse()?).map(|_| "wrk: an error status".to_owned()));
        }
    }
    let quantiles = trimmed().filter(|line| line.starts_with("50%") || line.starts_with("99%"));
    let said: Vec<_> = quantiles.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    tally.said = Some(said.join(" "));
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_wrk_tells_are_failures() {
        let said = [
            "     50%   10.9ms",
            "  180 requests in 2.00s, 20KB read",
            "  Socket errors: connect 0, read 3, write 0, timeout 1",
        ];
        let tally = read(&said.map(str::to_owned)).unwrap();
        assert_eq!((tally.answered, tally.failures.len()), (180, 4));
        assert_eq!(tally.said.as_deref(), Some("50% 10.9ms"));
        assert!(read(&["unable to connect".to_owned()]).is_err());
    }
}
