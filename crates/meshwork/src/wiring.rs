//! Everything an app is wired to, made once from configuration and code at the first use.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use meshwork_config::Config;
use meshwork_core::{Backend, Build, Error, Instance, InstanceId, Parts, ServiceName};
use meshwork_registry::DualStats;

use crate::{
    RunError, assemble,
    channels::{Changes, Channels, LiveChannels, Own},
    live::{Live, Reloaded},
    notice::{
        board::{Board, Who},
        live::LiveNotices,
        webhook::{Target, Webhook},
    },
};

/// What an author may set before the first use.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) backend: Option<Box<dyn Backend>>,
    pub(crate) config: Vec<String>,
    pub(crate) config_dir: Option<PathBuf>,
    pub(crate) environment: Option<String>,
    pub(crate) serves: Vec<String>,
    pub(crate) clients: Changes,
    pub(crate) build: Build,
}

/// The result: read-only from then on.
pub(crate) struct Wiring {
    pub(crate) config: Config,
    pub(crate) env: Arc<str>,
    pub(crate) service: ServiceName,
    /// The id of its first record.
    pub(crate) id: InstanceId,
    /// Under which names it is announced besides.
    pub(crate) also: Vec<ServiceName>,
    pub(crate) build: Build,
    pub(crate) parts: Parts,
    pub(crate) channels: Arc<Channels>,
    pub(crate) live: Live,
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) duals: BTreeMap<Box<str>, Arc<DualStats>>,
    /// Whether the code gave the registry, so that `[registry] use` is not asked.
    given: bool,
}

/// A [`Setup`] that becomes a [`Wiring`] at the first use.
pub(crate) struct Lazy {
    notices: Arc<Board>,
    setup: Mutex<Setup>,
    wired: OnceLock<Option<Arc<Wiring>>>,
    faults: Mutex<Vec<RunError>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Lazy ===

impl Lazy {
    /// With the board where everything says what is not well.
    pub(crate) fn new(notices: Arc<Board>) -> Self {
        let (setup, wired, faults) = Default::default();
        Self { notices, setup, wired, faults }
    }

    /// Changes the setup; too late after the first use, which is a fault of its own.
    pub(crate) fn set(&self, what: &str, change: impl FnOnce(&mut Setup)) {
        if self.wired.get().is_some() {
            let text = format!("`{what}` must come before the first `channel`, `config` or `serve`");
            self.fault(RunError::Setup(Error::invalid(text)));
            return;
        }
        change(&mut locked(&self.setup));
    }

    /// Notes a mistake that `serve` will report.
    pub(crate) fn fault(&self, fault: RunError) {
        locked(&self.faults).push(fault);
    }

    /// The first mistake noted, if any.
    pub(crate) fn take_fault(&self) -> Option<RunError> {
        let mut faults = locked(&self.faults);
        (!faults.is_empty()).then(|| faults.remove(0))
    }

    /// The wiring, if it was made.
    pub(crate) fn wired(&self) -> Option<&Arc<Wiring>> {
        self.wired.get().and_then(Option::as_ref)
    }

    /// The wiring, made now if it was not; `None` when it cannot be made, which is noted as a fault once.
    pub(crate) fn get(&self) -> Option<&Arc<Wiring>> {
        let made = || match wire(std::mem::take(&mut *locked(&self.setup)), &self.notices) {
            Ok(wiring) => Some(Arc::new(wiring)),
            Err(fault) => {
                self.fault(fault);
                None
            }
        };
        self.wired.get_or_init(made).as_ref()
    }
}

// === impl Wiring ===

impl Wiring {
    /// Reads the configuration again and applies what is live. Blocks on the files.
    ///
    /// # Errors
    /// It has a mistake; nothing was applied.
    pub(crate) fn reload(&self) -> Result<Reloaded, RunError> {
        self.live.reload(|newer| match self.given {
            true => assemble::read(newer),
            false => assemble::used(newer, &self.env).map(drop),
        })
    }
}

fn wire(setup: Setup, notices: &Arc<Board>) -> Result<Wiring, RunError> {
    let mut builder = Config::builder();
    if let Some(environment) = setup.environment {
        builder = builder.environment(environment);
    }
    if let Some(dir) = setup.config_dir {
        builder = builder.dir(dir);
    }
    for toml in setup.config {
        builder = builder.code(toml);
    }
    let config = builder.build()?;
    let env: Arc<str> = config.service().env.as_deref().unwrap_or(config.environment()).into();
    let service = service_name(&config)?;
    let also = also(&service, &setup.serves)?;
    let given = setup.backend.is_some();
    let live = Live::new(config.clone());
    let (parts, duals) = match setup.backend {
        Some(backend) => {
            assemble::read(&config)?;
            (backend.open()?, BTreeMap::new())
        }
        None => {
            let opened = assemble::used(&config, &env)?;
            opened.live.into_iter().for_each(|part| live.follow(part));
            (opened.parts, opened.duals)
        }
    };
    let id = Instance::new(service.clone()).id;
    let who = Who { service: service.as_str().into(), instance: id.as_str().into(), env: Arc::clone(&env) };
    notices.set_who(who);
    notices.set_delay(config.service().notices.delay);
    let webhook = Arc::new(Webhook::new(Target::of(&config)?));
    live.follow(Arc::new(LiveNotices { board: Arc::clone(notices), webhook: Arc::clone(&webhook) }));
    let own = Own { service: service.clone(), id: id.clone() };
    let channels = Arc::new(Channels::new(&config, setup.clients, own, &env, &parts, notices));
    live.follow(Arc::new(LiveChannels(Arc::clone(&channels))));
    let build = setup.build;
    Ok(Wiring { config, env, service, id, also, build, parts, channels, live, webhook, duals, given })
}

/// The further services of the process, each once.
fn also(service: &ServiceName, names: &[String]) -> Result<Vec<ServiceName>, RunError> {
    let mut also = Vec::new();
    for name in names {
        let name = ServiceName::new(name).map_err(|e| Error::invalid(format!("`serves`: {e}")))?;
        if name == *service || also.contains(&name) {
            return Err(Error::invalid(format!("`serves`: `{name}` is announced already")).into());
        }
        also.push(name);
    }
    Ok(also)
}

/// `[service] name`, else the executable's name.
fn service_name(config: &Config) -> Result<ServiceName, RunError> {
    if let Some(name) = &config.service().name {
        return ServiceName::new(name).map_err(|e| config.error("service.name", e.to_string()).into());
    }
    let executable = env::current_exe()
        .ok()
        .and_then(|path| Path::file_stem(&path).map(|stem| stem.to_string_lossy().into_owned()))
        .unwrap_or_default();
    ServiceName::new(&executable).map_err(|e| {
        let text = "naming the service after its executable; set `[service] name`";
        RunError::Setup(Error::invalid(text).with_source(e))
    })
}
