//! The live table; plain lines when nobody is watching a terminal.

use std::{
    collections::HashSet,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use crate::{fleet::Greeter, score::Counts};

/// Draws the table over itself on a terminal, and one line a second elsewhere.
pub(crate) struct Table {
    live: bool,
    drawn: usize,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            live: io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
            drawn: 0,
        }
    }

    /// Whether it redraws itself.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Says something that stays.
    pub(crate) fn say(&mut self, at: Duration, text: &str) {
        self.clear();
        println!("{:5.1}s  {text}", at.as_secs_f64());
    }

    /// Shows the present state.
    pub(crate) fn show(&mut self, at: Duration, fleet: &[Greeter], counts: &Counts, listed: &HashSet<u32>) {
        if !self.live {
            let shares: Vec<_> = fleet
                .iter()
                .map(|g| {
                    let calls = counts.rows.get(&g.pid).map_or(0, |row| row.calls);
                    format!("{} {} {calls}", g.name, state(g, counts, listed))
                })
                .collect();
            self.say(
                at,
                &format!("calls {}  failed {}  | {}", counts.calls, counts.failed, shares.join(" | ")),
            );
            return;
        }
        let mut lines = vec![format!(
            "{:<12} {:<8} {:<8} {:>7} {:>9}  {}",
            "instance", "zone", "version", "calls", "p50", "state"
        )];
        for greeter in fleet {
            let row = counts.rows.get(&greeter.pid);
            let p50 =
                row.map_or_else(|| "-".to_owned(), |row| format!("{:.2} ms", row.p50().as_secs_f64() * 1e3));
            lines.push(format!(
                "{:<12} {:<8} {:<8} {:>7} {:>9}  {}",
                greeter.name,
                greeter.zone,
                greeter.version,
                row.map_or(0, |row| row.calls),
                p50,
                state(greeter, counts, listed)
            ));
        }
        lines.push(format!("{:5.1}s  calls {}  failed {}", at.as_secs_f64(), counts.calls, counts.failed));
        self.clear();
        println!("{}", lines.join("\n"));
        self.drawn = lines.len();
        let _ = io::stdout().flush();
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }
}

fn state(greeter: &Greeter, counts: &Counts, listed: &HashSet<u32>) -> &'static str {
    match (greeter.story, listed.contains(&greeter.pid), counts.rows.contains_key(&greeter.pid)) {
        ("killed", true, _) => "killed, still listed",
        ("killed", false, _) => "killed, gone",
        ("stopping", _, _) => "stopping",
        (_, true, true) => "serving",
        (_, true, false) => "announced",
        (_, false, true) => "leaving",
        (story, false, false) => story,
    }
}
