//! A counter that starts at a place of chance.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Hands out one number after the other, from where chance sets it at the first call: were each picker to start
/// at 0, then many clients, or one whose snapshots change often, would send too much to the first members.
#[derive(Default)]
pub(crate) struct Turns(AtomicU64);

impl Turns {
    /// To be called once per pick, before [`next`](Self::next).
    pub(crate) fn begin(&self, random: &mut dyn FnMut() -> u64) {
        if self.0.load(Relaxed) == 0 {
            // Far from the end, and not 0.
            let start = (random() >> 8) | 1;
            let _ = self.0.compare_exchange(0, start, Relaxed, Relaxed);
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}
