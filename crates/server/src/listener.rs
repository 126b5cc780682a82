//! A bound port, before anything is served on it.

use std::{
    error, fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket},
    task, time,
};

use crate::{
    Encrypt,
    owner::{self, Owner},
};

/// Most connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: u32 = 4096;
/// How long the search for the owner of a port in use may take.
const OWNER_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound port. Connections wait in it until it is served.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    addr: SocketAddr,
    encryption: Option<Arc<dyn Encrypt>>,
}

impl Listener {
    /// Binds `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`], which names the process that holds the port, where that can be found out.
    ///
    /// # Cancel safety
    /// Dropping the future frees the port.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        match Self::listen(addr) {
            Ok(listener) => Ok(listener),
            Err(source) => {
                let owner = if source.kind() == io::ErrorKind::AddrInUse {
                    let search = task::spawn_blocking(move || owner::find(addr));
                    time::timeout(OWNER_TIMEOUT, search).await.ok().and_then(Result::ok).flatten()
                } else {
                    None
                };
                Err(BindError { addr, owner, source })
            }
        }
    }

    fn listen(addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Connections of a predecessor in TIME_WAIT must not keep its successor from the port.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, encryption: None })
    }

    /// Takes over a socket that listens already.
    pub(crate) fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr, encryption: None })
    }

    /// Speaks only through `encryption`; a caller who does not is told so and closed.
    #[must_use]
    pub fn with_encryption(mut self, encryption: impl Encrypt) -> Self {
        self.encryption = Some(Arc::new(encryption));
        self
    }

    /// Whether it speaks through an encryption.
    pub fn is_encrypted(&self) -> bool {
        self.encryption.is_some()
    }

    /// The address it is bound to, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// A second descriptor of the same socket, for [`Offer`](crate::Offer). It listens as long as any of them is open.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    pub(crate) fn into_parts(self) -> (TcpListener, Option<Arc<dyn Encrypt>>) {
        (self.listener, self.encryption)
    }
}

/// A port that could not be bound.
#[derive(Debug)]
pub struct BindError {
    addr: SocketAddr,
    owner: Option<Owner>,
    source: io::Error,
}

impl BindError {
    /// The address asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process that holds the port, where known.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// Whether the port is in use.
    pub fn is_in_use(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "binding {}", self.addr)?;
        match &self.owner {
            Some(owner) => write!(f, ", which is held by {owner}"),
            None => Ok(()),
        }
    }
}

impl error::Error for BindError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.source)
    }
}
