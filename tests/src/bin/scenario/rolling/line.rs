//! One client and its calls, none of which may run twice.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc, time::Duration};

use meshwork::Channel;
use meshwork_client::{ClientConfig, ConnectionState, Limit, TlsConfig, TlsConnect};
use meshwork_core::{Scheme, ServiceName, Watch};
use meshwork_testkit::{
    load::{Load, Outcome, Report, RunningLoad},
    truth::eventually,
};
use meshwork_tests::{Result, SERVICE, judge::Judge};
use tokio::time::{Instant, sleep};

use crate::caller;

/// How long all connections may take.
const CONNECTED: Duration = Duration::from_secs(30);
/// What the caller of a call allows it.
const DEADLINE: Duration = Duration::from_secs(1);
/// Of failures, so many are noted.
const NOTED: usize = 5;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Grpc,
    GrpcTls,
    Http1,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::GrpcTls => "grpc+tls",
            Self::Http1 => "http/1.1",
        })
    }
}

/// A channel over a view.
pub(super) struct Line {
    channel: Channel,
    kind: Kind,
}

impl Line {
    /// A client that finds instances by `watch` and trusts this authority.
    pub(super) fn new(watch: Watch, kind: Kind, authority: &Path) -> Result<Self> {
        let mut config = ClientConfig::default();
        config.timeout = Some(Limit::new(DEADLINE, "the scenario"));
        match kind {
            Kind::Grpc => config.scheme = Some(Scheme::Grpc),
            Kind::Http1 => config.scheme = Some(Scheme::Http),
            Kind::GrpcTls => {
                config.scheme = Some(Scheme::Grpcs);
                let mut tls = TlsConfig::default();
                tls.ca_file = Some(authority.to_owned());
                config.connect = Arc::new(TlsConnect::new("the scenario", tls)?);
            }
        }
        Ok(Self { channel: Channel::new(ServiceName::new(SERVICE)?, watch, config), kind })
    }

    /// Waits until it is connected to so many.
    pub(super) async fn connected(&self, count: usize) -> Result<()> {
        // It connects for who calls; a registry that is far away may answer later than a call may take.
        let began = Instant::now();
        while let Err(error) = self.channel.ready().await {
            if began.elapsed() > CONNECTED {
                return Err(error.into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        let all = || async {
            let nodes = self.channel.nodes();
            self.seen().len() == count && nodes.iter().all(|node| node.state == ConnectionState::Connected)
        };
        let outcome = eventually(CONNECTED, "the client is connected to all", all).await;
        outcome.map_err(|error| {
            let nodes = self.channel.nodes();
            let states: Vec<_> = nodes.iter().map(|node| (&node.address, node.state)).collect();
            format!("{error}: {states:?}").into()
        })
    }

    /// The ids in its view.
    fn seen(&self) -> BTreeSet<String> {
        self.channel.nodes().iter().map(|node| node.instance.id.to_string()).collect()
    }

    /// So many calls per second until it is stopped.
    pub(super) fn load(&self, rate: f64) -> RunningLoad<u32, String> {
        let (channel, kind) = (self.channel.clone(), self.kind);
        Load::rate(rate).lasting(Duration::MAX).start(move |_| {
            let channel = channel.clone();
            async move {
                match kind {
                    Kind::Http1 => posted(channel).await,
                    Kind::Grpc | Kind::GrpcTls => caller::ask(channel).await.map_err(|e| e.to_string()),
                }
            }
        })
    }

    /// Waits until its view holds these ids and no others.
    pub(super) async fn sees(&self, ids: &BTreeSet<String>, limit: Duration) -> Result<()> {
        let outcome = eventually(limit, "the view is the truth", || async { self.seen() == *ids }).await;
        outcome.map_err(|error| format!("{error}: the view is {:?}, the truth {ids:?}", self.seen()).into())
    }

    /// Closes it; whether nothing was under way any more.
    pub(super) async fn close(self) -> bool {
        self.channel.close().await
    }
}

async fn posted(channel: Channel) -> Result<u32, String> {
    let answer = channel.post("/effect").send().await.map_err(|error| error.to_string())?;
    let (status, text) = (answer.status(), answer.text().await.map_err(|error| error.to_string())?);
    text.parse().map_err(|_| format!("{status} `{text}`"))
}

/// Tells the latencies, and judges that none failed.
pub(super) fn judged<T>(report: &Report<T, String>, judge: &mut Judge) {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    judge.told("calls", report.calls().len());
    judge.count("failed", report.failed(), 0);
    judge.told("p50", ms(report.p50()));
    judge.told("p99", ms(report.p99()));
    judge.told("p99.9", ms(report.latency(0.999)));
    judge.told("max", ms(report.max()));
    judge.told("generator late p99", ms(report.lateness(0.99)));
    judge.holds("there were calls", report.calls().len() > 100);
    for call in report.failures().take(NOTED) {
        let why = match &call.outcome {
            Outcome::Failed(why) => why.as_str(),
            _ => "no answer at all",
        };
        let (began, took) = (call.began - report.begun(), call.ended - call.began);
        judge.note(&format!("failed: begun at {:.3} s, ended {took:.1?} later: {why}", began.as_secs_f64()));
    }
}
