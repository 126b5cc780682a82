//! A process of this binary that does what a line on its input says and answers with a line. It ends with its
//! input, so also when this process is killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
};

use meshwork_core::BoxError;

use super::Order;

pub(super) struct Child {
    process: process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Microseconds per call.
pub(super) struct Figures {
    pub(super) cpu: f64,
    pub(super) elapsed: f64,
}

impl Child {
    pub(super) fn start(role: &str, addr: Option<&str>) -> Result<Self, BoxError> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(addr)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or("a child without output")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Its next line; an error when it has ended.
    pub(super) fn read(&mut self) -> Result<String, BoxError> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a child process has ended; its error stands above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(super) fn round(&mut self, order: Order) -> Result<Figures, BoxError> {
        let input = self.input.as_mut().ok_or("a child without input")?;
        writeln!(input, "{} {} {}", order.concurrency, order.calls, order.bytes)?;
        input.flush()?;
        let line = self.read()?;
        let (cpu, elapsed) = line.split_once(' ').ok_or("a child's answer has two figures")?;
        Ok(Figures { cpu: cpu.parse()?, elapsed: elapsed.parse()? })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        // The end of its input is its end; if not, it must not outlive the measurement.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
