//! Brings the readiness of a serving instance into its record, slowly enough that nobody follows every flicker.

use std::sync::Arc;

use meshwork_config::{OnLoss, ReadinessConfig};
use meshwork_core::{Status, Task};
use meshwork_server::Identity;
use tokio::{
    select,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{announce, handle::Shared, wiring::Wiring};

/// Follows the readiness as long as the task lives; `None` where nobody is to be told.
pub(crate) fn spawn(shared: &Arc<Shared>, wiring: &Arc<Wiring>, identity: Identity) -> Option<Task> {
    let readiness = wiring.config.service().readiness.clone();
    if readiness.on_loss == OnLoss::Keep || wiring.parts.registry.is_none() {
        return None;
    }
    let (shared, wiring) = (Arc::clone(shared), Arc::clone(wiring));
    let end = CancellationToken::new();
    let stop = end.clone();
    let handle = tokio::spawn(async move { follow(&shared, &wiring, &readiness, &identity, &stop).await });
    Some(Task::new("readiness", end, handle))
}

/// Ends only between two steps: what is being withdrawn when the app stops must be gone before the process is.
async fn follow(
    shared: &Arc<Shared>,
    wiring: &Wiring,
    readiness: &ReadinessConfig,
    identity: &Identity,
    stop: &CancellationToken,
) {
    let is_ready = || shared.health.not_ready().is_empty();
    let (mut said, mut since) = (true, Instant::now());
    // Those of what was announced again, as long as it is followed.
    let mut _identities = Vec::new();
    loop {
        while is_ready() == said {
            select! {
                () = shared.readiness_changed() => {}
                () = stop.cancelled() => return,
            }
        }
        let delay = if said { readiness.loss_delay } else { readiness.return_delay };
        select! {
            () = sleep(delay) => {}
            () = stop.cancelled() => return,
            // One break and the time begins anew.
            () = async { while is_ready() != said { shared.readiness_changed().await } } => continue,
        }
        said = !said;
        let parts = shared.health.not_ready().join(", ");
        match (said, readiness.on_loss) {
            (false, on_loss) => {
                since = Instant::now();
                tracing::warn!(parts, ?on_loss, "not ready any more, telling the registry");
                shared.update(|instance| instance.status = Status::Unready);
                if on_loss == OnLoss::Withdraw {
                    announce::withdraw_for_now(shared).await;
                }
            }
            (true, on_loss) => {
                tracing::info!(after = ?since.elapsed(), "ready again, telling the registry");
                shared.update(|instance| instance.status = Status::Up);
                if on_loss == OnLoss::Withdraw {
                    _identities = announce::again(shared, wiring, identity);
                }
            }
        }
    }
}
