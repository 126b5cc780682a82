//! The channels of one app, one for each target.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meshwork_client::Channel;
use meshwork_config::Config;
use meshwork_core::{
    Discovery, Error, ErrorKind, Instances, Parts, Publisher, ServiceName, Staleness, Watch,
};
use meshwork_registry::{Target, TargetScheme};
use tokio::time::Instant;

use crate::{assemble, settings};

/// The most channels kept.
const MOST: usize = 1024;
/// How long a channel that nobody asked for again is kept when room is needed.
const IDLE: Duration = Duration::from_secs(600);

/// Makes channels and keeps them by target.
pub(crate) struct Channels {
    config: Config,
    env: Arc<str>,
    discovery: Option<Arc<dyn Discovery>>,
    registry: Box<str>,
    kept: Mutex<HashMap<Box<str>, Kept>>,
}

struct Kept {
    channel: Channel,
    asked: Instant,
}

// === impl Channels ===

impl Channels {
    pub(crate) fn new(config: &Config, env: &Arc<str>, parts: &Parts) -> Self {
        Self {
            config: config.clone(),
            env: Arc::clone(env),
            discovery: parts.discovery.clone(),
            registry: parts.description.clone(),
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
        let channel = self.open(target)?;
        kept.insert(target.into(), Kept { channel: channel.clone(), asked: now });
        Ok(channel)
    }

    /// Every channel kept, for the end.
    pub(crate) fn drain(&self) -> Vec<Channel> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.drain().map(|(_, kept)| kept.channel).collect()
    }

    fn open(&self, text: &str) -> Result<Channel, Error> {
        let target: Target = text.parse()?;
        let discovery = match target.scheme() {
            TargetScheme::Plain => self.discovery()?,
            _ => assemble::target(&target, &self.env)?,
        };
        let mut query = target.query();
        if query.env().is_none() {
            query = query.in_env(&*self.env);
        }
        let client = settings::client(&self.config, target.service().as_str())?;
        Ok(Channel::new(target.service().clone(), discovery.watch(&query), client))
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

/// A channel on which every call fails with `cause`.
pub(crate) fn unusable(cause: &Arc<Error>) -> Channel {
    let publisher: Publisher<Instances> = Publisher::new(Arc::new([]));
    publisher.restate(Staleness::Pending { cause: Some(Arc::clone(cause)) });
    let watch: Watch = publisher.watch();
    let name = ServiceName::new("unusable").expect("invariant: a literal name is valid");
    Channel::new(name, watch, meshwork_client::ClientConfig::default())
}
