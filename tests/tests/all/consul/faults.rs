//! Answers that lie, hang, or end early, by a proxy that changes what the agent says.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_core::{ErrorKind, Watch};
use meshwork_testkit::consul::{Exchange, Fate, Meddler};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpListener, time};

use super::bench::{Bench, LONG, Opened, backend, instance, shows, until};

const HEALTH: &str = "/v1/health/service/";

/// A view through a meddler, full of one native and one foreign instance.
struct Meddled {
    bench: Bench,
    meddler: Meddler,
    opened: Opened,
    watch: Watch,
    id: String,
    _registration: meshwork_core::Registration,
}

impl Meddled {
    async fn start() -> Self {
        let bench = Bench::start().await;
        let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
        let opened = Opened::new(
            backend(meddler.url())
                .with_wait(Duration::from_secs(2))
                .with_request_timeout(Duration::from_secs(1)),
        );
        let registration = bench.opened().announce(instance("users", 80)).await;
        let id = registration.id().to_string();
        let watch = opened.watch("users");
        shows(&watch, [id.as_str()], LONG).await;
        Self { bench, meddler, opened, watch, id, _registration: registration }
    }

    /// The next views until `limit`: none of them may be without the instance.
    async fn stays_full(&self, limit: Duration) {
        let mut watch = self.watch.clone();
        let end = time::Instant::now() + limit;
        while let Ok(view) = time::timeout_at(end, watch.changed()).await {
            assert!(view.value().iter().any(|i| i.id.as_str() == self.id), "{view:?}");
        }
    }

    /// Everything works again, and changes are seen.
    async fn is_well(&self) {
        self.meddler.behave();
        let another = self.bench.opened().announce(instance("users", 81)).await;
        shows(&self.watch, [self.id.as_str(), another.id().as_str()], LONG).await;
        another.deregister().await.unwrap();
        shows(&self.watch, [self.id.as_str()], LONG).await;
        until(&self.watch, LONG, "the view is fresh", |view| view.staleness().is_fresh()).await;
    }
}

fn of_health(exchange: &Exchange) -> bool {
    exchange.path.starts_with(HEALTH)
}

#[tokio::test]
async fn an_index_that_goes_backwards_is_read_again_and_loses_nothing() {
    let meddled = Meddled::start().await;
    let answers = Arc::new(AtomicU64::new(0));
    let indexes = [100, 50, 0, 0];
    meddled.meddler.meddle(move |exchange| {
        if of_health(exchange) {
            let n = answers.fetch_add(1, Relaxed) as usize;
            exchange.set_header("x-consul-index", indexes[n % indexes.len()].to_string());
        }
    });
    let before = meddled.meddler.count(HEALTH);
    let begun = time::Instant::now();
    meddled.stays_full(Duration::from_secs(6)).await;
    let (asked, seconds) = (meddled.meddler.count(HEALTH) - before, begun.elapsed().as_secs_f64());
    println!("index 100 → 50 → 0 for {seconds:.1} s: {asked} requests");
    assert!((asked as f64) <= 2.0 * seconds + 4.0, "{asked} requests in {seconds} s");
    assert!(meddled.watch.latest().staleness().is_fresh());
    meddled.is_well().await;
}

#[tokio::test]
async fn a_blank_answer_without_a_leader_is_no_fact() {
    let meddled = Meddled::start().await;
    meddled.meddler.meddle(|exchange| {
        if of_health(exchange) {
            exchange.body = b"[]".to_vec();
            exchange.set_header("x-consul-knownleader", "false");
            exchange.set_header("x-consul-query-backend", "blocking-query");
            exchange.set_header("x-consul-index", "999999");
        }
    });
    until(&meddled.watch, LONG, "the view is stale", |view| !view.staleness().is_fresh()).await;
    meddled.stays_full(Duration::from_secs(2)).await;
    meddled.is_well().await;
}

#[tokio::test]
async fn an_older_blank_answer_is_not_taken() {
    let meddled = Meddled::start().await;
    // Blocking queries come from a server that is far behind; what is asked afresh comes from the leader.
    meddled.meddler.meddle(|exchange| {
        if of_health(exchange) && exchange.path.contains("index=") {
            exchange.body = b"[]".to_vec();
            exchange.set_header("x-consul-index", "3");
        }
    });
    meddled.stays_full(Duration::from_secs(5)).await;
    assert!(meddled.watch.latest().staleness().is_fresh());
    meddled.is_well().await;
}

#[tokio::test]
async fn answers_that_hang_in_head_or_body_are_given_up() {
    for fate in [Fate::Withheld, Fate::Headed] {
        let meddled = Meddled::start().await;
        meddled.meddler.meddle(move |exchange| {
            if of_health(exchange) {
                exchange.fate = fate;
            }
        });
        // The wait is 2 s and the request timeout 1 s.
        until(&meddled.watch, Duration::from_secs(12), "the view is stale", |view| {
            !view.staleness().is_fresh()
        })
        .await;
        assert_eq!(meddled.watch.latest().value().len(), 1);
        meddled.is_well().await;
    }
}

#[tokio::test]
async fn cut_broken_and_refused_answers_keep_the_view() {
    let meddled = Meddled::start().await;
    let spoils: [fn(&mut Exchange); 4] = [
        |exchange| exchange.fate = Fate::Cut,
        |exchange| (exchange.status, exchange.body) = (500, b"rpc error: No cluster leader".to_vec()),
        |exchange| (exchange.status, exchange.body) = (429, Vec::new()),
        |exchange| (exchange.status, exchange.body) = (502, b"<html>bad gateway</html>".to_vec()),
    ];
    for spoil in spoils {
        meddled.meddler.meddle(move |exchange| {
            if of_health(exchange) {
                spoil(exchange);
            }
        });
        until(&meddled.watch, LONG, "the view is stale", |view| !view.staleness().is_fresh()).await;
        meddled.stays_full(Duration::from_millis(500)).await;
        meddled.meddler.behave();
        until(&meddled.watch, LONG, "the view is fresh", |view| view.staleness().is_fresh()).await;
    }
    meddled.is_well().await;
}

#[tokio::test]
async fn one_row_of_a_wrong_shape_spoils_neither_itself_nor_the_others() {
    let meddled = Meddled::start().await;
    let another = meddled.bench.opened().announce(instance("users", 81)).await;
    let (id, bad) = (meddled.id.clone(), another.id().to_string());
    shows(&meddled.watch, [id.as_str(), bad.as_str()], LONG).await;
    let spoilt = bad.clone();
    meddled.meddler.meddle(move |exchange| {
        if of_health(exchange) {
            let mut rows: serde_json::Value = serde_json::from_slice(&exchange.body).unwrap();
            for row in rows.as_array_mut().unwrap() {
                if row["Service"]["ID"] == json!(spoilt) {
                    row["Service"]["Port"] = json!({ "not": "a port" });
                }
            }
            exchange.body = rows.to_string().into_bytes();
        }
    });
    let third = meddled.bench.opened().announce(instance("users", 82)).await;
    shows(&meddled.watch, [id.as_str(), bad.as_str(), third.id().as_str()], LONG).await;
    assert!(meddled.watch.latest().staleness().is_fresh());
    // A new reader has no good record of it to keep.
    let fresh = meddled.opened.watch_query(&super::bench::query("users").with("passing", "true"));
    shows(&fresh, [id.as_str(), third.id().as_str()], LONG).await;
}

#[tokio::test]
async fn what_is_no_consul_is_told_as_what_it_is() {
    let kind = |watch: Watch, kind: ErrorKind| async move {
        until(&watch, LONG, &format!("the cause is {kind}"), |view| {
            view.staleness().cause().is_some_and(|cause| cause.kind() == kind)
        })
        .await;
    };
    let bench = Bench::start().await;
    let https = bench.consul.url().replace("http://", "https://");
    kind(Opened::new(backend(https)).watch("users"), ErrorKind::Protocol).await;

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    kind(Opened::new(backend(url)).watch("users"), ErrorKind::Unavailable).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chatter = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example.com ESMTP\r\n").await;
        }
    });
    kind(Opened::new(backend(url)).watch("users"), ErrorKind::Protocol).await;
    chatter.abort();

    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    meddler.meddle(|exchange| (exchange.status, exchange.body) = (200, b"<html>hello</html>".to_vec()));
    kind(Opened::new(backend(meddler.url())).watch("users"), ErrorKind::Protocol).await;
}
