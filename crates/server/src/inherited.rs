//! The sockets that a process was started with: systemd's socket activation, so that a restart refuses nobody.

use std::{env, io};

use listenfd::ListenFd;

use crate::Listener;

/// A socket that listened before this process began (`LISTEN_FDS`, see sd_listen_fds(3)). Whoever connected to it
/// meanwhile waits in it.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use meshwork_server::Inherited;
/// for socket in Inherited::take()? {
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
    /// Takes all of them, in the order of the unit; none when the process was started without, or when they are
    /// meant for another process. To be called once, early: it takes the variables away, so that no child of ours
    /// believes them.
    ///
    /// # Errors
    /// When one of them is no TCP socket; its place and name are told.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn take() -> io::Result<Vec<Self>> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').map(|name| Some(name).filter(|name| !name.is_empty()));
        let mut sockets = ListenFd::from_env();
        (0..sockets.len())
            .map(|nth| {
                let name = names.next().flatten().map(str::to_owned);
                let about = |error: io::Error| {
                    let shown = name.as_deref().unwrap_or("without a name").escape_debug();
                    let text = format!("taking socket {nth} of LISTEN_FDS ({shown}): {error}");
                    io::Error::new(error.kind(), text)
                };
                let socket = sockets.take_tcp_listener(nth).map_err(about)?;
                let socket = socket.ok_or_else(|| about(io::ErrorKind::NotFound.into()))?;
                Ok(Self { listener: Listener::from_std(socket).map_err(about)?, name })
            })
            .collect()
    }
}
