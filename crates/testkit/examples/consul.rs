//! Starts a real Consul, prints its address, and keeps it until Ctrl-C; what `cargo xtask servers up consul` runs.

use clap::Parser;
use meshwork_testkit::{Error, consul::Consul};
use tokio::signal::unix::{SignalKind, signal};

/// A real Consul for experiments; its data goes with it.
#[derive(Parser)]
struct Args {
    /// How many agents: 1 is server and client, 2 are a server and a client agent
    #[arg(long, default_value_t = 1)]
    members: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let plan = if args.members == 1 { Consul::dev() } else { Consul::with_client_agent() };
    let consul = plan.start().await?;
    println!("{}", consul.url());
    eprintln!("consul runs; Ctrl-C ends it and deletes its data");
    let mut term = signal(SignalKind::terminate()).map_err(waiting)?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map_err(waiting),
        _ = term.recv() => Ok(()),
    }
}

fn waiting(e: std::io::Error) -> Error {
    Error::new("waiting for Ctrl-C").with_source(e)
}
