//! How one way of the link behaves at the moment, for all its connections.

use std::{num::NonZeroU64, time::Duration};

use tokio::sync::watch;

/// The behaviour of one way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) delay: Duration,
    /// Bytes per second and connection.
    pub(super) rate: Option<NonZeroU64>,
    pub(super) passage: Passage,
    /// How often this way was ended; a connection ends it when the number has grown since it began.
    pub(super) closes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Passage {
    #[default]
    Forward,
    /// Neither read nor delivered.
    Hole,
    /// Read and lost.
    Swallow,
}

/// The switch of one way.
#[derive(Debug, Default)]
pub(super) struct Flows(watch::Sender<Flow>);

impl Flows {
    pub(super) fn change(&self, change: impl FnOnce(&mut Flow)) {
        self.0.send_modify(|flow| {
            let closes = flow.closes;
            change(flow);
            flow.closes = closes;
        });
    }

    pub(super) fn close(&self) {
        self.0.send_modify(|flow| flow.closes += 1);
    }

    pub(super) fn watch(&self) -> watch::Receiver<Flow> {
        self.0.subscribe()
    }
}
