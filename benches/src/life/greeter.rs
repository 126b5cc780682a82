//! One greeter process.

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use meshwork_core::BoxError;

use super::usage;

/// A greeter that serves; dropping it kills it.
pub(super) struct Greeter {
    process: Child,
    /// From before it was spawned until its line was read, by our clock.
    pub(super) took: Duration,
    /// What it had used then.
    pub(super) cpu: Duration,
}

impl Greeter {
    /// Starts one with the configuration in `dir`, and waits until it says that it serves.
    pub(super) fn start(dir: &Path) -> Result<Self, BoxError> {
        let began = Instant::now();
        let process = Command::new(env::current_exe()?.with_file_name("greeter"))
            .env("MESHWORK_CONFIG_DIR", dir)
            .env("MESHWORK_ENV", "dev")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting the greeter beside this binary: {e}"))?;
        let mut greeter = Self { process, took: Duration::ZERO, cpu: Duration::ZERO };
        let said = greeter.process.stderr.take().ok_or("a greeter without stderr")?;
        let mut lines = BufReader::new(said).lines();
        let mut told = Vec::new();
        for line in &mut lines {
            let line = line?;
            if line.contains(" serving service=greeter ") {
                greeter.took = began.elapsed();
                greeter.cpu = usage::cpu(greeter.pid())?;
                // What else it says must not fill the pipe; ends with the process.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(greeter);
            }
            told.push(line);
        }
        Err(format!("a greeter ended before it served:\n{}", told.join("\n")).into())
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
