//! The board itself: a server that keeps rows under leases and tells whoever watches. It is no part of the backend.
//!
//! Each line is a request and has one line as answer, `ok …` or `no …`: `grant LEASE MILLIS`, `keep LEASE`, `end LEASE`,
//! `put LEASE TOPIC ID RECORD` (answered by the revision), `get TOPIC ID` (by lease and record), and `news TOPIC=REVISION …`,
//! answered by those topics that have another revision now, with all their rows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::Task;
use tokio::{
    io::{self, AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

const SWEEP: Duration = Duration::from_millis(50);

/// What a board holds; it outlives the server's task.
#[derive(Clone, Debug, Default)]
pub struct Store {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    leases: HashMap<u64, Lease>,
    ended: HashSet<u64>,
    topics: HashMap<String, Topic>,
    revision: u64,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

#[derive(Debug, Default)]
struct Topic {
    revision: u64,
    rows: BTreeMap<String, (u64, String)>,
}

impl Store {
    /// Serves on this address until the task ends; nothing is answered after. Every lease has its whole time again.
    ///
    /// # Errors
    /// When the address cannot be bound.
    ///
    /// # Cancel safety
    /// Nothing is served before it returns.
    pub async fn serve(&self, addr: SocketAddr) -> io::Result<Task> {
        let listener = TcpListener::bind(addr).await?;
        self.lock().leases.values_mut().for_each(|lease| lease.ends = Instant::now() + lease.ttl);
        let stop = CancellationToken::new();
        let work = serve(self.clone(), listener, stop.clone());
        Ok(Task::new("board", stop, tokio::spawn(work)))
    }

    /// Everything is gone.
    pub fn wipe(&self) {
        let mut state = self.lock();
        state.leases.clear();
        let topics: Vec<String> = state.topics.keys().cloned().collect();
        topics.iter().for_each(|topic| state.touch(topic).clear());
    }

    /// Writes a row under no lease.
    pub fn write(&self, topic: &str, id: &str, record: String) {
        self.lock().touch(topic).insert(id.to_owned(), (0, record));
    }

    /// Removes a row, and with `claim` its lease.
    pub fn remove(&self, topic: &str, id: &str, claim: bool) {
        let mut state = self.lock();
        let row = state.touch(topic).remove(id);
        if let Some((lease, _)) = row.filter(|_| claim) {
            state.end(lease);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, line: &str) -> Result<String, &'static str> {
        let mut parts = line.splitn(5, ' ');
        let mut next = || parts.next().ok_or("malformed");
        let number = |text: &str| text.parse::<u64>().map_err(|_| "malformed");
        let (verb, mut state) = (next()?, self.lock());
        match verb {
            "grant" => {
                let (lease, ttl) = (number(next()?)?, Duration::from_millis(number(next()?)?));
                if state.ended.contains(&lease) {
                    return Err("its lease has ended");
                }
                state.leases.insert(lease, Lease { ttl, ends: Instant::now() + ttl });
                Ok(String::new())
            }
            "keep" => {
                let lease = number(next()?)?;
                let lease = state.leases.get_mut(&lease).ok_or("its lease has ended")?;
                lease.ends = Instant::now() + lease.ttl;
                Ok(String::new())
            }
            "end" => {
                state.end(number(next()?)?);
                Ok(String::new())
            }
            "put" => {
                let (lease, topic, id, record) = (number(next()?)?, next()?, next()?, next()?);
                if !state.leases.contains_key(&lease) {
                    return Err("its lease has ended");
                }
                state.touch(topic).insert(id.to_owned(), (lease, record.to_owned()));
                Ok(state.revision.to_string())
            }
            "get" => {
                let (topic, id) = (next()?, next()?);
                let row = state.topics.get(topic).and_then(|topic| topic.rows.get(id));
                row.map(|(lease, record)| format!("{lease} {record}")).ok_or("nothing stands there")
            }
            "news" => {
                let asked = line.split(' ').skip(1).filter_map(|part| part.split_once('='));
                let news: serde_json::Map<_, _> = asked
                    .filter_map(|(topic, known)| Some((topic.to_owned(), state.news(topic, known)?)))
                    .collect();
                Ok(serde_json::Value::Object(news).to_string())
            }
            _ => Err("malformed"),
        }
    }
}

impl State {
    /// The rows of a topic, to be changed.
    fn touch(&mut self, topic: &str) -> &mut BTreeMap<String, (u64, String)> {
        self.revision += 1;
        let topic = self.topics.entry(topic.to_owned()).or_default();
        topic.revision = self.revision;
        &mut topic.rows
    }

    /// The rows of a topic, unless they are known.
    fn news(&self, topic: &str, known: &str) -> Option<serde_json::Value> {
        let (none, found) = (Topic::default(), self.topics.get(topic));
        let topic = found.unwrap_or(&none);
        (known != topic.revision.to_string()).then(|| serde_json::json!([topic.revision, topic.rows]))
    }

    /// Ends what has run out.
    fn sweep(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> =
            self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(n, _)| *n).collect();
        over.into_iter().for_each(|lease| self.end(lease));
    }

    /// Ends a lease for good, with every row under it.
    fn end(&mut self, lease: u64) {
        self.leases.remove(&lease);
        self.ended.insert(lease);
        let of_it = |topic: &Topic| topic.rows.values().any(|row| row.0 == lease);
        let topics: Vec<String> =
            self.topics.iter().filter(|(_, topic)| of_it(topic)).map(|(name, _)| name.clone()).collect();
        for topic in topics {
            self.touch(&topic).retain(|_, row| row.0 != lease);
        }
    }
}

async fn serve(store: Store, listener: TcpListener, stop: CancellationToken) {
    let (mut connections, mut sweep) = (JoinSet::new(), time::interval(SWEEP));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Ok((stream, _)) = listener.accept() => {
                let store = store.clone();
                // A client that goes away is no fault.
                connections.spawn(async move { drop(converse(store, stream).await) });
            }
            _ = sweep.tick() => store.lock().sweep(),
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn converse(store: Store, stream: TcpStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match store.answer(&line) {
            Ok(text) => format!("ok {text}\n"),
            Err(why) => format!("no {why}\n"),
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
