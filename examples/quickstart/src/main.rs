//! Three greeter processes, one caller, and what the caller notices when one of them is killed.

mod args;
mod caller;
mod fleet;
mod greeter;
mod play;
mod registry;
mod score;
mod table;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Role};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match args.role {
        Some(Role::Greeter { zone, version }) => greeter::run(zone, version).await,
        None => match play::run(args).await {
            Ok(clean) if clean => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        },
    }
}
