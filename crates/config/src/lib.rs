//! Layered configuration for Meshwork services, with errors that read like a compiler's.
//!
//! [`Config`] reads `config/default.toml`, then `config/{env}.toml`, then environment variables `MESHWORK__SECTION__KEY`, then TOML given in code; later layers win, tables are merged, lists are replaced.
//! It is used by the facade and by command-line tools at start; it knows no other crate of the workspace, opens no connection and never touches the process environment when [`ConfigBuilder::env_vars`] is given.
//!
//! ```
//! use meshwork_config::Config;
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Orders {
//!     max_items: u32,
//! }
//!
//! let config = Config::builder()
//!     .environment("test")
//!     .without_files()
//!     .env_vars([("MESHWORK__CLIENT__USERS__TIMEOUT", "300ms")])
//!     .code("[orders]\nmax_items = 20")
//!     .build()?;
//!
//! assert_eq!(config.client("users").timeout, Duration::from_millis(300));
//! assert_eq!(config.origin("client.users.timeout").to_string(), "MESHWORK__CLIENT__USERS__TIMEOUT");
//! assert_eq!(config.section::<Orders>("orders")?.max_items, 20);
//! # Ok::<(), meshwork_config::ConfigError>(())
//! ```
//!
//! # Environment variables
//!
//! - Two underscores nest, one belongs to the key: `MESHWORK__REGISTRY__START_TIMEOUT` is `[registry] start_timeout`. Keys are lowercased; a name in a file that is no shell name (`[client.user-service]`, `[registry.by-team]`) is met by its underscored form.
//! - A value is taken as it stands: no quotes are needed or removed, no `$` is expanded. `true`, `false` and numbers are read as such where the key wants them, and as text where it wants text. Lists and tables are written in TOML: `["a", "b"]`, `{ "users.v1.Users/GetUser" = { timeout = "300ms" } }`. An empty value counts as not set.
//! - `MESHWORK_ENV` names the environment (default `dev`), `MESHWORK_CONFIG_DIR` the directory of the files (default `config`). Every other name with a single underscore is ignored, see [`Config::ignored_variables`]: Kubernetes injects `MESHWORK_PORT` and its like for a Service named `meshwork`.

#![deny(missing_docs)]

mod builder;
mod config;
mod document;
pub mod duration;
mod env;
mod error;
mod excerpt;
mod extract;
mod key;
mod layers;
mod nearest;
mod registry;
mod renamed;
mod schema;
mod stamps;
mod table;

pub use builder::ConfigBuilder;
pub use config::Config;
pub use env::IgnoredVariable;
pub use error::{ConfigError, Mistake, Origin};
pub use registry::RegistryConfig;
pub use schema::{
    AdvertiseConfig, Balance, ClientAuth, ClientConfig, DrainConfig, Fallback, IpFamily, LimitConfig,
    MethodConfig, MethodRetryConfig, NoticesConfig, OnLoss, ReadinessConfig, RetryConfig, Scheme,
    ServerConfig, ServiceConfig, ServiceTlsConfig, ShedConfig, SubsetConfig, TlsConfig, WebhookUrl,
};
pub use stamps::Stamps;
pub use table::RegistryTable;
