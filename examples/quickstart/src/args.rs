//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand};

/// Starts greeter processes and calls them while one is killed and another restarted.
#[derive(Parser, Debug)]
#[command(about, long_about = None)]
pub(crate) struct Args {
    /// How long to play, `8s` to `600s`.
    #[arg(long = "for", value_name = "SECONDS", default_value = "15s", value_parser = length)]
    pub(crate) length: Duration,
    /// How many greeter processes (2 to 20).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=20))]
    pub(crate) instances: u16,
    /// Calls per second (1 to 5000).
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) rate: u32,
    /// The registry: `local` (a directory, no server), `etcd=http://host:2379` or `consul=http://host:8500`.
    #[arg(long, default_value = "local", value_name = "KIND[=URL]", value_parser = registry)]
    pub(crate) registry: Registry,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// What a process is; the caller starts the others.
#[derive(Subcommand, Debug)]
pub(crate) enum Role {
    /// One greeter, as the quickstart starts it; ends when its standard input does.
    #[command(hide = true)]
    Greeter {
        #[arg(long)]
        zone: String,
        #[arg(long)]
        version: String,
    },
}

/// Where the greeters announce themselves.
#[derive(Clone, Debug)]
pub(crate) enum Registry {
    Local,
    Etcd(String),
    Consul(String),
}

fn length(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "write it like `15s`")?;
    match seconds {
        8..=600 => Ok(Duration::from_secs(seconds)),
        _ => Err("from 8s to 600s are possible".to_owned()),
    }
}

fn registry(text: &str) -> Result<Registry, String> {
    let lacking = |kind: &str| {
        Err(format!(
            "this build has no {kind}; add the feature: \
             cargo run -p quickstart --features {kind} -- --registry {kind}=http://…"
        ))
    };
    match text.split_once('=') {
        None if text == "local" => Ok(Registry::Local),
        Some(("etcd", _)) if !cfg!(feature = "etcd") => lacking("etcd"),
        Some(("consul", _)) if !cfg!(feature = "consul") => lacking("consul"),
        Some((_, url)) if !url.starts_with("http://") => Err(format!("`{url}` does not begin with http://")),
        Some(("etcd", url)) => Ok(Registry::Etcd(url.to_owned())),
        Some(("consul", url)) => Ok(Registry::Consul(url.to_owned())),
        _ => Err("known are `local`, `etcd=http://host:2379` and `consul=http://host:8500`".to_owned()),
    }
}
