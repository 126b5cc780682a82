//! The listeners of an app, and the record that says where they are.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meshwork_config::ServiceTlsConfig;
use meshwork_core::{Error, Instance, Labels, Scheme};
use meshwork_server::{Inherited, Listener, Services};
use tokio::{net::lookup_host, time::sleep};

use crate::{
    RunError,
    advertise::{self, Offer},
    handover::Handover,
    wiring::Wiring,
};

/// Where HTTP listens in `dev` and `test` when nothing is configured: this machine only, any free port.
const DEVELOPMENT: &str = "127.0.0.1:0";

/// How often a port in use is tried, and the pause between, where its owner may be about to leave it.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// One listener and what it serves.
pub(crate) struct Bound {
    pub(crate) listener: Listener,
    pub(crate) services: Services,
    /// `http` or `grpc`.
    pub(crate) name: &'static str,
    pub(crate) origin: Origin,
}

/// Who has the socket of a listener besides us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody: it was bound here.
    Own,
    /// Who started us, and keeps it for the next one (`LISTEN_FDS`).
    Kept,
    /// The process that served before.
    Handed,
}

/// All listeners of an app.
pub(crate) struct Listening {
    pub(crate) bound: Vec<Bound>,
    pub(crate) handover: Option<Handover>,
}

/// A listener that is to be.
struct Wanted<'a> {
    services: Services,
    addr: &'a str,
    key: &'static str,
}

/// Binds all listeners: none without services, one unless `[service] grpc` is set.
///
/// # Errors
/// A missing or unusable address, or one that cannot be bound.
pub(crate) async fn all(wiring: &Wiring, services: Services) -> Result<Listening, RunError> {
    if !services.has_http() && !services.has_grpc() {
        return Ok(Listening { bound: Vec::new(), handover: None });
    }
    let wanted = wanted(wiring, services)?;
    let mut tries = 0;
    let (listeners, handover) = loop {
        tries += 1;
        match open_all(wiring, &wanted).await {
            // Who has it may be about to close it, too late to be asked and too early to be gone.
            Err(RunError::Bind(error))
                if error.is_in_use() && tries < TRIES && wiring.config.service().handover.is_some() =>
            {
                sleep(PAUSE).await;
            }
            opened => break opened?,
        }
    };
    let bound = wanted.into_iter().zip(listeners).map(|(wanted, (listener, origin))| Bound {
        listener,
        services: wanted.services,
        name: name(wanted.key),
        origin,
    });
    Ok(Listening { bound: bound.collect(), handover })
}

/// Which listeners the services and the configuration ask for.
fn wanted(wiring: &Wiring, services: Services) -> Result<Vec<Wanted<'_>>, RunError> {
    let service = wiring.config.service();
    let (first, second) = match (&service.grpc, services.has_grpc()) {
        (Some(grpc), true) if services.has_http() => {
            let (http, services) = services.into_two();
            let second = Wanted { services, addr: grpc.as_str(), key: "service.grpc" };
            ((http, service.http.as_deref(), "service.http"), Some(second))
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
    Ok(std::iter::once(Wanted { services, addr, key }).chain(second).collect())
}

/// The word of a key's end.
fn name(key: &'static str) -> &'static str {
    key.rsplit('.').next().unwrap_or(key)
}

async fn open_all(
    wiring: &Wiring,
    wanted: &[Wanted<'_>],
) -> Result<(Vec<(Listener, Origin)>, Option<Handover>), RunError> {
    let (mut given, handover) = Given::take(wiring).await?;
    let mut listeners = Vec::new();
    for Wanted { addr, key, .. } in wanted {
        let owner = handover.as_ref().and_then(Handover::predecessor);
        listeners.push(open(wiring, &mut given, owner, key, addr).await?);
    }
    given.refuse_rest()?;
    Ok((listeners, handover))
}

/// The sockets that the process was started with, or else was handed by the one before; each takes the place of a
/// listener of the configuration.
struct Given {
    sockets: Vec<Inherited>,
    origin: Origin,
}

impl Given {
    async fn take(wiring: &Wiring) -> Result<(Self, Option<Handover>), RunError> {
        let taken = Inherited::take(wiring.service.as_str());
        let kept = taken.map_err(|e| Error::invalid("taking over sockets").with_source(e))?;
        let (handover, handed) = Handover::begin(wiring).await?.unzip();
        let given = match kept.is_empty() {
            true => Self { sockets: handed.unwrap_or_default(), origin: Origin::Handed },
            // What the one before has are the same.
            false => Self { sockets: kept, origin: Origin::Kept },
        };
        Ok((given, handover))
    }

    /// The one whose `FileDescriptorName=` is `http` or `grpc`, as the key's end says; else the first that has neither
    /// name.
    fn next(&mut self, key: &'static str) -> Option<Listener> {
        let wanted = name(key);
        let named = |socket: &Inherited| socket.name.as_deref() == Some(wanted);
        let unnamed = |socket: &Inherited| !matches!(socket.name.as_deref(), Some("http" | "grpc"));
        let sockets = &mut self.sockets;
        let place = sockets.iter().position(named).or_else(|| sockets.iter().position(unnamed))?;
        Some(sockets.remove(place).listener)
    }

    /// A socket that nobody serves would keep its callers waiting for ever.
    fn refuse_rest(self) -> Result<(), RunError> {
        match self.sockets.first() {
            None => Ok(()),
            Some(socket) => {
                let (addr, name) = (socket.listener.local_addr(), socket.name.as_deref().unwrap_or_default());
                let text = format!("socket {addr} (`{name}`) was handed over and nothing serves it");
                Err(Error::invalid(text).into())
            }
        }
    }
}

/// A listener that was handed over, or else one of our own; with TLS where `[service.tls]` is. `owner` is the process
/// before, where there is one.
async fn open(
    wiring: &Wiring,
    given: &mut Given,
    owner: Option<u32>,
    key: &'static str,
    text: &str,
) -> Result<(Listener, Origin), RunError> {
    let (listener, origin) = match given.next(key) {
        Some(listener) => {
            let addr = listener.local_addr();
            if let (Origin::Handed, Some(owner)) = (given.origin, owner) {
                let said = resolve(wiring, key, text).await?;
                // Whoever waits in a socket that nobody serves waits for ever.
                if said.ip() != addr.ip() || ![0, addr.port()].contains(&said.port()) {
                    let text = format!(
                        "{said} is not {addr}, which process {owner} hands over\nkeep the address, or stop that process first"
                    );
                    return Err(wiring.config.error(key, text).into());
                }
            }
            tracing::info!(%addr, key, "socket taken over");
            (listener, given.origin)
        }
        None => (Listener::bind(resolve(wiring, key, text).await?).await?, Origin::Own),
    };
    let listener = match &wiring.config.service().tls {
        Some(said) => secure(wiring, listener, said).await?,
        None => listener,
    };
    Ok((listener, origin))
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

/// The address that a key says, by its number or by its name.
async fn resolve(wiring: &Wiring, key: &str, text: &str) -> Result<SocketAddr, RunError> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let reason = match lookup_host(text).await.map(|mut found| found.next()) {
        Ok(Some(addr)) => return Ok(addr),
        Ok(None) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("`{}` cannot be listened on: {reason}", text.escape_debug());
    Err(wiring.config.error(key, text).into())
}

/// What the listeners offer: each a scheme for HTTP and one for gRPC.
pub(crate) fn offers(bound: &[Bound]) -> Vec<Offer> {
    let offer = |bound: &Bound| {
        let secure = bound.listener.is_encrypted();
        let offered = [
            bound.services.has_http().then_some(if secure { Scheme::Https } else { Scheme::Http }),
            bound.services.has_grpc().then_some(if secure { Scheme::Grpcs } else { Scheme::Grpc }),
        ];
        Offer { bound: bound.listener.local_addr(), schemes: offered.into_iter().flatten().collect() }
    };
    bound.iter().map(offer).collect()
}

/// The record of this process: what it is, and an endpoint for each protocol of each listener.
///
/// # Errors
/// [`RunError::Advertise`] when a listener has no address that others could use.
pub(crate) fn record(wiring: &Wiring, offers: &[Offer]) -> Result<Instance, RunError> {
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
    instance.endpoints = advertise::endpoints(&service.advertise, offers, &advertise::candidates())?;
    Ok(instance)
}
