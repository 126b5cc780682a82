//! Taking the listeners over from the process that served before, and offering them to the one after.

use std::{os::fd::OwnedFd, sync::Arc};

use meshwork_core::Task;
use meshwork_server::{Inherited, Listeners, Offer, Predecessor};
use tokio::select;
use tokio_util::sync::CancellationToken;

use crate::{RunError, handle::Shared, wiring::Wiring};

/// The key that asks for it.
const KEY: &str = "service.handover";

/// One start that takes over, if there is somebody, and is to be taken over from.
#[derive(Debug)]
pub(crate) struct Handover {
    offer: Offer,
    predecessor: Option<Predecessor>,
}

/// A listener's place in the configuration, and a descriptor of its socket.
pub(crate) type Socket = (&'static str, OwnedFd);

impl Handover {
    /// The start of one, where `service.handover` is set, and what the predecessor handed over.
    ///
    /// # Errors
    /// A path that cannot be used, or a predecessor that refuses.
    pub(crate) async fn begin(wiring: &Wiring) -> Result<Option<(Self, Vec<Inherited>)>, RunError> {
        let Some(path) = &wiring.config.service().handover else { return Ok(None) };
        let mistake = |error: std::io::Error| {
            let text = format!("sockets cannot be handed over at `{}`: {error}", path.display());
            RunError::from(wiring.config.error(KEY, text))
        };
        let offer = Offer::prepare(path).map_err(mistake)?;
        let asked = Predecessor::ask(path, wiring.service.as_str()).await.map_err(mistake)?;
        let (predecessor, sockets) = asked.unzip();
        Ok(Some((Self { offer, predecessor }, sockets.unwrap_or_default())))
    }

    pub(crate) fn predecessor(&self) -> Option<u32> {
        self.predecessor.as_ref().map(Predecessor::pid)
    }

    /// We serve: the predecessor may go, and `sockets` are offered from now on, as long as the task lives. Whoever takes them
    /// stops the app.
    pub(crate) async fn finish(
        self,
        shared: &Arc<Shared>,
        wiring: &Wiring,
        listeners: Listeners,
        sockets: Vec<Socket>,
    ) -> Task {
        let Self { mut offer, predecessor } = self;
        // First, so that the next one finds us and not the one that leaves.
        if let Err(error) = offer.open() {
            tracing::warn!(%error, "sockets cannot be offered, the next start will find the port taken");
        }
        if let Some(predecessor) = predecessor {
            let pid = predecessor.pid();
            match predecessor.relieve().await {
                Ok(true) => tracing::info!(pid, "took over, the process before leaves"),
                Ok(false) => tracing::info!(pid, "took over, the process before is gone"),
                Err(error) => tracing::warn!(pid, %error, "process before was not heard to leave"),
            }
        }
        let (control, service) = (shared.control.clone(), wiring.service.clone());
        let end = CancellationToken::new();
        let ended = end.clone();
        let offering = async move {
            match offer.taken(service.as_str(), &sockets).await {
                Ok(pid) => {
                    listeners.close();
                    control.stop(&format!("handed over to process {pid}"));
                }
                Err(error) => tracing::warn!(%error, "sockets are not offered any more"),
            }
        };
        let task = tokio::spawn(async move {
            select! {
                () = offering => {}
                () = ended.cancelled() => {}
            }
        });
        Task::new("handover", end, task)
    }
}
