//! An HTTP proxy in front of an agent that changes, withholds or cuts answers as the test says.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meshwork_core::Task;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{Error, ports::Port};

/// No request head is longer.
const MAX_HEAD: usize = 64 * 1024;
/// How many requests are remembered.
const REMEMBERED: usize = 100_000;

/// One request with its answer, for the test to change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The headers of the answer, names in lowercase.
    pub headers: Vec<(String, String)>,
    /// The body of the answer.
    pub body: Vec<u8>,
    /// What becomes of the answer.
    pub fate: Fate,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is sent.
    #[default]
    Sent,
    /// Nothing is ever sent; the connection stays open.
    Withheld,
    /// The head is sent, and nothing of the body; the connection stays open.
    Headed,
    /// Half of the body is sent, then the connection is closed.
    Cut,
}

type Meddling = Arc<dyn Fn(&mut Exchange) + Send + Sync>;

/// A proxy on a port of its own. Without meddling it hands on what the agent answers.
pub struct Meddler {
    port: Arc<Port>,
    shared: Arc<Shared>,
    _listener: Task,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    meddling: Mutex<Meddling>,
    asked: Mutex<Vec<String>>,
}

impl Exchange {
    /// The first header of that name, in lowercase.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Sets a header of that name, in lowercase.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.into()));
    }
}

impl Meddler {
    /// Starts a proxy in front of the agent at `upstream`.
    ///
    /// # Errors
    /// When no port can be had.
    ///
    /// # Cancel safety
    /// Dropping the future ends the proxy.
    pub async fn start(upstream: SocketAddr) -> Result<Self, Error> {
        let port = Arc::new(Port::claim()?);
        let said = |e| Error::new("binding the port of a meddler").with_source(e);
        let listener = TcpListener::bind(port.addr()).await.map_err(said)?;
        let nothing: Meddling = Arc::new(|_: &mut Exchange| {});
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            meddling: Mutex::new(nothing),
            asked: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let work = serve(listener, Arc::clone(&shared));
        Ok(Self { port, shared, _listener: Task::new("meddler", stop, tokio::spawn(work)) })
    }

    /// `http://` and the address that clients dial.
    pub fn url(&self) -> String {
        self.port.url()
    }

    /// From now on every answer is changed by this; also those that are under way.
    pub fn meddle(&self, meddling: impl Fn(&mut Exchange) + Send + Sync + 'static) {
        *lock(&self.shared.meddling) = Arc::new(meddling);
    }

    /// From now on requests go to this agent; those under way are answered by the one before.
    pub fn redirect(&self, upstream: SocketAddr) {
        *lock(&self.shared.upstream) = upstream;
    }

    /// Stops meddling.
    pub fn behave(&self) {
        self.meddle(|_| {});
    }

    /// Path and query of every request so far, in their order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }

    /// How many requests there were whose path begins so.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.shared.asked).iter().filter(|asked| asked.starts_with(path)).count()
    }
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").field("port", &self.port).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // The connections end with the set, which ends with this task.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // A side that went away is what a proxy is there for.
            let _ = relay(client, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One request of one connection; the answer says that it closes.
async fn relay(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, mut body) = read_head(&mut client).await?;
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let method = first.next().unwrap_or_default().to_owned();
    let path = first.next().unwrap_or_default().to_owned();
    let headers = headers(lines);
    let length = length(&headers).unwrap_or(0);
    while body.len() < length && client.read_buf(&mut body).await? > 0 {}
    {
        let mut asked = lock(&shared.asked);
        if asked.len() < REMEMBERED {
            asked.push(path.clone());
        }
    }
    let upstream = *lock(&shared.upstream);
    let mut upstream = TcpStream::connect(upstream).await?;
    let mut request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in
        headers.iter().filter(|(name, _)| !matches!(&**name, "connection" | "content-length"))
    {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    upstream.write_all(request.as_bytes()).await?;
    upstream.write_all(&body).await?;
    let (head, mut body) = read_head(&mut upstream).await?;
    upstream.read_to_end(&mut body).await?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    let mut exchange =
        Exchange { method, path, status, headers: self::headers(lines), body, fate: Fate::default() };
    let meddling = Arc::clone(&lock(&shared.meddling));
    meddling(&mut exchange);
    answer(client, exchange).await
}

async fn answer(mut client: TcpStream, exchange: Exchange) -> io::Result<()> {
    if exchange.fate == Fate::Withheld {
        return closed(client).await;
    }
    let mut head = format!("HTTP/1.1 {} Meddled\r\n", exchange.status);
    let own = |name: &str| matches!(name, "connection" | "content-length" | "transfer-encoding");
    for (name, value) in exchange.headers.iter().filter(|(name, _)| !own(name)) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", exchange.body.len()));
    client.write_all(head.as_bytes()).await?;
    match exchange.fate {
        Fate::Headed => return closed(client).await,
        Fate::Cut => client.write_all(&exchange.body[..exchange.body.len() / 2]).await?,
        _ => client.write_all(&exchange.body).await?,
    }
    client.shutdown().await
}

/// Sends nothing until the client has had enough.
async fn closed(mut client: TcpStream) -> io::Result<()> {
    let mut rest = [0; 256];
    while client.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A head without its blank line, and what was read beyond it.
async fn read_head(from: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            read.truncate(end);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        if read.len() > MAX_HEAD || from.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn headers<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())).collect()
}

fn length(headers: &[(String, String)]) -> Option<usize> {
    headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()
}
