//! Ejection: which outcomes take a node out, and what brings it back.
//!
//! Called by the ticket at each verdict. One such state per node: there is no second circuit breaker.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    Node, Now,
    chance::scramble,
    node::{EJECTED, READY, UNHEALTHY},
    peers::Counter,
};

/// A node that stayed in for this long after an ejection begins with the first duration again.
const CALM_NANOS: u64 = 10_000_000_000;

impl Node {
    pub(crate) fn succeeded(&self, now: Now) {
        self.window.success(now);
        let state = self.state.load(Relaxed);
        let failures = u32::from(self.consecutive.load(Relaxed));
        if failures == 0 && state & (UNHEALTHY | EJECTED) == 0 {
            return;
        }
        self.consecutive.store(0, Relaxed);
        if state & EJECTED != 0 {
            self.readmit(now);
            return;
        }
        let is_well = state & UNHEALTHY != 0 && !self.fails_too_often(now);
        let rule = self.peers().ejection().consecutive_failures;
        // As after an ejection: else the one that had a place there would long be preferred to those that failed
        // beside it.
        if is_well || (rule > 0 && failures >= rule) {
            self.latency.forgive(self.peers().median_nanos());
        }
        if is_well {
            self.shift(0, UNHEALTHY);
        }
    }

    /// `probe`: the call was the one that decides about an ejected node.
    pub(crate) fn failed(&self, now: Now, probe: bool) {
        self.window.failure(now);
        if self.consecutive.load(Relaxed) < u16::MAX {
            self.consecutive.fetch_add(1, Relaxed);
        }
        let state = self.state.load(Relaxed);
        if state & EJECTED != 0 {
            if probe {
                self.eject_until(now);
            }
        } else if state & READY != 0 && self.fails_too_often(now) {
            self.shift(UNHEALTHY, 0);
            self.eject(now);
        }
    }

    /// Whether an ejected node may be asked again with one real call.
    pub(crate) fn probe_is_due(&self, now: Now) -> bool {
        now.as_nanos() >= self.ejected_until.load(Relaxed)
    }

    fn fails_too_often(&self, now: Now) -> bool {
        let rules = self.peers().ejection();
        if rules.consecutive_failures > 0
            && u32::from(self.consecutive.load(Relaxed)) >= rules.consecutive_failures
        {
            return true;
        }
        // A node that fails is asked little. What it has to show for itself is compared with what is asked for, not
        // waited for; and what went well before it began to fail must not stand for it until the window's very end.
        let is_bad = |(successes, failures): (u32, u32)| {
            let calls = (successes + failures).max(rules.calls_at_least.max(1));
            ((calls - failures) as f32) < calls as f32 * rules.success_rate
        };
        is_bad(self.window.totals(now)) || is_bad(self.window.later_totals(now))
    }

    fn eject(&self, now: Now) {
        if !self.peers().reserve_ejection() {
            return;
        }
        let calm = now.as_nanos().saturating_sub(self.ejected_until.load(Relaxed)) > CALM_NANOS;
        if calm {
            self.doublings.store(0, Relaxed);
        }
        self.eject_until(now);
        let set = self.state.fetch_update(Relaxed, Relaxed, |state| {
            (state & (READY | EJECTED) == READY).then_some(state | EJECTED)
        });
        match set {
            Ok(_) => {
                self.ejections.fetch_add(1, Relaxed);
            }
            // Another verdict was quicker, or the connection went: the place is not ours.
            Err(_) => self.peers().count(Counter::Ejected, false),
        }
    }

    fn eject_until(&self, now: Now) {
        let rules = self.peers().ejection();
        let doublings = self.doublings.load(Relaxed).min(30);
        self.doublings.store(doublings + 1, Relaxed);
        let full = (rules.first.as_nanos() as f64 * f64::from(1u32 << doublings))
            .min(rules.longest.as_nanos() as f64);
        // ± 20 %, from the node and the moment: no two nodes come back in step, and a simulation repeats.
        let chance = scramble(self.key().hash_bits() ^ now.as_nanos()) as f64 / u64::MAX as f64;
        let length = full * (0.8 + 0.4 * chance);
        self.ejected_until.store(now.as_nanos().saturating_add(length as u64), Relaxed);
    }

    fn readmit(&self, now: Now) {
        self.window.clear();
        self.latency.forgive(self.peers().median_nanos());
        self.ejected_until.store(now.as_nanos(), Relaxed);
        self.shift(0, UNHEALTHY | EJECTED);
    }
}
