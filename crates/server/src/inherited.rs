//! The sockets that a process was started with: systemd's socket activation, so that a restart refuses nobody.

use std::{
    env, io,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

use listenfd::ListenFd;

use crate::Listener;

/// What the process was started with and nobody has taken; `None` until somebody asks.
static LEFT: Mutex<Option<Vec<Waiting>>> = Mutex::new(None);

/// A socket that waits for its service.
struct Waiting {
    nth: usize,
    name: Option<String>,
    socket: io::Result<TcpListener>,
}

/// A socket that listened before this process began (`LISTEN_FDS`, see sd_listen_fds(3)). Whoever connected to it
/// meanwhile waits in it.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use meshwork_server::Inherited;
/// for socket in Inherited::take("orders")? {
///     println!("{:?} at {}", socket.name, socket.listener.local_addr());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Inherited {
    /// Its name in the unit, `FileDescriptorName=` (`LISTEN_FDNAMES`): else that of the unit; `None` when it has none.
    pub name: Option<String>,
    /// The socket.
    pub listener: Listener,
}

impl Inherited {
    /// Takes those for `service`, in the order of the unit; none when the process was started without, or when they are
    /// meant for another process. Where a process is several services, each takes the sockets named
    /// `<service>.http` and `<service>.grpc`, which are then called `http` and `grpc`, and the first to ask those of no
    /// service. To be called early: it takes the variables away, so that no child of ours believes them.
    ///
    /// # Errors
    /// When one of them is no TCP socket; its place and name are told.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn take(service: &str) -> io::Result<Vec<Self>> {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        let left = left.get_or_insert_with(all);
        let (taken, others) = std::mem::take(left).into_iter().partition(|socket| socket.is_for(service));
        *left = others;
        taken.into_iter().map(Waiting::into_inherited).collect()
    }
}

/// All that the process was started with.
fn all() -> Vec<Waiting> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(|name| Some(name).filter(|name| !name.is_empty()));
    let mut sockets = ListenFd::from_env();
    (0..sockets.len())
        .map(|nth| {
            let name = names.next().flatten().map(str::to_owned);
            let socket = sockets.take_tcp_listener(nth);
            let socket = socket.and_then(|socket| socket.ok_or_else(|| io::ErrorKind::NotFound.into()));
            Waiting { nth, name, socket }
        })
        .collect()
}

/// The service in a socket's name, and its name there. What systemd calls a socket by itself, `orders.socket`, has none.
fn service_of(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, own)| matches!(*own, "http" | "grpc"))
}

impl Waiting {
    fn is_for(&self, service: &str) -> bool {
        self.name.as_deref().and_then(service_of).is_none_or(|(named, _)| named == service)
    }

    fn into_inherited(self) -> io::Result<Inherited> {
        let Self { nth, name, socket } = self;
        let about = |error: io::Error| {
            let shown = name.as_deref().unwrap_or("without a name").escape_debug();
            io::Error::new(error.kind(), format!("taking socket {nth} of LISTEN_FDS ({shown}): {error}"))
        };
        let listener = Listener::from_std(socket.map_err(about)?).map_err(about)?;
        let name = name.map(|name| service_of(&name).map_or(name.as_str(), |(_, own)| own).to_owned());
        Ok(Inherited { name, listener })
    }
}
