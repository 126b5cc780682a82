//! Hands notices to the webhook of `[service.notices]`: one after the other, each within its time, in the way of nobody.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::uri::PathAndQuery;
use meshwork_client::{Channel, ClientConfig};
use meshwork_config::{Config, WebhookUrl};
use meshwork_core::{
    Endpoint, Error, ErrorChain, Host, Instance, InstanceId, Origin, Scheme, ServiceName, Task, Watch,
};
use tokio::{select, sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Notice, Notices, board::Board};
use crate::{RunError, settings};

/// The pause before a delivery is tried for the second and last time.
const PAUSE: Duration = Duration::from_millis(500);
/// What the target is called where a channel wants a name.
const NAME: &str = "webhook";

/// What became of the notices for the webhook; see [`Handle::webhook`](crate::Handle::webhook).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebhookStats {
    /// How many the webhook took.
    pub delivered: u64,
    /// How many it did not take, though they were tried twice.
    pub failed: u64,
    /// How many were never tried: newer ones took their place in the queue of 16.
    pub dropped: u64,
}

/// The webhook of an app, as it is configured now.
pub(crate) struct Webhook {
    target: watch::Sender<Option<Arc<Target>>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// Where notices are sent. Its path is never shown: it may be a secret.
pub(crate) struct Target {
    endpoint: Endpoint,
    path: PathAndQuery,
    client: ClientConfig,
    timeout: Duration,
}

// === impl Target ===

impl Target {
    /// As `[service.notices]` says; `None` without a webhook.
    ///
    /// # Errors
    /// A URL that cannot be called, with its place and never the URL itself.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, RunError> {
        let said = &config.service().notices;
        let Some(url) = &said.webhook else { return Ok(None) };
        let wrong = |why: String| RunError::from(config.error("service.notices.webhook", why));
        let parsed = parse(url).map_err(|error| wrong(ErrorChain(&error).to_string()))?;
        let (endpoint, path) = parsed;
        let mut client = ClientConfig::default();
        if endpoint.scheme().is_tls() {
            client.connect = settings::secure_connect("`service.notices.webhook`")
                .map_err(|error| wrong(ErrorChain(&error).to_string()))?;
        }
        client.connect_timeout = said.webhook_timeout;
        client.scheme = Some(endpoint.scheme());
        // A connection that was kept between two notices would mostly be gone.
        client.http1_idle = Duration::from_secs(1);
        Ok(Some(Self { endpoint, path, client, timeout: said.webhook_timeout }))
    }

    /// One try.
    async fn post(&self, notice: &Notice) -> Result<(), String> {
        let name = || ServiceName::new(NAME).and_then(|name| Ok((InstanceId::new(NAME)?, name)));
        let (id, name) = name().map_err(|error| error.to_string())?;
        let mut instance = Instance::with_id(name.clone(), id);
        instance.origin = Origin::Foreign;
        instance.endpoints = vec![self.endpoint.clone()];
        let channel =
            Channel::new(name, Watch::fixed(Arc::new([Arc::new(instance)])), self.client.clone()).detached();
        let sent = channel.timeout(self.timeout).post(self.path.as_str()).json(notice).send().await;
        match sent.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(format!("answered {}", status.as_u16())),
            Err(error) => Err(ErrorChain(&error).to_string()),
        }
    }
}

fn parse(url: &WebhookUrl) -> Result<(Endpoint, PathAndQuery), Error> {
    let (scheme, authority, path) = url.parts().map_err(Error::invalid)?;
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse::<u16>().map_err(|_| Error::invalid("its port is none"))?;
            (host, port)
        }
        _ => (authority, if scheme.is_tls() { 443 } else { 80 }),
    };
    let endpoint = Endpoint::new(scheme, host.parse::<Host>()?, port)?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let path = path.parse().map_err(|_| Error::invalid("its path or query cannot be sent"))?;
    Ok((endpoint, path))
}

// === impl Webhook ===

impl Webhook {
    pub(crate) fn new(target: Option<Target>) -> Self {
        Self { target: watch::Sender::new(target.map(Arc::new)), counts: Counts::default() }
    }

    /// From the next notice on.
    pub(crate) fn set(&self, target: Option<Target>) {
        self.target.send_replace(target.map(Arc::new));
    }

    pub(crate) fn stats(&self) -> WebhookStats {
        let Counts { delivered, failed, dropped } = &self.counts;
        WebhookStats {
            delivered: delivered.load(Relaxed),
            failed: failed.load(Relaxed),
            dropped: dropped.load(Relaxed),
        }
    }

    /// Hands on what the board tells from now on. Asked to end, it hands on what waits and then ends.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(self: &Arc<Self>, board: &Board) -> Task {
        let (webhook, mut notices) = (Arc::clone(self), board.listen());
        let end = CancellationToken::new();
        let ended = end.clone();
        let handle = tokio::spawn(async move {
            let mut is_away = false;
            loop {
                let notice = select! {
                    // What waits is told also when it is to end.
                    biased;
                    notice = notices.next() => notice,
                    () = ended.cancelled() => None,
                };
                let Some(notice) = notice else { return };
                webhook.counts.dropped.store(notices.missed(), Relaxed);
                webhook.deliver(&notice, &notices, &mut is_away).await;
            }
        });
        Task::new(NAME, end, handle)
    }

    /// Tries twice. One line of the log when the target begins to fail, and one when it takes notices again.
    async fn deliver(&self, notice: &Notice, notices: &Notices, is_away: &mut bool) {
        let Some(target) = self.target.borrow().clone() else { return };
        let mut tried = target.post(notice).await;
        if tried.is_err() {
            sleep(PAUSE).await;
            tried = target.post(notice).await;
        }
        let endpoint = &target.endpoint;
        match tried {
            Ok(()) => {
                self.counts.delivered.fetch_add(1, Relaxed);
                if std::mem::take(is_away) {
                    let WebhookStats { failed, dropped, .. } = self.stats();
                    tracing::info!(%endpoint, failed, dropped, "webhook takes notices again");
                }
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Relaxed);
                let waiting = notices.waiting();
                match std::mem::replace(is_away, true) {
                    true => tracing::debug!(%endpoint, error, waiting, "webhook does not take a notice"),
                    false => tracing::warn!(%endpoint, error, waiting, "webhook does not take notices"),
                }
            }
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<(String, String), String> {
        let toml = format!("[service.notices]\nwebhook = {url:?}\n");
        let config = Config::builder().environment("test").without_files().env_vars::<&str, &str>([]);
        let config = config.code(toml).build().map_err(|error| error.to_string())?;
        let target = Target::of(&config).map_err(|error| format!("{error:?}"))?.unwrap();
        assert!(!format!("{target:?}").contains("s3cr3t"));
        Ok((target.endpoint.to_string(), target.path.to_string()))
    }

    #[test]
    fn a_url_becomes_an_endpoint_and_a_path() {
        let is = |url: &str, endpoint: &str, path: &str| {
            assert_eq!(target(url), Ok((endpoint.to_owned(), path.to_owned())));
        };
        is("http://hooks.internal", "http://hooks.internal:80", "/");
        is("http://10.0.0.1:81/a/s3cr3t?b=c", "http://10.0.0.1:81", "/a/s3cr3t?b=c");
        is("http://[::1]?k=s3cr3t", "http://[::1]:80", "/?k=s3cr3t");
        is("http://[::1]:8/", "http://[::1]:8", "/");
        #[cfg(feature = "tls")]
        is("https://hooks.internal/s3cr3t", "https://hooks.internal:443", "/s3cr3t");
    }

    #[test]
    fn what_cannot_be_called_is_named_without_its_secret() {
        for url in ["http://h:99999/s3cr3t", "http://1.2.3/s3cr3t", "http://h:0/s3cr3t", "http://h:x/s3cr3t"]
        {
            let said = target(url).unwrap_err();
            assert!(said.contains("service.notices.webhook") && !said.contains("s3cr3t"), "{said}");
        }
        #[cfg(not(feature = "tls"))]
        assert!(target("https://h/").unwrap_err().contains("--features tls"));
    }
}
