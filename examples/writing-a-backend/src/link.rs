//! The one connection that all subscriptions and claims of a process share.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::{BoxFuture, Drive, Error};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{self, mpsc, oneshot, watch},
    time,
};

/// How often the server is asked for news.
const POLL: Duration = Duration::from_millis(50);
/// A server that does not answer for this long is gone.
const SILENCE: Duration = Duration::from_secs(2);

/// What stood on a topic at a revision: by id, the lease and the record.
pub(crate) type Rows = Arc<(u64, BTreeMap<String, (u64, String)>)>;

/// A line, and who waits for its answer: `Ok` and `Err` as the server says.
type Order = (String, oneshot::Sender<Result<String, String>>);

/// The driven part of the backend.
pub(crate) struct Hub {
    server: SocketAddr,
    pub(crate) env: Box<str>,
    pub(crate) ttl: Duration,
    orders: mpsc::Sender<Order>,
    inbox: sync::Mutex<mpsc::Receiver<Order>>,
    topics: Mutex<HashMap<String, watch::Sender<Option<Rows>>>>,
}

impl Hub {
    pub(crate) fn new(server: SocketAddr, env: Box<str>, ttl: Duration) -> Self {
        let (orders, inbox) = mpsc::channel(64);
        Self { server, env, ttl, orders, inbox: sync::Mutex::new(inbox), topics: Mutex::default() }
    }

    /// Asks the server; it may refuse, which is the inner result.
    pub(crate) async fn ask(&self, line: String) -> Result<Result<String, String>, Error> {
        let (tell, told) = oneshot::channel();
        // The inbox lives as long as this hub.
        let _ = self.orders.send((line, tell)).await;
        told.await.map_err(|_dropped| self.failed("asking"))
    }

    /// What stands on a topic, from its next change on or at once; it closes when the connection ends.
    pub(crate) fn rows(&self, topic: &str) -> watch::Receiver<Option<Rows>> {
        let mut rows = self.topics().entry(topic.to_owned()).or_default().subscribe();
        if rows.borrow().is_some() {
            rows.mark_changed();
        }
        rows
    }

    pub(crate) fn failed(&self, what: &str) -> Error {
        Error::unavailable(format!("{what} the board at {}", self.server))
    }

    async fn run(&self, inbox: &mut mpsc::Receiver<Order>) -> Result<Infallible, Error> {
        let connected = time::timeout(SILENCE, TcpStream::connect(self.server)).await;
        let connected = connected.map_err(|_elapsed| self.failed("reaching"))?;
        let mut stream = BufReader::new(connected.map_err(|e| self.failed("reaching").with_source(e))?);
        let mut poll = time::interval(POLL);
        loop {
            let (mut line, tell) = tokio::select! {
                Some((line, tell)) = inbox.recv() => (line, Some(tell)),
                _ = poll.tick() => (self.news_wanted(), None),
            };
            line.push('\n');
            let mut answer = String::new();
            let exchange = async {
                stream.write_all(line.as_bytes()).await?;
                stream.read_line(&mut answer).await
            };
            match time::timeout(SILENCE, exchange).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) | Err(_) => return Err(self.failed("hearing")),
                Ok(Err(e)) => return Err(self.failed("hearing").with_source(e)),
            }
            let (said, rest) = answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), ""));
            match tell {
                // Whoever asked may be gone.
                Some(tell) => drop(tell.send(if said == "ok" { Ok(rest.into()) } else { Err(rest.into()) })),
                None => self.publish(rest),
            }
        }
    }

    /// Asks for the topics that anybody watches, each with the revision that he has.
    fn news_wanted(&self) -> String {
        let mut topics = self.topics();
        topics.retain(|_, rows| !rows.is_closed());
        let known =
            |rows: &watch::Sender<Option<Rows>>| rows.borrow().as_ref().map_or(u64::MAX, |rows| rows.0);
        topics.iter().fold("news".to_owned(), |line, (topic, rows)| format!("{line} {topic}={}", known(rows)))
    }

    fn publish(&self, news: &str) {
        let news: HashMap<String, Rows> = serde_json::from_str(news).unwrap_or_default();
        let topics = self.topics();
        for (topic, rows) in news {
            topics.get(&topic).map(|watched| watched.send_replace(Some(rows)));
        }
    }

    fn topics(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<Rows>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drive for Hub {
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(async {
            let mut inbox = self.inbox.lock().await;
            let Err(error) = self.run(&mut inbox).await;
            // Everybody who waits hears of it now, and the drivers try again.
            self.topics().clear();
            while inbox.try_recv().is_ok() {}
            error
        })
    }
}
