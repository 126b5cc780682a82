//! The channels of one app, one for each target.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meshwork_client::{Channel, ClientConfig, Connect};
use meshwork_config::Config;
use meshwork_core::{
    Discovery, Error, ErrorKind, InstanceId, Instances, Parts, Publisher, Query, ServiceName, Staleness,
    Task, Watch,
};
use meshwork_registry::{Target, TargetScheme};
use tokio::time::Instant;

use crate::{
    RunError, assemble,
    live::{Apply, LivePart},
    notice::{board::Board, views},
    settings::{self, Callee},
};

/// The most channels kept.
const MOST: usize = 1024;
/// How long a channel that nobody asked for again is kept when room is needed.
const IDLE: Duration = Duration::from_secs(600);

/// What the code says of clients, over what the configuration says.
#[derive(Clone, Default)]
pub(crate) struct Changes(Vec<(Box<str>, Arc<Change>)>);

type Change = dyn Fn(&mut ClientConfig) + Send + Sync;

/// The process itself, as one of the clients.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
}

/// Makes channels and keeps them by target.
pub(crate) struct Channels {
    /// Replaced when what is live in it was changed.
    config: Mutex<Config>,
    changes: Changes,
    own: Own,
    env: Arc<str>,
    discovery: Option<Arc<dyn Discovery>>,
    registry: Box<str>,
    notices: Arc<Board>,
    kept: Mutex<HashMap<Box<str>, Kept>>,
}

struct Kept {
    channel: Channel,
    target: Target,
    asked: Instant,
    /// Says how its view stands.
    _view: Task,
}

// === impl Changes ===

impl Changes {
    /// Adds a change of the client of `service`, by its name or target; of all, for `default`.
    pub(crate) fn add(&mut self, service: &str, change: impl Fn(&mut ClientConfig) + Send + Sync + 'static) {
        self.0.push((service.into(), Arc::new(change)));
    }

    /// Those of all clients first.
    fn apply(&self, to: &mut ClientConfig, service: &str, target: &str) {
        let is_of = |name: &str, names: [&str; 2]| names.contains(&name);
        for names in [["default"; 2], [service, target]] {
            self.0.iter().filter(|(name, _)| is_of(name, names)).for_each(|(_, change)| change(to));
        }
    }
}

// === impl Channels ===

impl Channels {
    pub(crate) fn new(
        config: &Config,
        changes: Changes,
        own: Own,
        env: &Arc<str>,
        parts: &Parts,
        notices: &Arc<Board>,
    ) -> Self {
        Self {
            config: Mutex::new(config.clone()),
            changes,
            own,
            env: Arc::clone(env),
            discovery: parts.discovery.clone(),
            registry: parts.description.clone(),
            notices: Arc::clone(notices),
            kept: Mutex::default(),
        }
    }

    /// The channel to `target`, made if it is not there.
    ///
    /// # Errors
    /// `Invalid` for a malformed target, `Unsupported` for one this build cannot reach or when 1 024
    /// channels are in use.
    pub(crate) fn get(&self, target: &str) -> Result<Channel, Error> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(known) = kept.get_mut(target) {
            known.asked = now;
            return Ok(known.channel.clone());
        }
        if kept.len() >= MOST {
            kept.retain(|_, kept| now.duration_since(kept.asked) < IDLE);
        }
        if kept.len() >= MOST {
            let text = format!("opening `{}`: {MOST} channels are in use", target.escape_debug());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        let kept_as = target;
        let target: Target = target.parse()?;
        let (channel, view) = self.open(kept_as, &target)?;
        kept.insert(kept_as.into(), Kept { channel: channel.clone(), target, asked: now, _view: view });
        Ok(channel)
    }

    /// Every channel kept, for the end.
    pub(crate) fn drain(&self) -> Vec<Channel> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drain().map(|(_, kept)| kept.channel).collect()
    }

    fn open(&self, text: &str, target: &Target) -> Result<(Channel, Task), Error> {
        let discovery = match target.scheme() {
            TargetScheme::Plain => self.discovery()?,
            _ => assemble::target(target, &self.env)?,
        };
        let mut query = target.query();
        if query.env().is_none() {
            query = query.in_env(&*self.env);
        }
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connect = settings::connect(&config, target.service().as_str())?;
        let mut client = self.settings(&config, text, target, connect)?;
        client.local.instance = Some(self.own.id.clone());
        if client.aperture.is_some() || !client.local.zone.is_empty() {
            // Shared by all channels: one subscription to the own service.
            let own = Query::new(self.own.service.clone()).in_env(&*self.env);
            client.local.peers = self.discovery.as_ref().map(|discovery| discovery.watch(&own));
        }
        let service = target.service();
        // Its parameters may hold a token.
        let name = match target.scheme() {
            TargetScheme::Plain => service.as_str().into(),
            scheme => format!("{}/{service}", scheme.as_str()).into(),
        };
        let (watch, view) = views::follow(&self.notices, name, discovery.watch(&query));
        Ok((Channel::new(service.clone(), watch, client), view))
    }

    /// What configuration and code say of a client.
    fn settings(
        &self,
        config: &Config,
        text: &str,
        target: &Target,
        connect: Option<Arc<dyn Connect>>,
    ) -> Result<ClientConfig, Error> {
        let is_direct = target.scheme() == TargetScheme::Direct;
        let service = target.service().as_str();
        let order = is_direct.then(|| target.endpoints());
        let mut client = settings::client(config, Callee { service, order })?;
        if let Some(connect) = connect {
            client.connect = connect;
        }
        self.changes.apply(&mut client, service, text);
        Ok(client)
    }

    fn discovery(&self) -> Result<Arc<dyn Discovery>, Error> {
        self.discovery.clone().ok_or_else(|| {
            let text = format!(
                "registry `{}` finds nobody; set `[registry] use`, or name addresses: `direct:///host:port`",
                self.registry
            );
            Error::new(ErrorKind::Unsupported, text)
        })
    }
}

/// The channels of an app, as a part of it that follows the configuration.
pub(crate) struct LiveChannels(pub(crate) Arc<Channels>);

impl LivePart for LiveChannels {
    fn follows(&self, key: &str) -> bool {
        settings::is_live(key)
    }

    fn judge(&self, newer: &Config) -> Result<Option<Apply>, RunError> {
        let channels = Arc::clone(&self.0);
        let kept = channels.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::with_capacity(kept.len());
        for (text, kept) in kept.iter() {
            changed.push((kept.channel.clone(), channels.settings(newer, text, &kept.target, None)?));
        }
        drop(kept);
        let newer = newer.clone();
        Ok(Some(Box::new(move || {
            *channels.config.lock().unwrap_or_else(PoisonError::into_inner) = newer;
            changed.iter().for_each(|(channel, config)| channel.reconfigure(config));
        })))
    }
}

/// A channel on which every call fails with `cause`.
pub(crate) fn unusable(cause: &Arc<Error>) -> Channel {
    let publisher: Publisher<Instances> = Publisher::new(Arc::new([]));
    publisher.restate(Staleness::Pending { cause: Some(Arc::clone(cause)) });
    let watch: Watch = publisher.watch();
    let name = ServiceName::new("unusable").expect("invariant: a literal name is valid");
    Channel::new(name, watch, meshwork_client::ClientConfig::default())
}
