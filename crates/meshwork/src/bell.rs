//! Wakes one thread, or has it end.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// What a thread waits for that has an owner. Rung again before it is heard is rung once.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<Option<Rung>>,
    changed: Condvar,
}

/// Why the wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Somebody rang.
    Called,
    /// The owner wants the thread to end; it stays so.
    End,
}

impl Bell {
    /// Wakes whoever waits, or the next who will.
    pub(crate) fn call(&self) {
        self.ring(Rung::Called);
    }

    /// Ends every wait from now on.
    pub(crate) fn end(&self) {
        self.ring(Rung::End);
    }

    fn ring(&self, rung: Rung) {
        let mut state = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != Some(Rung::End) {
            *state = Some(rung);
        }
        self.changed.notify_all();
    }

    /// Waits until it rings, at most `within`; `None` when it did not.
    pub(crate) fn wait(&self, within: Duration) -> Option<Rung> {
        let state = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, within, |rung| rung.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match *state {
            Some(Rung::Called) => state.take(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_heard_once_and_an_end_for_ever() {
        let bell = Bell::default();
        bell.call();
        bell.call();
        assert_eq!(bell.wait(Duration::MAX), Some(Rung::Called));
        assert_eq!(bell.wait(Duration::from_millis(1)), None);
        bell.end();
        bell.call();
        assert_eq!([bell.wait(Duration::MAX), bell.wait(Duration::MAX)], [Some(Rung::End); 2]);
    }
}
