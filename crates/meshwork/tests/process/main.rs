//! The life of an app as its supervisor sees it: exit codes, signals, systemd. This program is the service too, when a
//! variable says so.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod restarts;
mod rig;
mod service;
mod storm;
mod supervised;

use std::{env, process::ExitCode, time::Instant};

fn main() -> ExitCode {
    if let Ok(role) = env::var(service::ROLE) {
        return service::main(&role);
    }
    let wanted = env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let tests = supervised::TESTS.iter().chain(restarts::TESTS);
    for (name, test) in tests.filter(|(name, _)| name.contains(&wanted)) {
        let began = Instant::now();
        test();
        println!("test {name} ... ok ({:.1?})", began.elapsed());
    }
    ExitCode::SUCCESS
}
