//! A disaster that several behaviours go through together: all wait until each is ready for it, then it happens once.

use std::sync::Arc;

use tokio::sync::watch;

use super::flaw::Flaw;

/// Who is there, who waits, and how many steps were done.
#[derive(Clone, Debug, Default)]
struct State {
    seats: usize,
    waiting: usize,
    steps: usize,
    /// Why the last step was not done.
    undone: Option<Flaw>,
}

/// The steps of one disaster.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    state: Arc<watch::Sender<State>>,
}

/// One behaviour's place; dropped, nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Seat {
    state: Arc<watch::Sender<State>>,
    steps: usize,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    pub(super) fn seat(&self) -> Seat {
        self.state.send_modify(|state| state.seats += 1);
        Seat { state: Arc::clone(&self.state), steps: self.state.borrow().steps }
    }

    /// Waits until everybody who is left waits for the next step; says whether anybody does.
    pub(super) async fn gathered(&self) -> bool {
        let mut seen = self.state.subscribe();
        let gathered = seen.wait_for(|state| state.waiting == state.seats).await;
        gathered.is_ok_and(|state| state.seats > 0)
    }

    /// The step was done, or not for this reason; everybody goes on.
    pub(super) fn stepped(&self, undone: Option<Flaw>) {
        self.state.send_modify(|state| {
            state.steps += 1;
            state.waiting = 0;
            state.undone = undone;
        });
    }
}

impl Seat {
    /// Is ready for the next step, and waits until it was done.
    pub(super) async fn step(&mut self) -> Result<(), Flaw> {
        self.steps += 1;
        let wanted = self.steps;
        let mut seen = self.state.subscribe();
        self.state.send_modify(|state| state.waiting += 1);
        match seen.wait_for(|state| state.steps >= wanted).await {
            Ok(state) => state.undone.clone().map_or(Ok(()), Err),
            // This seat holds the sender.
            Err(_closed) => Ok(()),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // One that is cut while it waits has been counted as waiting for a step that was not done.
        self.state.send_modify(|state| {
            state.seats -= 1;
            if self.steps > state.steps {
                state.waiting -= 1;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everybody_goes_through_each_step_together_and_who_fell_is_not_waited_for() {
        let (stage, past) = (Stage::new(), Arc::new(AtomicUsize::new(0)));
        let walk = |mut seat: Seat, delay: u64, falls: bool| {
            let past = Arc::clone(&past);
            tokio::spawn(async move {
                time::sleep(Duration::from_secs(delay)).await;
                seat.step().await.unwrap();
                past.fetch_add(1, SeqCst);
                if !falls {
                    seat.step().await.unwrap_err();
                }
            })
        };
        let cut = walk(stage.seat(), 0, false);
        let walks = [walk(stage.seat(), 1, false), walk(stage.seat(), 5, true), walk(stage.seat(), 3, false)];
        time::sleep(Duration::from_secs(1)).await;
        cut.abort();
        assert!(stage.gathered().await);
        assert_eq!(past.load(SeqCst), 0);
        stage.stepped(None);
        assert!(stage.gathered().await);
        assert_eq!(past.load(SeqCst), 3);
        stage.stepped(Some(Flaw::Skipped("no".into())));
        for walk in walks {
            walk.await.unwrap();
        }
        assert!(!stage.gathered().await, "nobody is left");
    }
}
