//! The sections that Meshwork itself reads, as plain data: one type each, every key with its unit, range and default.
//!
//! Each section also judges itself where types cannot: ranges, and keys that depend on each other.

mod balance;
mod client;
mod drain;
mod limit;
mod method;
mod notices;
mod review;
mod server;
mod service;
mod shed;
mod subset;

pub use balance::Balance;
pub use client::{ClientConfig, RetryConfig, Scheme, TlsConfig};
pub use drain::DrainConfig;
pub use limit::LimitConfig;
pub use method::{MethodConfig, MethodRetryConfig};
pub use notices::{NoticesConfig, WebhookUrl};
pub use server::ServerConfig;
pub use service::{
    AdvertiseConfig, ClientAuth, IpFamily, OnLoss, ReadinessConfig, ServiceConfig, ServiceTlsConfig,
};
pub use shed::ShedConfig;
pub use subset::{Fallback, SubsetConfig};

pub(crate) use review::{Review, Reviewed};

use figment::{
    error::Kind,
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;

/// The top-level sections that are ours; every other belongs to the application.
pub(crate) const SECTIONS: [&str; 5] = ["service", "server", "drain", "client", "registry"];

/// The keys of `[registry]` that are no tables.
pub(crate) const REGISTRY_KEYS: [&str; 3] = ["use", "start_timeout", "required"];

/// Every key of the schema as a path, tables included; `*` stands for a name that the user chooses.
pub(crate) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut add = |prefix: &str, fields: &[&str]| keys.extend(fields.iter().map(|f| format!("{prefix}.{f}")));
    add("service", fields_of::<ServiceConfig>());
    add("service.advertise", fields_of::<AdvertiseConfig>());
    add("service.readiness", fields_of::<ReadinessConfig>());
    add("service.notices", fields_of::<NoticesConfig>());
    add("service.tls", fields_of::<ServiceTlsConfig>());
    add("server", fields_of::<ServerConfig>());
    add("server.shed", fields_of::<ShedConfig>());
    add("drain", fields_of::<DrainConfig>());
    add("client.*", fields_of::<ClientConfig>());
    add("client.*.retry", fields_of::<RetryConfig>());
    add("client.*.limit", fields_of::<LimitConfig>());
    add("client.*.subsets.*", fields_of::<SubsetConfig>());
    add("client.*.methods.*", fields_of::<MethodConfig>());
    add("client.*.methods.*.retry", fields_of::<MethodRetryConfig>());
    add("client.*.methods.*.limit", fields_of::<LimitConfig>());
    add("registry", &REGISTRY_KEYS);
    keys
}

/// The fields of a type that refuses unknown ones: it names them when it is given one.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let probe = Value::from(Dict::from([("\0".to_owned(), Value::from(0))]));
    match T::deserialize(&probe).err().map(|error| error.kind) {
        Some(Kind::UnknownField(_, fields)) => fields,
        _ => &[],
    }
}
