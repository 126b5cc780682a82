//! Opening a byte stream to an endpoint: the seam `Connect`, and plain TCP behind it.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use meshwork_core::{AddressRules, BoxFuture, Endpoint, Host};
use tokio::{
    net::{TcpStream, lookup_host},
    time,
};

use crate::{CallError, CallErrorKind, Io};

/// How long the next address waits for the one before it (RFC 8305, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up. It looks only when it sends
/// again or asks whether the peer lives, seconds later at times, and 20 s after the last sign of life all must be over.
const USER_TIMEOUT: Duration = Duration::from_secs(16);
/// How long a connection is silent before the kernel asks whether the peer lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// The protocol spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Which endpoints of an instance that offers several are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsUse {
    /// Those without TLS first.
    #[default]
    Avoided,
    /// Those with TLS first.
    Preferred,
    /// Only those with TLS.
    Required,
}

/// An open byte stream.
#[non_exhaustive]
pub struct Connected {
    /// The stream.
    pub io: Box<dyn Io>,
    /// The protocol that was negotiated, where one was; otherwise the caller knows which to speak.
    pub protocol: Option<Protocol>,
    /// Who answers, where the transport proves it.
    pub peer: Option<Arc<str>>,
}

impl Connected {
    /// A stream on which nothing was negotiated and nobody proved who they are.
    pub fn new(io: Box<dyn Io>) -> Self {
        Self { io, protocol: None, peer: None }
    }
}

/// Opens connections. The caller bounds it by the connect time-out.
pub trait Connect: Send + Sync + 'static {
    /// Opens a byte stream to `to`, to no address that `rules` object to.
    ///
    /// # Errors
    /// [`Connect`](CallErrorKind::Connect) when it cannot be opened,
    /// [`Unsupported`](CallErrorKind::Unsupported) when the scheme is not spoken.
    ///
    /// # Cancel safety
    /// Dropping the future closes whatever was opened.
    fn connect<'a>(
        &'a self,
        to: &'a Endpoint,
        rules: &'a AddressRules,
    ) -> BoxFuture<'a, Result<Connected, CallError>>;

    /// Whether endpoints with TLS are used, where the client's `scheme` leaves a choice.
    fn tls(&self) -> TlsUse {
        TlsUse::Avoided
    }
}

const _: fn(Box<dyn Connect>) = |_| {};

/// Plain TCP: no delay, keep-alive, and 16 s for unacknowledged bytes, so that a peer that is silent for 20 s is given
/// up.
#[derive(Clone, Debug, Default)]
pub struct TcpConnect(());

impl TcpConnect {
    /// The default connector.
    pub fn new() -> Self {
        Self(())
    }
}

impl Connect for TcpConnect {
    fn connect<'a>(
        &'a self,
        to: &'a Endpoint,
        rules: &'a AddressRules,
    ) -> BoxFuture<'a, Result<Connected, CallError>> {
        Box::pin(async move {
            if to.scheme().is_tls() {
                let text = format!("`{to}` needs TLS: say in `[client.<service>.tls]` whom to trust");
                return Err(CallError::new(CallErrorKind::Unsupported, text));
            }
            Ok(Connected::new(Box::new(tcp(to, rules).await?)))
        })
    }
}

/// Opens a TCP stream to the first address of `to` that answers.
pub(crate) async fn tcp(to: &Endpoint, rules: &AddressRules) -> Result<TcpStream, CallError> {
    let addresses = resolve(to, rules).await?;
    first_of(addresses.into_iter().map(open)).await.map_err(|error| failed(to, error))
}

/// The addresses of an endpoint that may be called, IPv6 and IPv4 in turn.
async fn resolve(to: &Endpoint, rules: &AddressRules) -> Result<Vec<SocketAddr>, CallError> {
    let found: Vec<SocketAddr> = match to.host() {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, to.port())],
        Host::Name(name) => {
            let found = lookup_host((&**name, to.port())).await.map_err(|error| failed(to, error))?;
            interleave(found.collect())
        }
    };
    let mut objection = None;
    let mut allowed = Vec::with_capacity(found.len());
    for address in found {
        match rules.objection(address.ip()) {
            Some(reason) => objection = Some(reason),
            None => allowed.push(address),
        }
    }
    allowed.truncate(MAX_ADDRESSES);
    match (allowed.is_empty(), objection) {
        (true, Some(reason)) => {
            Err(CallError::new(CallErrorKind::Connect, format!("`{to}` may not be called: {reason}")))
        }
        (true, None) => {
            Err(CallError::new(CallErrorKind::Connect, format!("the name in `{to}` has no address")))
        }
        (false, _) => Ok(allowed),
    }
}

/// The families in turn, beginning with that of the first address.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut all = Vec::new();
    loop {
        match (one.next(), other.next()) {
            (None, None) => return all,
            (a, b) => all.extend(a.into_iter().chain(b)),
        }
    }
}

fn failed(to: &Endpoint, error: io::Error) -> CallError {
    CallError::new(CallErrorKind::Connect, format!("connecting to `{to}`")).with_source(error)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE / 3)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT.as_millis() as u32)?;
    Ok(())
}

/// The first of several attempts that succeeds: each starts 250 ms after the one before, or at once when
/// that one failed (the small form of RFC 8305, "Happy Eyeballs"). The error is the last one.
pub(crate) async fn first_of<T, E, F>(attempts: impl Iterator<Item = F>) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = attempts.peekable();
    let mut running = FuturesUnordered::new();
    running.push(waiting.next().expect("invariant: at least one attempt"));
    loop {
        let stagger = pin!(time::sleep(STAGGER));
        tokio::select! {
            biased; // an answer that is there wins over starting another attempt
            Some(result) = running.next() => match result {
                Ok(done) => return Ok(done),
                Err(error) => match waiting.next() {
                    Some(next) => running.push(next),
                    None if running.is_empty() => return Err(error),
                    None => {}
                },
            },
            () = stagger, if waiting.peek().is_some() => running.extend(waiting.next()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    async fn kind_of(text: &str, rules: &AddressRules) -> CallErrorKind {
        let to = endpoint(text);
        match TcpConnect::new().connect(&to, rules).await {
            Ok(_) => panic!("connected to {text}"),
            Err(error) => error.kind(),
        }
    }

    #[tokio::test]
    async fn a_refused_address_is_never_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut rules = AddressRules::default();
        rules.allow_loopback = false;
        for host in ["127.0.0.1", "localhost"] {
            assert_eq!(kind_of(&format!("http://{host}:{port}"), &rules).await, CallErrorKind::Connect);
        }
        let accepted = time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(accepted.is_err(), "a packet went to a refused address");
    }

    #[tokio::test]
    async fn tls_is_a_clear_no() {
        let kind = kind_of("https://127.0.0.1:1", &AddressRules::default()).await;
        assert_eq!(kind, CallErrorKind::Unsupported);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_a_quarter_of_a_second_and_a_refused_one_nothing() {
        let begun = time::Instant::now();
        let started = Cell::new(0);
        let attempt = |wait: Option<u64>, result: Result<u8, u8>| {
            let started = &started;
            async move {
                started.set(started.get() + 1);
                match wait {
                    Some(millis) => time::sleep(Duration::from_millis(millis)).await,
                    None => std::future::pending().await,
                }
                result
            }
        };
        let attempts = [attempt(Some(0), Err(1)), attempt(None, Err(2)), attempt(Some(5), Ok(3))];
        assert_eq!(first_of(attempts.into_iter()).await, Ok(3));
        assert_eq!(begun.elapsed(), STAGGER + Duration::from_millis(5));
        assert_eq!(started.get(), 3);
    }

    #[tokio::test]
    async fn the_kernel_asks_whether_a_silent_peer_lives_and_gives_it_up() {
        use rustix::net::sockopt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = open(listener.local_addr().unwrap()).await.unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEP_ALIVE);
        assert!(sockopt::tcp_keepintvl(&stream).unwrap() <= Duration::from_secs(4));
        #[cfg(target_os = "linux")]
        assert_eq!(u128::from(sockopt::tcp_user_timeout(&stream).unwrap()), USER_TIMEOUT.as_millis());
    }

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1"].iter().map(|a| a.parse().unwrap()).collect();
        let sorted: Vec<_> = interleave(all).iter().map(SocketAddr::is_ipv6).collect();
        assert_eq!(sorted, [true, false, true, false]);
    }
}
