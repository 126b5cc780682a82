//! Successes and failures of the last ten seconds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::Now;

const BUCKETS: usize = 4;
const BUCKET_NANOS: u64 = 2_500_000_000;

const FIELD_BITS: u32 = 20;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;
const EPOCH_MASK: u64 = (1 << 24) - 1;

/// Four buckets of 2.5 s; each one word: the bucket's number (24 bits), failures and successes (20 each,
/// saturating), so that counting is one compare-and-swap and an old bucket is recognised by its number.
#[derive(Default)]
pub(crate) struct Window([AtomicU64; BUCKETS]);

impl Window {
    pub(crate) fn success(&self, now: Now) {
        self.count(now, 0);
    }

    pub(crate) fn failure(&self, now: Now) {
        self.count(now, FIELD_BITS);
    }

    /// Successes and failures of the window that ends at `now`.
    pub(crate) fn totals(&self, now: Now) -> (u32, u32) {
        self.newest(now, BUCKETS)
    }

    /// The same without its oldest bucket.
    pub(crate) fn later_totals(&self, now: Now) -> (u32, u32) {
        self.newest(now, BUCKETS - 1)
    }

    fn newest(&self, now: Now, buckets: usize) -> (u32, u32) {
        let epoch = epoch(now);
        let mut totals = (0, 0);
        for bucket in &self.0 {
            let word = bucket.load(Relaxed);
            if word != 0 && epoch.wrapping_sub(word >> (2 * FIELD_BITS)) & EPOCH_MASK < buckets as u64 {
                totals.0 += (word & FIELD_MASK) as u32;
                totals.1 += ((word >> FIELD_BITS) & FIELD_MASK) as u32;
            }
        }
        totals
    }

    pub(crate) fn clear(&self) {
        for bucket in &self.0 {
            bucket.store(0, Relaxed);
        }
    }

    fn count(&self, now: Now, shift: u32) {
        let epoch = epoch(now);
        let bucket = &self.0[(now.as_nanos() / BUCKET_NANOS) as usize % BUCKETS];
        let mut word = bucket.load(Relaxed);
        loop {
            let base = if word >> (2 * FIELD_BITS) == epoch { word } else { epoch << (2 * FIELD_BITS) };
            if (base >> shift) & FIELD_MASK == FIELD_MASK {
                return;
            }
            match bucket.compare_exchange_weak(word, base + (1 << shift), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(newer) => word = newer,
            }
        }
    }
}

fn epoch(now: Now) -> u64 {
    (now.as_nanos() / BUCKET_NANOS) & EPOCH_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn forgets_what_is_older_than_ten_seconds() {
        let window = Window::default();
        for second in 0..20 {
            window.success(at(second));
            window.failure(at(second));
        }
        assert_eq!(window.totals(at(19)), (10, 10));
        assert_eq!(window.totals(at(25)), (2, 2));
        assert_eq!(window.totals(at(60)), (0, 0));
    }

    #[test]
    fn the_later_part_is_without_the_oldest_bucket() {
        let window = Window::default();
        for second in [0, 3, 6, 9] {
            window.success(at(second));
        }
        assert_eq!((window.totals(at(9)), window.later_totals(at(9))), ((4, 0), (3, 0)));
    }

    #[test]
    fn a_bucket_fills_up_without_spilling_into_its_neighbour() {
        let window = Window::default();
        for _ in 0..FIELD_MASK + 10 {
            window.success(at(1));
        }
        assert_eq!(window.totals(at(1)), (FIELD_MASK as u32, 0));
    }
}
