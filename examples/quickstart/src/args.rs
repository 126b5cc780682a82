//! The command line.

use std::{str::FromStr, time::Duration};

use clap::{Parser, Subcommand};

use crate::registry::Registry;

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
    /// The registry: `local` (a directory, no server), `etcd=http://host:2379`, `consul=http://host:8500`, or two of
    /// them at once: `dual=etcd=http://host:2379,consul=http://host:8500`, the primary first.
    #[arg(long, default_value = "local", value_name = "KIND[=URL]", value_parser = Registry::from_str)]
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

fn length(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.strip_suffix('s').unwrap_or(text).parse().map_err(|_| "write it like `15s`")?;
    match seconds {
        8..=600 => Ok(Duration::from_secs(seconds)),
        _ => Err("from 8s to 600s are possible".to_owned()),
    }
}
