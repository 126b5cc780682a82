//! Listening sockets handed from a process to its successor on the same machine, over a Unix socket.
//!
//! The successor asks, starts with the sockets it was given, and says when it serves; only then the one before it
//! leaves. A socket is shared meanwhile, so nobody is refused, and a successor that fails has changed nothing.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

use crate::{
    Inherited, Listener,
    rights::{self, Lines, invalid},
};

/// The first word of a talk: what is spoken, and in which version.
const GREETING: &str = "meshwork-handover/1";
/// How long the other side may take to say one word when it has nothing to wait for.
const PATIENCE: Duration = Duration::from_secs(3);
/// The pause before asking again whoever has just taken over.
const AGAIN: Duration = Duration::from_millis(20);

/// The process that serves now, asked for its sockets.
#[derive(Debug)]
pub struct Predecessor {
    lines: Lines,
    pid: u32,
}

/// Sockets for whoever comes next. Dropping it takes the offer back.
#[derive(Debug)]
pub struct Offer {
    listener: UnixListener,
    path: PathBuf,
    /// Where the socket is until the offer stands.
    hidden: Option<PathBuf>,
}

// === impl Predecessor ===

impl Predecessor {
    /// Asks the process that offers its sockets at `path` as `service`. `None` when there is none. Waits while another
    /// successor is being served there.
    ///
    /// # Errors
    /// When it refuses, which it says why, when it runs as another user, or speaks otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ask(path: &Path, service: &str) -> io::Result<Option<(Self, Vec<Inherited>)>> {
        loop {
            let stream = match UnixStream::connect(path).await {
                Ok(stream) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                    _ => return Err(error),
                },
            };
            let lines = Lines::new(stream)?;
            let asked = lines.send(&format!("{GREETING} {} {service}", process::id()), &[]).await;
            // It was taken over, or left, while we asked.
            let gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
            let line = match asked {
                Err(error) if !gone(&error) => return Err(error),
                Err(_gone) => None,
                Ok(()) => lines.next().await?,
            };
            let Some(line) = line else {
                sleep(AGAIN).await;
                continue;
            };
            let mut words = line.text.split(' ');
            let pid = match (words.next(), words.next().map(str::parse)) {
                (Some("sockets"), Some(Ok(pid))) => pid,
                (Some("no"), _) => return Err(io::Error::other(line.text[2..].trim_start().to_owned())),
                _ => return Err(invalid("an answer that is none")),
            };
            let names: Vec<_> = words.collect();
            if names.len() != line.fds.len() {
                return Err(invalid("sockets without their names"));
            }
            let sockets = names.into_iter().zip(line.fds).map(|(name, fd)| {
                let listener = Listener::from_std(TcpListener::from(fd))?;
                Ok(Inherited { name: Some(name.to_owned()), listener })
            });
            return Ok(Some((Self { lines, pid }, sockets.collect::<io::Result<_>>()?)));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it that we serve: it accepts nobody any more and leaves. Nothing else makes it leave. Says whether it
    /// heard; one that is gone need not hear.
    ///
    /// # Errors
    /// When it does not answer.
    ///
    /// # Cancel safety
    /// Once polled it may have heard.
    pub async fn relieve(self) -> io::Result<bool> {
        match self.lines.send("serving", &[]).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error),
        }
        match timeout(PATIENCE, self.lines.next()).await {
            Ok(answer) => Ok(answer?.is_some_and(|line| line.text == "leaving")),
            Err(elapsed) => Err(elapsed.into()),
        }
    }
}

// === impl Offer ===

impl Offer {
    /// Makes the socket that is to be at `path`, where nobody finds it yet; only this user may speak to it.
    ///
    /// # Errors
    /// When the directory is not there or not ours to write, or something that is no socket is at `path`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn prepare(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no socket"));
            }
            _ => {}
        }
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", process::id()));
        let hidden = PathBuf::from(hidden);
        // Of a process that had our id and ended in the middle of its start.
        let _absent = fs::remove_file(&hidden);
        let listener = UnixListener::bind(&hidden)?;
        let offer = Self { listener, path: path.to_owned(), hidden: Some(hidden.clone()) };
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
        Ok(offer)
    }

    /// Puts the socket in its place, instead of whoever was there.
    ///
    /// # Errors
    /// As of a rename.
    pub fn open(&mut self) -> io::Result<()> {
        match self.hidden.take() {
            Some(hidden) => fs::rename(hidden, &self.path),
            None => Ok(()),
        }
    }

    /// Hands `sockets`, by their names, to one successor after the other, until one of them says that it serves, and
    /// answers with its process id. A successor that ends before that has changed nothing.
    ///
    /// # Errors
    /// When nobody can ask any more.
    ///
    /// # Cancel safety
    /// Dropping the future takes the offer back; a successor that has the sockets keeps them.
    pub async fn taken(self, service: &str, sockets: &[(&str, OwnedFd)]) -> io::Result<u32> {
        loop {
            let (stream, _unnamed) = self.listener.accept().await?;
            match serve(stream, service, sockets).await {
                Ok(Some(pid)) => return Ok(pid),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "handing the sockets over failed"),
            }
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            let _gone = fs::remove_file(hidden);
        }
        // At `path` there may be another's by now.
    }
}

/// One successor, to its first word after its start or to its end.
async fn serve(stream: UnixStream, service: &str, sockets: &[(&str, OwnedFd)]) -> io::Result<Option<u32>> {
    let lines = Lines::new(stream)?;
    let Some(line) = timeout(PATIENCE, lines.next()).await?? else { return Ok(None) };
    let mut words = line.text.split(' ');
    let (greeting, pid, theirs) = (words.next(), words.next().map(str::parse), words.next());
    let refusal = match (greeting, pid, theirs) {
        (Some(GREETING), Some(Ok(pid)), Some(theirs)) if theirs == service => {
            let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
            let fds: Vec<_> = sockets.iter().take(rights::MOST).map(|(_, fd)| fd.as_fd()).collect();
            lines.send(&format!("sockets {} {}", process::id(), names.join(" ")), &fds).await?;
            tracing::info!(pid, "sockets handed over, serving until it serves");
            // As long as its start takes; its end ends this too.
            return match lines.next().await? {
                Some(line) if line.text == "serving" => {
                    // Whether it hears or not: it serves.
                    let _gone = lines.send("leaving", &[]).await;
                    Ok(Some(pid))
                }
                _ => {
                    tracing::warn!(pid, "successor ended before it served, staying");
                    Ok(None)
                }
            };
        }
        (Some(GREETING), _, Some(theirs)) => {
            format!("process {} here is `{service}`, not `{}`", process::id(), theirs.escape_debug())
        }
        _ => format!("process {} here speaks {GREETING}", process::id()),
    };
    lines.send(&format!("no {refusal}"), &[]).await?;
    Err(io::Error::other(refusal))
}
