//! The seats of a local registry: who waits for which service, and how the watch thread reaches them.

use std::{
    collections::VecDeque,
    io::Write,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use meshwork_core::{Change, Error, ServiceName};
use tokio::sync::Notify;

/// The most changes that wait for one subscriber; more are replaced by a complete set.
const MAX_WAITING: usize = 256;

/// What is watched: a service in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Topic {
    pub(super) env: Box<str>,
    pub(super) service: ServiceName,
}

/// Everything that subscriptions and the watch thread of one backend share.
#[derive(Debug, Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    seated: Notify,
    polling: AtomicBool,
    rung: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    seats: Vec<(Topic, Weak<Mailbox>)>,
    bell: Option<UnixStream>,
}

/// The seat of one subscription; dropping it ends the subscription.
#[derive(Debug)]
pub(super) struct Seat {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
}

/// What waits for one subscriber.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Mail {
    waiting: VecDeque<Change>,
    failed: Option<Error>,
    ended: bool,
}

impl Hub {
    /// A new seat for `topic`.
    pub(super) fn join(self: &Arc<Self>, topic: Topic) -> Seat {
        let mailbox = Arc::new(Mailbox::default());
        self.state().seats.push((topic, Arc::downgrade(&mailbox)));
        self.seated.notify_one();
        self.ring();
        Seat { hub: Arc::clone(self), mailbox }
    }

    /// Waits until somebody has a seat.
    pub(super) async fn seated(&self) {
        while self.seats().is_empty() {
            self.seated.notified().await;
        }
    }

    /// The seats that are taken now.
    pub(super) fn seats(&self) -> Vec<(Topic, Arc<Mailbox>)> {
        let mut state = self.state();
        let mut seats = Vec::with_capacity(state.seats.len());
        state.seats.retain(|(topic, mailbox)| match mailbox.upgrade() {
            Some(mailbox) if !mailbox.mail().ended => {
                seats.push((topic.clone(), mailbox));
                true
            }
            _ => false,
        });
        seats
    }

    /// Ends every subscription with an error made by `error`.
    pub(super) fn fail(&self, error: impl Fn() -> Error) {
        for (_, mailbox) in self.seats() {
            mailbox.fail(error());
        }
    }

    /// Wakes the watch thread through `bell` from now on.
    pub(super) fn hang(&self, bell: UnixStream) {
        self.state().bell = Some(bell);
        self.rung.store(true, Ordering::Release);
    }

    /// Wakes the watch thread.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        if let Some(bell) = &mut self.state().bell {
            // A bell that cannot take more has rung already.
            drop(bell.write(&[1]));
        }
    }

    /// Whether it was rung since the last time that this was asked: seats were taken or left.
    pub(super) fn take_rung(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether the watch thread looks once a second because no events reach it.
    pub(super) fn is_polling(&self) -> bool {
        self.polling.load(Ordering::Relaxed)
    }

    /// Says whether it does; returns what it did before.
    pub(super) fn set_polling(&self, polling: bool) -> bool {
        self.polling.swap(polling, Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Waits for the next change or the error that ends the subscription.
    pub(super) async fn next(&self) -> Result<Change, Error> {
        loop {
            if let Some(mail) = self.mailbox.take() {
                return mail;
            }
            self.mailbox.arrived.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.ring();
    }
}

impl Mailbox {
    /// Delivers changes; when too many wait already, the set that `all` makes replaces them.
    pub(super) fn deliver(&self, changes: &[Change], all: impl FnOnce() -> Vec<Change>) {
        let mut mail = self.mail();
        if !mail.waiting.is_empty() && mail.waiting.len() + changes.len() > MAX_WAITING {
            mail.waiting = all().into();
        } else {
            mail.waiting.extend(changes.iter().cloned());
        }
        self.arrived.notify_one();
    }

    /// Ends the subscription after what waits already.
    pub(super) fn fail(&self, error: Error) {
        let mut mail = self.mail();
        if !mail.ended {
            mail.ended = true;
            mail.failed = Some(error);
            self.arrived.notify_one();
        }
    }

    fn take(&self) -> Option<Result<Change, Error>> {
        let mut mail = self.mail();
        mail.waiting.pop_front().map(Ok).or_else(|| mail.failed.take().map(Err))
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic { env: "dev".into(), service: ServiceName::new("users").unwrap() }
    }

    fn delta() -> Change {
        Change::Delta { put: Vec::new(), removed: Vec::new() }
    }

    #[tokio::test]
    async fn a_slow_subscriber_gets_a_complete_set_instead_of_an_endless_queue() {
        let hub = Arc::new(Hub::default());
        let seat = hub.join(topic());
        let (_, mailbox) = hub.seats().remove(0);
        for _ in 0..=MAX_WAITING {
            mailbox.deliver(&[delta()], || vec![Change::Set(Vec::new())]);
        }
        assert!(matches!(seat.next().await, Ok(Change::Set(_))));
    }

    #[tokio::test]
    async fn a_seat_ends_with_its_subscription() {
        let hub = Arc::new(Hub::default());
        let (first, second) = (hub.join(topic()), hub.join(topic()));
        hub.seated().await;
        drop(first);
        assert_eq!(hub.seats().len(), 1);
        hub.fail(|| Error::unavailable("watching"));
        assert!(second.next().await.is_err());
    }
}
