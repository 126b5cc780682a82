//! The listeners of an app, and the record that says where they are.

use std::{net::SocketAddr, sync::Arc};

use meshwork_core::{Endpoint, Instance, Labels, Scheme};
use meshwork_server::{Listener, Services};
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
    let mut bound = vec![Bound { listener: listen(wiring, key, addr).await?, services }];
    if let Some((services, addr)) = second {
        bound.push(Bound { listener: listen(wiring, "service.grpc", addr).await?, services });
    }
    Ok(bound)
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
        let offered = [
            bound.services.has_http().then_some(Scheme::Http),
            bound.services.has_grpc().then_some(Scheme::Grpc),
        ];
        for scheme in offered.into_iter().flatten() {
            instance.endpoints.push(Endpoint::new(scheme, host.clone(), port)?);
        }
    }
    Ok(instance)
}
