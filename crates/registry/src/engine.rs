//! What all drivers of one backend share.

use std::sync::{Arc, Mutex, PoisonError};

use meshwork_core::Drive;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    Dice, DriverOptions, Stats,
    pilot::{Flight, Pilot},
};

pub(crate) struct Engine<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) options: DriverOptions,
    pub(crate) stats: Arc<Stats>,
    /// The turns of subscriptions that read their first set.
    pub(crate) lists: Arc<Semaphore>,
    /// Cancelled when nobody is left who could ask for another watch: nothing lingers then.
    pub(crate) abandoned: CancellationToken,
    pilot: Pilot,
    dice: Mutex<Dice>,
}

impl<B> Engine<B> {
    pub(crate) fn new(backend: B, options: DriverOptions) -> Self {
        Self {
            backend: Arc::new(backend),
            stats: Arc::default(),
            lists: Arc::new(Semaphore::new(options.lists.max(1))),
            abandoned: CancellationToken::new(),
            pilot: Pilot::default(),
            dice: Mutex::new(Dice::new(options.seed)),
            options,
        }
    }

    /// A stream of randomness of its own.
    pub(crate) fn dice(&self) -> Dice {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).split()
    }
}

impl<B: Drive> Engine<B> {
    /// Makes sure that the backend is driven as long as the answer lives.
    pub(crate) fn engage(&self) -> Arc<Flight> {
        self.pilot.engage(&self.backend, &self.options.healing, &self.stats, || self.dice())
    }
}
