//! The builder that a service author sees.

use std::{
    convert::Infallible, ffi::OsString, future::Future, panic::Location, path::PathBuf, process::ExitCode,
    sync::Arc,
};

use axum::{Router, response::IntoResponse, routing::Route};
use meshwork_client::{Channel, ClientConfig};
use meshwork_config::ConfigError;
use meshwork_core::{Backend, Build, Error, ErrorChain, Watch};
use meshwork_server::{InProcess, Services};
use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Check, Component, Handle, Report, RunError, Schedule, TaskOptions,
    channels::unusable,
    component::Components,
    exit,
    handle::Shared,
    hooks::{Hooks, Outcome},
    job::Jobs,
    notify,
    reflection::Reflection,
    run,
    tasks::Tasks,
    telemetry,
    wiring::Wiring,
};

/// A service: an axum router and tonic services with all that a fleet needs.
///
/// Nothing happens before [`serve`](Self::serve); mistakes made on the way (a bad name, a bad
/// configuration, a registry that cannot be opened) surface there.
///
/// ```no_run
/// use meshwork::{App, BoxError};
/// use axum::{Router, routing::get};
///
/// #[tokio::main]
/// async fn main() -> Result<(), BoxError> {
///     let http = Router::new().route("/hello", get(|| async { "hello" }));
///     App::new().http(http).serve().await?;
///     Ok(())
/// }
/// ```
#[must_use = "an app does nothing before `serve`"]
pub struct App {
    pub(crate) shared: Arc<Shared>,
    pub(crate) services: Services,
    pub(crate) reflection: Reflection,
    pub(crate) hooks: Hooks,
    pub(crate) components: Components,
    pub(crate) jobs: Jobs,
    pub(crate) tasks: Tasks,
    pub(crate) checks: Vec<Check>,
    /// The command line, where it is not that of the process.
    pub(crate) args: Option<Vec<OsString>>,
}

impl App {
    /// An app with nothing in it. Its configuration is `config/default.toml`, then `config/{env}.toml`,
    /// then `MESHWORK__*`, then [`with_config`](Self::with_config); `MESHWORK_ENV` names the environment
    /// (default `dev`).
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared::new()),
            services: Services::new(),
            reflection: Reflection::default(),
            hooks: Hooks::default(),
            components: Components::default(),
            jobs: Jobs::default(),
            tasks: Tasks::default(),
            checks: Vec::new(),
            args: None,
        }
    }

    /// Announces and finds at `backend`, whatever `[registry] use` says.
    ///
    /// Must come before the first [`channel`](Self::channel).
    pub fn with_registry(self, backend: impl Backend) -> Self {
        self.shared.lazy.set("with_registry", |setup| setup.backend = Some(Box::new(backend)));
        self
    }

    /// Configuration in code: TOML that wins over files and environment variables. Again = over
    /// what was given before.
    ///
    /// Must come before the first [`channel`](Self::channel) or [`config`](Self::config).
    pub fn with_config(self, toml: impl AsRef<str>) -> Self {
        self.shared.lazy.set("with_config", |setup| setup.config.push(toml.as_ref().to_owned()));
        self
    }

    /// The directory of the configuration files, instead of `MESHWORK_CONFIG_DIR` or `config`. It need not exist.
    pub fn with_config_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.shared.lazy.set("with_config_dir", |setup| setup.config_dir = Some(dir.into()));
        self
    }

    /// How `service` is called, in code: `change` gets what the configuration says of it, and its word is the last,
    /// also when the configuration changes later. `service` is a name, a target as given to
    /// [`channel`](Self::channel), or `default` for all of them; again = after that.
    ///
    /// For what no file can say: a policy of one's own (`examples/own_policy.rs` of this crate is one that
    /// runs), a way to connect, a choice of instances. `change` may run several times and must not ask for channels itself.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use meshwork::{App, client::{MethodConfig, balance::{LeastRequest, RingHash}}};
    /// let app = App::new().with_client("users", |users| {
    ///     users.policy = Arc::new(LeastRequest::default());
    ///     let mut get = MethodConfig::default();
    ///     get.policy = Some(Arc::new(RingHash::default()));
    ///     users.methods.insert("users.v1.Users/GetUser".into(), get);
    /// });
    /// # drop(app);
    /// ```
    ///
    /// Must come before the first [`channel`](Self::channel) or [`config`](Self::config).
    pub fn with_client(
        self,
        service: impl AsRef<str>,
        change: impl Fn(&mut ClientConfig) + Send + Sync + 'static,
    ) -> Self {
        self.shared.lazy.set("with_client", |setup| setup.clients.add(service.as_ref(), change));
        self
    }

    /// Announces this process as an instance of `service` too, at the same addresses, under an id of its own; again =
    /// one more. All of them are announced together, say the same and share one connection to the registry;
    /// [`Handle::leave`] takes one of them out alone.
    ///
    /// Must come before the first [`channel`](Self::channel) or [`config`](Self::config).
    pub fn serves(self, service: impl Into<String>) -> Self {
        self.shared.lazy.set("serves", |setup| setup.serves.push(service.into()));
        self
    }

    /// The environment, instead of `MESHWORK_ENV`: which `config/{env}.toml` is read and under which
    /// name the instance is announced.
    pub fn with_environment(self, environment: impl Into<String>) -> Self {
        self.shared.lazy.set("with_environment", |setup| setup.environment = Some(environment.into()));
        self
    }

    /// What the record says of the build; see [`build_info!`](crate::build_info).
    pub fn with_build(self, build: Build) -> Self {
        self.shared.lazy.set("with_build", |setup| setup.build = build);
        self
    }

    /// The application's own section of the configuration. A section that is absent reads as an empty one.
    ///
    /// # Errors
    /// What is wrong and where: file, line, column, the nearest valid key.
    pub fn config<T: DeserializeOwned>(&self, section: &str) -> Result<T, RunError> {
        self.wired()?.config.section(section).map_err(|e: ConfigError| e.into())
    }

    /// The application's own section as it is now: when a file of the configuration changes, the watch has the new
    /// value within 1 s. While the files have a mistake it keeps the last good value and says `Stale` with the cause.
    ///
    /// ```
    /// # use meshwork::App;
    /// #[derive(serde::Deserialize)]
    /// #[serde(default, deny_unknown_fields)]
    /// struct Orders {
    ///     limit: u32,
    /// }
    /// # impl Default for Orders { fn default() -> Self { Self { limit: 20 } } }
    /// # let app = App::new().with_environment("test");
    /// let orders = app.watch_config::<Orders>("orders")?;
    /// assert_eq!(orders.latest().value().limit, 20);
    /// # Ok::<(), meshwork::RunError>(())
    /// ```
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub fn watch_config<T>(&self, section: &str) -> Result<Watch<T>, RunError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.wired()?.live.section(section)
    }

    fn wired(&self) -> Result<&Wiring, RunError> {
        let lazy = &self.shared.lazy;
        lazy.get().map(|wiring| &**wiring).ok_or_else(|| {
            let reported = || Error::invalid("configuration could not be read, as reported before");
            lazy.take_fault().unwrap_or_else(|| RunError::Setup(reported()))
        })
    }

    /// A channel to a service, by its name (`users`) or a target (`direct:///a:1,b:2`, `local:///users`,
    /// `etcd://host:2379/users`).
    ///
    /// No I/O: it resolves in the background, and calls wait for the first answer up to their deadline.
    /// The same target gives the same channel.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn channel(&self, target: &str) -> Channel {
        let Some(wiring) = self.shared.lazy.get() else {
            return unusable(&Arc::new(Error::invalid("app could not be set up; `serve` says why")));
        };
        wiring.channels.get(target).unwrap_or_else(|error| {
            let told = Error::new(error.kind(), ErrorChain(&error).to_string());
            self.shared.lazy.fault(RunError::Setup(error));
            unusable(&Arc::new(told))
        })
    }

    /// Adds an axum router; again = merged.
    pub fn http(mut self, router: Router) -> Self {
        self.services = self.services.http(router);
        self
    }

    /// Adds a generated gRPC server, intercepted or not; again = added.
    pub fn grpc<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.services = self.services.grpc_service(service);
        self
    }

    /// Serves the gRPC services to browsers too: gRPC-Web on the same port, HTTP/1.1 or HTTP/2, by the content types
    /// `application/grpc-web` and `application/grpc-web-text`. Handlers, layers, deadlines, limits and the drain are those
    /// of gRPC. Without it such requests are the HTTP router's.
    ///
    /// Pages of other origins are let in by a layer: `CorsLayer` of tower-http, which must allow the headers
    /// `content-type`, `x-grpc-web` and `grpc-timeout` and expose `grpc-status` and `grpc-message`
    /// (`examples/orders/src/bin/browser.rs`). Answers of the server itself, refusals among them, have none of a layer's headers.
    pub fn grpc_web(mut self) -> Self {
        self.services = self.services.grpc_web();
        self
    }

    /// Tells of the gRPC services to whoever asks, as `grpcurl` does: server reflection, `v1` and `v1alpha`, from an encoded
    /// `FileDescriptorSet` with all its imports; again = one more set. Listed is what is served, health included.
    ///
    /// It is served in `dev` and `test`; elsewhere only with `[service] reflection = true`, for it tells everybody who can
    /// reach the port what there is. `false` turns it off everywhere. Layers are around it, and it ends when the drain begins.
    ///
    /// ```
    /// # use meshwork::App;
    /// // In build.rs: `tonic_prost_build::configure().file_descriptor_set_path(out_dir.join("orders.bin"))`.
    /// # const DESCRIPTOR: &[u8] = &[];
    /// // const DESCRIPTOR: &[u8] = tonic::include_file_descriptor_set!("orders");
    /// let app = App::new().reflection(DESCRIPTOR);
    /// ```
    #[track_caller]
    pub fn reflection(mut self, descriptor_set: impl AsRef<[u8]>) -> Self {
        self.reflection.add(descriptor_set.as_ref(), Location::caller());
        self
    }

    /// Puts a layer around all routers, HTTP and gRPC, whenever they were added; again = around that.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<http::Request<axum::body::Body>> + Clone + Send + Sync + 'static,
        <L::Service as Service<http::Request<axum::body::Body>>>::Response: IntoResponse + 'static,
        <L::Service as Service<http::Request<axum::body::Body>>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<http::Request<axum::body::Body>>>::Future: Send + 'static,
    {
        self.services = self.services.layer(layer);
        self
    }

    /// Adds something that is started before the instance is announced and stopped after its last call: a database,
    /// a cache; again = after that. [`Component`] tells the order.
    pub fn component(mut self, component: Component) -> Self {
        self.components.add(component);
        self
    }

    /// Adds a health check, whose name is a part of the readiness; again = one more.
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Adds work that goes on as long as the app serves: begun once it is announced, begun anew after a pause when it fails
    /// or panics. It should end soon after [`Handle::stopping`] (or [`Handle::draining`], if calls under way need it); at the
    /// drain's deadline it is cut and named. [`Handle::tasks`] has its counters.
    ///
    /// ```
    /// # use meshwork::{App, Handle};
    /// let app = App::new().task("outbox", |handle: Handle| async move {
    ///     handle.stopping().cancelled().await;
    /// });
    /// ```
    pub fn task<F, Fut>(self, name: impl AsRef<str>, code: F) -> Self
    where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.task_with(name, TaskOptions::default(), code)
    }

    /// As [`task`](Self::task), kept running as `options` say.
    pub fn task_with<F, Fut>(mut self, name: impl AsRef<str>, options: TaskOptions, code: F) -> Self
    where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.tasks.task(&self.shared.tasks, name.as_ref(), options, code);
        self
    }

    /// Adds work that is begun at the times of a schedule while the app serves. No run begins once the app is asked to
    /// stop; those under way may finish until the drain's deadline.
    #[track_caller]
    pub fn schedule<F, Fut>(mut self, name: impl AsRef<str>, schedule: Schedule, code: F) -> Self
    where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.tasks.schedule(&self.shared.tasks, name.as_ref(), Location::caller(), schedule, code);
        self
    }

    /// Adds a one-shot job: `--job=NAME` on the command line runs it instead of serving, with the same configuration and
    /// the same components, and the process ends with it. Nothing is bound and nothing announced; SIGTERM cancels
    /// [`Handle::stopping`] and leaves it `drain.deadline` to end. An unknown name is an error that lists those there are.
    ///
    /// ```
    /// # use meshwork::App;
    /// # async fn migrate() -> Result<(), std::io::Error> { Ok(()) }
    /// let app = App::new().job("migrate", |_| migrate());
    /// ```
    pub fn job<F, Fut>(mut self, name: impl Into<Box<str>>, code: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.jobs.add(name.into(), code);
        self
    }

    /// The command line without the program's name, instead of that of the process; of it `--job=NAME` and `--help` are
    /// read. Empty = read nothing, for programs that read their own.
    pub fn with_args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Runs before the instance is announced, while the listeners are already open and the components started; again =
    /// after that. An error or a panic ends the start with exit code 5.
    #[track_caller]
    pub fn warm_up<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.hooks.warm_up(Location::caller(), hook);
        self
    }

    /// Runs once the instance is announced; again = after that. An error or a panic stops the app with exit code 5.
    /// It is cut when the app is asked to stop; what runs on is a task.
    #[track_caller]
    pub fn on_serving<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.hooks.on_serving(Location::caller(), hook);
        self
    }

    /// Runs when all calls have finished, in reverse order of declaration and before components stop, each within 5 s and
    /// what is left of `drain.deadline`. Calls that hang are cut early enough to leave hooks and components a quarter of
    /// it, or the sum of their budgets if that is less.
    #[track_caller]
    pub fn on_stop<F, Fut>(mut self, hook: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.hooks.on_stop(Location::caller(), hook);
        self
    }

    /// Runs as the very last step, after calls, hooks, components and channels, also when the start failed or a job ran: for
    /// telemetry that is still to be sent. All of these hooks run at the same time and have `drain.flush` (2 s) together,
    /// which nothing before them can use up and which ends before `drain.deadline`; where the deadline is short, it is a quarter of
    /// what settling leaves.
    ///
    /// Each runs on a thread of its own, where it may block. One that is not done in time is named in the log and in
    /// [`Report::faults`], and the process ends without it; the exit code stays, for no call was lost.
    ///
    /// ```
    /// # use meshwork::{App, BoxError};
    /// # #[derive(Clone)] struct Traces;
    /// # impl Traces { fn shutdown(&self) -> Result<(), BoxError> { Ok(()) } }
    /// # let traces = Traces;
    /// // `shutdown` of OpenTelemetry's providers blocks until the collector has answered.
    /// let app = App::new().on_flush("traces", move |_| async move { traces.shutdown() });
    /// ```
    pub fn on_flush<F, Fut>(mut self, name: impl AsRef<str>, hook: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.hooks.on_flush(name.as_ref(), hook);
        self
    }

    /// A handle for the time after `serve` has taken the app.
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Serves until SIGINT, SIGTERM or [`Handle::stop`], then leaves and drains. A second signal ends the
    /// process at once with exit code 128 + its number.
    ///
    /// A changed configuration file and SIGHUP do what [`Handle::reload`] does. A SIGHUP that comes because the
    /// terminal is gone asks to stop.
    ///
    /// `--job=NAME` runs a [`job`](Self::job) instead, and `--help` prints what there is; the report says so then.
    ///
    /// When the process has no `tracing` subscriber yet, one that writes to standard error is set;
    /// `RUST_LOG` (`info`, `meshwork=debug,h2=warn`) filters it.
    ///
    /// A process may serve several apps, each with its name, ports, registry and handle: `tokio::try_join!(orders.serve(),
    /// users.serve())`. A signal stops all of them, and systemd hears `READY=1` when the last one serves and `STOPPING=1` when
    /// the last one leaves. Of the command line each reads the same.
    ///
    /// # Errors
    /// [`RunError`] when it could not start.
    ///
    /// # Cancel safety
    /// Dropping the future cuts everything at once; the registration ends as well as it can.
    pub fn serve(self) -> impl Future<Output = Result<Report, RunError>> {
        // At the call: apps that begin together are known before the first of them serves.
        let (alive, share) = (exit::Alive::new(), notify::Share::new());
        async move {
            telemetry::init();
            let shared = Arc::clone(&self.shared);
            let outcome = run::run(self, std::future::pending(), run::Signals::Listen(share)).await;
            drop(alive);
            let (code, is_stuck) = match &outcome {
                Ok(report) => (report.code(), report.stuck),
                Err(error) => (error.code(), false),
            };
            if is_stuck || shared.threads.are_left().await {
                exit::soon(code, exit::STUCK);
            }
            outcome
        }
    }

    /// As [`serve`](Self::serve), as the whole of `main`: prints an error and returns the exit code that
    /// [`RunError`] documents. The process ends with it within 500 ms, whatever still blocks a thread, unless another app of
    /// it still runs.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub fn run(self) -> impl Future<Output = ExitCode> {
        let served = self.serve();
        async move {
            let code = match served.await {
                Ok(report) => report.code(),
                Err(error) => {
                    eprintln!("error: {error:?}");
                    error.code()
                }
            };
            exit::soon(code, exit::WHOLE_OF_MAIN);
            ExitCode::from(code)
        }
    }

    /// The app as one tower service, for tests and for calls inside the process: no socket, no registry, no component and no
    /// hook, but layers, context, deadlines, limits, health and identity as at a port. A panic is an answer. It is ready
    /// unless a part of [`Handle::readiness`] is not; callers come from `127.0.0.1:0`.
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use meshwork::App;
    /// use tower::ServiceExt;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), meshwork::BoxError> {
    /// let http = Router::new().route("/hello", get(|| async { "hello" }));
    /// let service = App::new().with_environment("test").http(http).into_service()?;
    /// let answer = service.oneshot(Request::get("/hello").body(Body::empty())?).await?;
    /// assert_eq!(answer.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RunError`] for what is wrong in the configuration or in what the code handed over.
    pub fn into_service(self) -> Result<InProcess, RunError> {
        run::in_process(self)
    }

    /// Serves until `stop` is ready or [`Handle::stop`] is called; for tests: no signals, no subscriber.
    ///
    /// # Errors
    /// [`RunError`] when it could not start.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_until(self, stop: impl Future<Output = ()>) -> Result<Report, RunError> {
        run::run(self, stop, run::Signals::Ignore).await
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}
