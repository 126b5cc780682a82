//! `cargo xtask …`: the one door to servers, tests, scenarios and benches of this workspace.
//!
//! It runs cargo and the binaries that cargo has built, counts what they report, and never does the work itself.
//! Nothing but clap is needed to build it, so that a fresh clone answers `cargo xtask --help` in seconds.

mod artifact;
mod build;
mod cache;
mod consul;
mod etcd;
mod golang;
mod h2spec;
mod parts;
mod protoc;
mod pypi;
mod run;
mod table;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{parts::Length, table::Table};

/// Tasks of the Meshwork workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold: servers, lint, all tests, examples, short scenarios; a table and a count at the end
    Test,
    /// Provide what tests need from outside (protoc, etcd, consul, h2spec), cached outside the clone; or start a server
    Servers {
        #[command(subcommand)]
        what: Option<Servers>,
    },
    /// Formatting, clippy and docs, each with warnings denied
    Lint,
    /// Unit tests and doctests
    Unit,
    /// Integration tests, on real servers
    Integration,
    /// One acceptance scenario, judged strictly; without a number: which there are
    Scenario {
        /// Its number
        n: Option<u32>,
        /// The full length instead of the ordinary one
        #[arg(long, conflicts_with = "short", requires = "n")]
        long: bool,
        /// The short form that `test` runs: seconds, times judged with slack
        #[arg(long, requires = "n")]
        short: bool,
    },
    /// h2spec against our port and against a bare hyper server: what fails at both, and what only at ours
    H2spec,
    /// One performance experiment, built for release
    Bench {
        /// Its name, for instance P2; A1 counts the allocations of a call
        name: String,
        /// Only show that it runs
        #[arg(long)]
        quick: bool,
    },
}

#[derive(Subcommand)]
enum Servers {
    /// Provide protoc only
    Protoc,
    /// Provide etcd and etcdctl only
    Etcd,
    /// Provide consul only
    Consul,
    /// Provide h2spec only
    H2spec,
    /// Start a server, print its address, and keep it until Ctrl-C
    Up {
        /// Which one
        server: Server,
        /// How many members its cluster has; of Consul, 2 are a server and a client agent
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
        members: u8,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Server {
    Etcd,
    Consul,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut table = Table::new();
    match cli.task {
        Task::Test => parts::everything(&mut table),
        Task::Servers { what: None } => {
            parts::protoc(&mut table);
            parts::etcd(&mut table);
            parts::consul(&mut table);
            parts::h2spec(&mut table);
        }
        Task::Servers { what: Some(Servers::Protoc) } => parts::protoc(&mut table),
        Task::Servers { what: Some(Servers::Etcd) } => {
            parts::etcd(&mut table);
        }
        Task::Servers { what: Some(Servers::Consul) } => parts::consul(&mut table),
        Task::Servers { what: Some(Servers::H2spec) } => drop(parts::h2spec(&mut table)),
        Task::Servers { what: Some(Servers::Up { server: Server::Etcd, members }) } => {
            return parts::up_etcd(members);
        }
        Task::Servers { what: Some(Servers::Up { server: Server::Consul, members }) } => {
            return parts::up_consul(members);
        }
        Task::Lint => parts::lint(&mut table),
        Task::Unit => parts::unit_alone(&mut table),
        Task::Integration => parts::integration_alone(&mut table),
        Task::Scenario { n: None, .. } => return parts::list_scenarios(),
        Task::Scenario { n: Some(n), long, short } => {
            let length = if long {
                Length::Long
            } else if short {
                Length::Short
            } else {
                Length::Ordinary
            };
            return parts::scenario_alone(n, length);
        }
        Task::H2spec => return parts::h2spec_alone(),
        Task::Bench { name, quick } => return parts::bench(&name, quick),
    }
    table.print();
    table.exit_code()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
