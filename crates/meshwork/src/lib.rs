//! A service-mesh-lite framework: hand an [`App`] your axum router and your tonic services, get what a
//! fleet needs, in the process, without a sidecar.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use meshwork::{App, BoxError};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let app = App::new();
//!     let users = app.channel("users");
//!     let http = Router::new().route("/users", get(move || {
//!         let users = users.clone();
//!         async move { Ok::<_, meshwork::Problem>(users.get("/users").send().await?.text().await?) }
//!     }));
//!     app.http(http).serve().await?;
//!     Ok(())
//! }
//! ```
//!
//! [`App`] tells how it starts and stops, [`Channel`] how to call, [`RunError`] what the exit codes mean.
//! The configuration is described in [`config`].
#![deny(missing_docs)]

mod advertise;
mod announce;
mod app;
mod args;
mod assemble;
mod awake;
mod banner;
mod bell;
mod bind;
mod channels;
mod check;
mod component;
mod contain;
mod context;
mod control;
mod drift;
mod error;
mod exit;
mod flush;
mod follow;
mod handle;
mod handover;
mod hooks;
mod job;
mod live;
mod notice;
mod notify;
mod problem;
mod reflection;
mod report;
mod run;
mod schedule;
mod settings;
mod signal;
mod stall;
mod standing;
mod start;
mod stop;
mod tasks;
mod telemetry;
mod wiring;

pub use app::App;
pub use check::Check;
pub use component::Component;
pub use context::spawn;
pub use error::RunError;
pub use handle::{Handle, Readiness};
pub use hooks::Outcome;
pub use live::Reloaded;
/// How a service is called: policies and limits in code, and what calls come to.
pub use meshwork_client as client;
pub use meshwork_client::{CallError, CallOptions, Channel, OptionsExt};
pub use meshwork_config as config;
pub use meshwork_core::{
    BoxError, Build, Context, Endpoint, Error, ErrorChain, ErrorKind, Instance, InstanceId, Phase, Priority,
    RegistrationState, ServiceName, Staleness, View, Watch, build_info,
};
pub use meshwork_registry::{Dual, DualStats, Fixed, Local, Memory, Split, dual};
#[cfg(feature = "consul")]
pub use meshwork_registry_consul::Consul;
#[cfg(feature = "etcd")]
pub use meshwork_registry_etcd::Etcd;
pub use meshwork_server::{Detached, Draining, InProcess, PeerIdentity, Place, detach, draining};
pub use notice::{Notice, NoticeKind, NoticeState, Notices, webhook::WebhookStats};
pub use problem::Problem;
pub use report::Report;
pub use schedule::{Missed, Schedule};
pub use tasks::{Restart, TaskOptions, TaskState, TaskStatus};
