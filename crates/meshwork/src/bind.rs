//! The listeners of an app, and the record that says where they are.

use std::{net::SocketAddr, sync::Arc};

use meshwork_config::ServiceTlsConfig;
use meshwork_core::{Endpoint, Error, Instance, Labels, Scheme};
use meshwork_server::{Inherited, Listener, Services};
use tokio::net::lookup_host;

use crate::{RunError, advertise, wiring::Wiring};

/// Where HTTP listens in `dev` and `test` when nothing is configured: this machine only, any free port.
const DEVELOPMENT: &str = "127.0.0.1:0";

/// One listener and what it serves.
pub(crate) struct Bound {
    pub(crate) listener: Listener,
    pub(crate) services: Services,
}

/// Binds all listeners: none without services, one unless `[service] grpc` is set.
///
/// # Errors
/// A missing or unusable address, or one that cannot be bound.
pub(crate) async fn all(wiring: &Wiring, services: Services) -> Result<Vec<Bound>, RunError> {
    if !services.has_http() && !services.has_grpc() {
        return Ok(Vec::new());
    }
    let service = wiring.config.service();
    let (first, second) = match (&service.grpc, services.has_grpc()) {
        (Some(grpc), true) if services.has_http() => {
            let (http, services) = services.into_two();
            ((http, service.http.as_deref(), "service.http"), Some((services, grpc.as_str())))
        }
        (Some(grpc), true) => ((services, Some(grpc.as_str()), "service.grpc"), None),
        _ => ((services, service.http.as_deref(), "service.http"), None),
    };
    let (services, addr, key) = first;
    let addr = match addr {
        Some(addr) => addr,
        None if wiring.config.is_development() => DEVELOPMENT,
        None => {
            let text = "no address to listen on\nwrite one: http = \"0.0.0.0:8080\"";
            return Err(wiring.config.error(key, text).into());
        }
    };
    let mut given = Given::take()?;
    let mut bound = vec![Bound { listener: open(wiring, &mut given, key, addr).await?, services }];
    if let Some((services, addr)) = second {
        bound.push(Bound { listener: open(wiring, &mut given, "service.grpc", addr).await?, services });
    }
    given.refuse_rest()?;
    Ok(bound)
}

/// The sockets that the process was started with; each takes the place of a listener of the configuration.
struct Given(Vec<Inherited>);

impl Given {
    fn take() -> Result<Self, RunError> {
        let taken = Inherited::take();
        Ok(Self(taken.map_err(|e| Error::invalid("taking over sockets").with_source(e))?))
    }

    /// The one whose `FileDescriptorName=` is `http` or `grpc`, as the key's end says; else the first that has neither
    /// name.
    fn next(&mut self, key: &str) -> Option<Listener> {
        let wanted = key.rsplit('.').next().unwrap_or(key);
        let named = |socket: &Inherited| socket.name.as_deref() == Some(wanted);
        let unnamed = |socket: &Inherited| !matches!(socket.name.as_deref(), Some("http" | "grpc"));
        let place = self.0.iter().position(named).or_else(|| self.0.iter().position(unnamed))?;
        Some(self.0.remove(place).listener)
    }

    /// A socket that nobody serves would keep its callers waiting for ever.
    fn refuse_rest(self) -> Result<(), RunError> {
        match self.0.first() {
            None => Ok(()),
            Some(socket) => {
                let (addr, name) = (socket.listener.local_addr(), socket.name.as_deref().unwrap_or_default());
                let text = format!("socket {addr} (`{name}`) was handed over and nothing serves it");
                Err(Error::invalid(text).into())
            }
        }
    }
}

/// A listener that was handed over, or else one of our own; with TLS where `[service.tls]` is.
async fn open(wiring: &Wiring, given: &mut Given, key: &str, text: &str) -> Result<Listener, RunError> {
    let listener = match given.next(key) {
        Some(listener) => {
            tracing::info!(addr = %listener.local_addr(), key, "socket taken over");
            listener
        }
        None => listen(wiring, key, text).await?,
    };
    match &wiring.config.service().tls {
        Some(said) => secure(wiring, listener, said).await,
        None => Ok(listener),
    }
}

#[cfg(feature = "tls")]
async fn secure(_: &Wiring, listener: Listener, said: &ServiceTlsConfig) -> Result<Listener, RunError> {
    use meshwork_config::ClientAuth as Said;
    use meshwork_server::{ClientAuth, ServerTlsConfig, Tls};

    let mut config = ServerTlsConfig::default();
    config.cert_file.clone_from(&said.cert_file);
    config.key_file.clone_from(&said.key_file);
    config.client_ca_file.clone_from(&said.client_ca_file);
    config.client_auth = match said.client_auth {
        Said::Optional => ClientAuth::Optional,
        // `required`, and what a newer configuration may know.
        _ => ClientAuth::Required,
    };
    let tls = Tls::new("`[service.tls]`", config)?;
    tls.check().await?;
    Ok(listener.with_encryption(tls))
}

#[cfg(not(feature = "tls"))]
#[expect(clippy::unused_async, reason = "it reads files where there is TLS")]
async fn secure(wiring: &Wiring, _: Listener, _: &ServiceTlsConfig) -> Result<Listener, RunError> {
    let text = "this build has no TLS\nadd the feature: cargo add meshwork --features tls";
    Err(wiring.config.error("service.tls", text).into())
}

async fn listen(wiring: &Wiring, key: &str, text: &str) -> Result<Listener, RunError> {
    let addr: SocketAddr = match text.parse() {
        Ok(addr) => addr,
        Err(_name) => {
            let found = lookup_host(text).await.map(|mut found| found.next());
            let reason = match found {
                Ok(Some(addr)) => return Ok(Listener::bind(addr).await?),
                Ok(None) => "it has no address".to_owned(),
                Err(error) => error.to_string(),
            };
            let text = format!("`{}` cannot be listened on: {reason}", text.escape_debug());
            return Err(wiring.config.error(key, text).into());
        }
    };
    Ok(Listener::bind(addr).await?)
}

/// The record of this process: what it is, and an endpoint for each protocol of each listener.
///
/// # Errors
/// [`RunError::Advertise`] when a listener has no address that others could use.
pub(crate) fn record(wiring: &Wiring, bound: &[Bound]) -> Result<Instance, RunError> {
    let service = wiring.config.service();
    let text = |text: &Option<String>| -> Arc<str> { text.as_deref().unwrap_or_default().into() };
    let mut instance = Instance::with_id(wiring.service.clone(), wiring.id.clone());
    instance.env = Arc::clone(&wiring.env);
    instance.region = text(&service.region);
    instance.zone = text(&service.zone);
    instance.deployment = text(&service.deployment);
    instance.weight = service.weight;
    instance.labels = service.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Labels>();
    instance.app_version = match &service.version {
        Some(version) => version.as_str().into(),
        None => wiring.build.full_version().into(),
    };
    instance.build_time = wiring.build.time();
    let machine = advertise::candidates();
    for bound in bound {
        let (host, port) = advertise::choose(&service.advertise, bound.listener.local_addr(), &machine)?;
        let secure = bound.listener.is_encrypted();
        let offered = [
            bound.services.has_http().then_some(if secure { Scheme::Https } else { Scheme::Http }),
            bound.services.has_grpc().then_some(if secure { Scheme::Grpcs } else { Scheme::Grpc }),
        ];
        for scheme in offered.into_iter().flatten() {
            instance.endpoints.push(Endpoint::new(scheme, host.clone(), port)?);
        }
    }
    Ok(instance)
}
