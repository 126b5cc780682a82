//! A process of this binary that does what a line on its input says and answers with a line. It ends with its
//! input, so also when this process is killed.

use std::{
    io::{BufRead, BufReader, Write},
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
};

use meshwork_core::BoxError;

use super::{Figures, Order, Slice};

pub(crate) struct Child {
    process: process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this binary with these arguments.
    pub(crate) fn start(args: &[&str]) -> Result<Self, BoxError> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or("a child without output")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Its next line; an error when it has ended.
    pub(crate) fn read(&mut self) -> Result<String, BoxError> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a child process has ended; its error stands above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Gives it a line and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, BoxError> {
        let input = self.input.as_mut().ok_or("a child without input")?;
        writeln!(input, "{line}")?;
        input.flush()?;
        self.read()
    }
}

impl Slice for Child {
    fn slice(&mut self, order: Order) -> Result<Figures, BoxError> {
        let line = self.ask(&format!("{} {} {}", order.concurrency, order.calls, order.bytes))?;
        let words: Vec<&str> = line.split(' ').collect();
        let [cpu, elapsed, connections] = words[..] else {
            return Err(format!("an answer has three figures, not `{line}`").into());
        };
        Ok(Figures { cpu: cpu.parse()?, elapsed: elapsed.parse()?, connections: connections.parse()? })
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
