//! The endpoints of a backend, which may change while it is in use.

use std::{fmt, sync::Arc};

use meshwork_core::Error;
use tokio::sync::watch;

use crate::{config, config::EtcdConfig};

/// The endpoints of an [`Etcd`](crate::Etcd), to be replaced while it is in use, for instance when the
/// members of a cluster move. Clones, and clones of the `Etcd`, share them.
///
/// ```
/// use meshwork_registry_etcd::Etcd;
///
/// let etcd = Etcd::new(["http://10.0.0.1:2379"]);
/// let endpoints = etcd.endpoints();
/// // Later, with `etcd` long handed to the application:
/// endpoints.replace(["http://10.1.0.1:2379", "http://10.1.0.2:2379"])?;
/// # Ok::<(), meshwork_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Endpoints {
    default_scheme: &'static str,
    now: Arc<watch::Sender<Now>>,
}

#[derive(Clone)]
struct Now {
    texts: Vec<String>,
    /// The same as addresses; empty as long as what was configured cannot work.
    addresses: Vec<Box<str>>,
}

impl Endpoints {
    pub(crate) fn of(config: &EtcdConfig) -> Self {
        let now = Now { texts: config.endpoints.clone(), addresses: config.addresses().unwrap_or_default() };
        Self { default_scheme: config.default_scheme(), now: Arc::new(watch::Sender::new(now)) }
    }

    /// Uses these from now on. The connection moves to one of them unless its own is still among them;
    /// leases and views stay. They must lead to the same cluster: what another one says is not taken.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when one cannot work or there is none; nothing changes then.
    pub fn replace<E: Into<String>>(&self, endpoints: impl IntoIterator<Item = E>) -> Result<(), Error> {
        let texts: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let addresses = config::addresses(&texts, self.default_scheme)?;
        self.now.send_if_modified(|now| {
            let differs = now.addresses != addresses;
            *now = Now { texts, addresses };
            differs
        });
        Ok(())
    }

    /// As they are now.
    pub fn latest(&self) -> Vec<String> {
        self.now.borrow().texts.clone()
    }

    /// The addresses of the moment, each with its scheme.
    pub(crate) fn addresses(&self) -> Vec<Box<str>> {
        self.now.borrow().addresses.clone()
    }

    /// Returns when they are other ones than before.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.now.subscribe())
    }
}

/// Tells when endpoints were replaced.
pub(crate) struct Changes(watch::Receiver<Now>);

impl Changes {
    /// Waits for the next replacement.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoints").field(&self.latest()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_changes_nothing() {
        let config = EtcdConfig { endpoints: vec!["a:1".to_owned()], ..EtcdConfig::default() };
        let endpoints = Endpoints::of(&config);
        for bad in [vec![], vec!["ftp://b:1"], vec!["b:1", ""]] {
            assert!(endpoints.replace(bad.clone()).is_err(), "{bad:?}");
        }
        assert_eq!(endpoints.latest(), ["a:1"]);
        let shared = endpoints.clone();
        endpoints.replace(["b:1", "b:1", "http://b:1"]).unwrap();
        assert_eq!(shared.addresses(), [Box::from("http://b:1")], "each once, and clones share");
    }
}
