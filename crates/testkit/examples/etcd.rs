//! Starts a real etcd, prints its address, and keeps it until Ctrl-C; what `cargo xtask servers up etcd` runs.

use clap::Parser;
use meshwork_testkit::{Error, etcd::Etcd};
use tokio::signal::unix::{SignalKind, signal};

/// A real etcd for experiments; its data goes with it.
#[derive(Parser)]
struct Args {
    /// How many members its cluster has
    #[arg(long, default_value_t = 1)]
    members: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let plan = if args.members == 1 { Etcd::single() } else { Etcd::cluster(args.members) };
    let etcd = plan.start().await?;
    println!("{}", etcd.endpoints().join(","));
    eprintln!("etcd runs; Ctrl-C ends it and deletes its data");
    let mut term = signal(SignalKind::terminate()).map_err(waiting)?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(waiting),
        _ = term.recv() => Ok(()),
    }
}

fn waiting(e: std::io::Error) -> Error {
    Error::new("waiting for Ctrl-C").with_source(e)
}
