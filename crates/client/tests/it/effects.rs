//! Peers that count what was done for each request while they refuse, reset, close, say GOAWAY and fall silent: a
//! POST is never done twice, and what is said of its delivery is true.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response};
use meshwork_client::{CallErrorKind, Channel};
use meshwork_core::{Delivered, Verdict};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time,
};

use crate::support::{MS, Registry, foreign, text};

/// How often each request was done, by its path.
type Effects = Arc<Mutex<HashMap<String, usize>>>;

/// What becomes of a request. All but the refusals do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    /// Done, then reset.
    Reset(h2::Reason),
    /// Done; the head is sent and the body breaks off.
    BrokenBody,
    /// Done, and the connection is closed without a word.
    Closed,
    /// The peer says that it takes no more on this connection, then does it and answers.
    GoAway,
    /// Done, and the peer gives up all that is on this connection.
    GoAwayNow,
    /// Done, and nobody says so.
    Silent,
    /// Done, and answered as if it could not be.
    Unavailable,
}

impl Fate {
    /// By chance, the same for each run.
    fn of(path: &str, seed: u64) -> Self {
        let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
        for byte in path.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        match (hash >> 20) % 20 {
            0 | 1 => Self::Refused,
            2 => Self::Reset(h2::Reason::CANCEL),
            3 => Self::Reset(h2::Reason::INTERNAL_ERROR),
            4 => Self::Reset(h2::Reason::ENHANCE_YOUR_CALM),
            5 => Self::BrokenBody,
            6 => Self::Closed,
            7 | 8 => Self::GoAway,
            9 => Self::GoAwayNow,
            10 => Self::Silent,
            11 => Self::Unavailable,
            _ => Self::Answered,
        }
    }
}

async fn start(seed: u64, effects: &Effects) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, effects) = (listener.local_addr().unwrap(), Arc::clone(effects));
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream, seed, Arc::clone(&effects)));
        }
    });
    (addr, task)
}

async fn serve(stream: TcpStream, seed: u64, effects: Effects) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(8);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut answers = JoinSet::new();
    // What a request does to its whole connection.
    let (say, mut said) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                answers.spawn(meet(request, respond, seed, Arc::clone(&effects), say.clone()));
            }
            Some(fate) = said.recv() => match fate {
                Fate::GoAway => connection.graceful_shutdown(),
                Fate::GoAwayNow => connection.abrupt_shutdown(h2::Reason::INTERNAL_ERROR),
                _ => return,
            }
        }
    }
}

async fn meet(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    seed: u64,
    effects: Effects,
    connection: mpsc::UnboundedSender<Fate>,
) {
    let path = request.uri().path().to_owned();
    let times = effects.lock().unwrap().get(&path).copied().unwrap_or(0);
    // Whoever comes again meets another fate, or it would never end.
    let fate = Fate::of(&path, seed.wrapping_add(times as u64));
    if fate == Fate::Refused {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        return;
    }
    time::sleep(MS).await;
    *effects.lock().unwrap().entry(path).or_default() += 1;
    match fate {
        Fate::Reset(reason) => respond.send_reset(reason),
        Fate::BrokenBody => {
            let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
            let _sent = body.send_data("par".into(), false);
            time::sleep(MS).await;
            body.send_reset(h2::Reason::CANCEL);
        }
        Fate::Closed | Fate::GoAwayNow => drop(connection.send(fate)),
        Fate::Silent => std::future::pending().await,
        Fate::Unavailable => {
            let answer = Response::builder().status(503).body(()).unwrap();
            let _gone = respond.send_response(answer, true);
        }
        Fate::GoAway | Fate::Answered | Fate::Refused => {
            if fate == Fate::GoAway {
                let _told = connection.send(fate);
                time::sleep(MS).await;
            }
            if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                let _gone = body.send_data("done".into(), true);
            }
        }
    }
}

/// How a POST ended.
struct Ended {
    path: String,
    delivered: Option<Delivered>,
}

async fn post(channel: Channel, path: String) -> Ended {
    let delivered = match text(channel.post(&path).body("once")).await {
        Ok(body) => {
            assert_eq!(body, "done");
            None
        }
        Err(error) if error.kind() == CallErrorKind::Status => Some(Delivered::Maybe),
        Err(error) => {
            let is_maybe = error.delivered() == Delivered::Maybe;
            assert!(!is_maybe || !error.attempts().is_empty(), "{path}: {error}");
            Some(error.delivered())
        }
    };
    Ended { path, delivered }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_done_once_at_most_and_what_is_said_of_its_delivery_is_true() {
    const CALLS: usize = 300;
    let (mut done, mut maybe) = (0, 0);
    for seed in 1..=4 {
        let effects = Effects::default();
        let mut peers = Vec::new();
        for _ in 0..3 {
            peers.push(start(seed, &effects).await);
        }
        let records =
            peers.iter().enumerate().map(|(nth, (addr, _))| foreign(&format!("users-{nth}"), "grpc", *addr));
        let channel = Registry::of(records.collect::<Vec<_>>()).channel_with(|config| {
            config.hedge = true;
            config.retry.attempts = 5;
            config.retry.min_per_second = 1000;
        });
        let channel = channel.timeout(Duration::from_millis(400));
        let (mut posts, mut gets) = (JoinSet::new(), JoinSet::new());
        for nth in 0..CALLS {
            posts.spawn(post(channel.clone(), format!("/post/{nth}")));
            // Beside them calls that are retried and hedged.
            let get = channel.request(Method::GET, format!("/get/{nth}"));
            gets.spawn(async move { drop(text(get).await) });
            if posts.len() >= 24 {
                posts
                    .join_next()
                    .await
                    .unwrap()
                    .map(|ended| check(&ended, &effects, &mut done, &mut maybe))
                    .unwrap();
            }
        }
        for ended in posts.join_all().await {
            check(&ended, &effects, &mut done, &mut maybe);
        }
        gets.join_all().await;
        // Whatever is still on its way.
        time::sleep(50 * MS).await;
        for (path, times) in effects.lock().unwrap().iter().filter(|(path, _)| path.starts_with("/post")) {
            assert_eq!(*times, 1, "{path} was done {times} times");
        }
    }
    println!("{done} POSTs were done, {maybe} are not known to be");
    assert!(done > CALLS / 2 && maybe > CALLS / 4, "{done} were done and {maybe} are not known to be");
}

fn check(ended: &Ended, effects: &Effects, done: &mut usize, maybe: &mut usize) {
    let times = effects.lock().unwrap().get(&ended.path).copied().unwrap_or(0);
    match ended.delivered {
        None => {
            assert_eq!(times, 1, "{} was answered", ended.path);
            *done += 1;
        }
        Some(Delivered::No) => assert_eq!(times, 0, "{} was said not to be delivered", ended.path),
        Some(Delivered::Maybe) => *maybe += 1,
    }
}
