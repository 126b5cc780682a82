//! Does what the registrar's state machine says: claims, holds, updates, releases, logs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use meshwork_core::{
    Announcer, Error, ErrorChain, ErrorKind, Instance, Registration, RegistrationState, Wish,
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::Instrument;

use super::{Action, Event, Registrar, Told, Work};
use crate::{Line, engine::Engine, pilot::Flight, shield::shield, whereabouts};

/// A shorter standstill is the scheduler's, whatever the time to live.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Announces `instance`; its keeper lives on a task of its own until the registration is gone.
pub(crate) fn register<B: Announcer>(engine: &Arc<Engine<B>>, instance: Instance) -> Registration {
    let wish = Arc::new(watch::Sender::new(Wish { instance: Arc::new(instance), departure: None }));
    let (state, seen) = watch::channel(RegistrationState::Pending { cause: None });
    let keeper = Keeper::new(Arc::clone(engine), Arc::clone(&wish), state);
    // Not owned by the registration: it must outlive its drop, to leave. It ends with `Gone`.
    tokio::spawn(keeper.run().instrument(whereabouts::current()));
    Registration::new(wish, seen)
}

struct Keeper<B: Announcer> {
    engine: Arc<Engine<B>>,
    wish: Arc<watch::Sender<Wish>>,
    state: watch::Sender<RegistrationState>,
    claim: Option<B::Claim>,
    flight: Option<Arc<Flight>>,
    is_live: bool,
}

impl<B: Announcer> Keeper<B> {
    fn new(
        engine: Arc<Engine<B>>,
        wish: Arc<watch::Sender<Wish>>,
        state: watch::Sender<RegistrationState>,
    ) -> Self {
        engine.stats.registrations.add(1);
        Self { engine, wish, state, claim: None, flight: None, is_live: false }
    }

    async fn run(mut self) {
        let mut wishes = self.wish.subscribe();
        let mut fed = self.wish.borrow().clone();
        let (options, dice) = (self.engine.options.clone(), self.engine.dice());
        let mut registrar = Registrar::new(fed.clone(), options, dice, Instant::now());
        let mut actions = Vec::new();
        loop {
            let work = registrar.work(Instant::now());
            if work == Work::End {
                return;
            }
            let event = self.work(work, &mut wishes, &fed).await;
            let now = Instant::now();
            let wished = self.wish.borrow().clone();
            if differs(&wished, &fed) {
                fed = wished;
                registrar.step(Event::Wished(fed.clone()), now, &mut actions);
            }
            if let Some(event) = event {
                registrar.step(event, now, &mut actions);
            }
            for action in actions.drain(..) {
                self.act(action, registrar.wished());
            }
        }
    }

    /// Does one piece of work; `None` when a wish interrupted it.
    async fn work(&mut self, work: Work, wishes: &mut watch::Receiver<Wish>, fed: &Wish) -> Option<Event> {
        let backend = &*self.engine.backend;
        let limit = self.engine.options.request_timeout;
        Some(match work {
            Work::Claim(instance) => {
                self.engine.stats.claims.add(1);
                self.flight = Some(self.engine.engage());
                let claiming = backend.claim(&instance, &mut self.claim);
                tokio::select! {
                    // The departure first: it must cut a claim that never pauses.
                    biased;
                    () = departs(wishes) => self.cut(),
                    result = within(limit, "claiming", &instance, claiming) => self.claimed(&instance, result),
                }
            }
            Work::Update(instance) => {
                let Some(claim) = &mut self.claim else { return Some(self.unnoted(&instance)) };
                let updating = backend.update(claim, &instance);
                tokio::select! {
                    biased;
                    () = departs(wishes) => self.cut(),
                    result = within(limit, "updating", &instance, updating) => self.done(result),
                }
            }
            Work::Hold => {
                let Some(claim) = &mut self.claim else { return Some(self.unnoted(&fed.instance)) };
                let options = &self.engine.options;
                let limit = options.heeds_pauses.then(|| (options.healing.ttl / 3).max(LEAST_PAUSE));
                tokio::select! {
                    biased;
                    () = changes(wishes, fed) => return None,
                    gap = standstill(limit) => Event::Paused(gap),
                    held = shield(backend.hold(claim), || format!("holding `{}`", fed.instance.id)) => {
                        let error = held.unwrap_or_else(|panicked| panicked);
                        let registry_away =
                            self.flight.as_ref().is_some_and(|flight| flight.is_away(Instant::now()));
                        self.engine.stats.claims_lost.add(1);
                        Event::Lost { error: Arc::new(error), registry_away }
                    }
                }
            }
            Work::Mark(instance, limit) => {
                let Some(claim) = &mut self.claim else { return Some(self.unnoted(&instance)) };
                let result = within(limit, "marking", &instance, backend.update(claim, &instance)).await;
                self.done(result)
            }
            Work::Release(limit) => match self.claim.take() {
                Some(claim) => {
                    let result = within(limit, "releasing", &fed.instance, backend.release(claim)).await;
                    self.done(result)
                }
                None => self.done(Ok(())),
            },
            Work::Rest(until) => {
                tokio::select! {
                    biased;
                    () = changes(wishes, fed) => return None,
                    () = time::sleep_until(until) => Event::Due,
                }
            }
            Work::End => return None,
        })
    }

    fn cut(&self) -> Event {
        Event::Cut { noted: self.claim.is_some() }
    }

    fn done(&self, result: Result<(), Arc<Error>>) -> Event {
        Event::Done { result, noted: self.claim.is_some() }
    }

    fn claimed(&self, instance: &Instance, result: Result<(), Arc<Error>>) -> Event {
        if result.is_ok() && self.claim.is_none() { self.unnoted(instance) } else { self.done(result) }
    }

    /// The announcer said `Ok` and noted nothing: there is nothing to hold.
    fn unnoted(&self, instance: &Instance) -> Event {
        let text = format!("claiming `{}`: the announcer noted no claim", instance.id);
        self.done(Err(Arc::new(Error::new(ErrorKind::Unsupported, text))))
    }

    fn act(&mut self, action: Action, wished: &Instance) {
        match action {
            Action::Publish(state) => {
                let is_live = matches!(state, RegistrationState::Live);
                self.count_live(is_live);
                self.state.send_replace(state);
            }
            Action::Rename(id) => {
                self.engine.stats.conflicts.add(1);
                self.wish.send_modify(|wish| {
                    let mut renamed = (*wish.instance).clone();
                    renamed.id = id;
                    wish.instance = Arc::new(renamed);
                });
            }
            Action::Tell(told) => tell(wished, &told),
        }
    }

    fn count_live(&mut self, is_live: bool) {
        if is_live != self.is_live {
            self.is_live = is_live;
            let live = &self.engine.stats.live;
            if is_live { live.add(1) } else { live.less(1) }
        }
    }
}

impl<B: Announcer> Drop for Keeper<B> {
    fn drop(&mut self) {
        self.count_live(false);
        self.engine.stats.registrations.less(1);
    }
}

fn differs(wished: &Wish, fed: &Wish) -> bool {
    wished.departure != fed.departure || !Arc::ptr_eq(&wished.instance, &fed.instance)
}

async fn departs(wishes: &mut watch::Receiver<Wish>) {
    wait(wishes, |wish| wish.departure.is_some()).await;
}

async fn changes(wishes: &mut watch::Receiver<Wish>, fed: &Wish) {
    wait(wishes, |wish| differs(wish, fed)).await;
}

async fn wait(wishes: &mut watch::Receiver<Wish>, is_met: impl FnMut(&Wish) -> bool) {
    if wishes.wait_for(is_met).await.is_err() {
        // The keeper itself holds a sender: the channel cannot close under it.
        std::future::pending::<()>().await;
    }
}

/// Ends a request at its limit.
async fn within(
    limit: Duration,
    doing: &str,
    instance: &Instance,
    request: impl Future<Output = Result<(), Error>>,
) -> Result<(), Arc<Error>> {
    let request = shield(request, || format!("{doing} `{}`", instance.id));
    match time::timeout(limit, request).await {
        Ok(result) => result.and_then(|result| result).map_err(Arc::new),
        Err(_elapsed) => {
            let text = format!("{doing} `{}`: no answer within {limit:.1?}", instance.id);
            Err(Arc::new(Error::unavailable(text)))
        }
    }
}

/// Returns after the process stood still for longer than `limit`, with how long it did; never without a limit.
///
/// A pause of that length is seen however seldom it is looked, for it falls between two looks. They are seldom, so that an
/// idle process stays idle, but leave time for a busy machine to be late: half the limit, and a second where that is more.
///
/// The monotonic clock sees a stopped process; it may not see a suspended machine, the wall clock does.
/// A wall clock that is merely set costs one needless claim.
async fn standstill(limit: Option<Duration>) -> Duration {
    let Some(limit) = limit else { return std::future::pending().await };
    let pause = limit.saturating_sub(LEAST_PAUSE).max(limit / 2);
    loop {
        let (before, wall) = (Instant::now(), SystemTime::now());
        time::sleep(pause).await;
        let gap = before.elapsed().max(wall.elapsed().unwrap_or_default());
        if gap > limit {
            return gap;
        }
    }
}

fn tell(instance: &Instance, told: &Told) {
    let (service, id) = (&instance.service, &instance.id);
    let chain = |cause: &Option<Arc<Error>>| {
        cause.as_deref().map(|cause| ErrorChain(cause).to_string()).unwrap_or_default()
    };
    match told {
        Told::Announced => tracing::info!(%service, %id, "announced"),
        Told::Outage { line: Line::Lost, cause, retry_in, was_live } => {
            let (error, retry_in) = (chain(cause), retry_in.unwrap_or_default());
            let is_alarm = cause.as_deref().is_some_and(|cause| !cause.kind().is_transient());
            match (is_alarm, was_live) {
                (true, true) => {
                    tracing::error!(%service, %id, ?retry_in, %error, "registration lost: new clients do not find this instance");
                }
                (true, false) => {
                    tracing::error!(%service, %id, ?retry_in, %error, "not announced: clients do not find this instance");
                }
                (false, true) => {
                    tracing::warn!(%service, %id, ?retry_in, %error, "registration lost: new clients may not find this instance");
                }
                (false, false) => {
                    tracing::warn!(%service, %id, ?retry_in, %error, "not announced yet: clients do not find this instance");
                }
            }
        }
        Told::Outage { line: Line::Still { since }, cause, retry_in, .. } => {
            let (error, retry_in) = (chain(cause), retry_in.unwrap_or_default());
            tracing::info!(%service, %id, ?since, ?retry_in, %error, "still not announced");
        }
        Told::Outage { line: Line::Back { after }, .. } => {
            tracing::info!(%service, %id, ?after, "announced again");
        }
        Told::Renamed { from, cause } => {
            let error = ErrorChain(&**cause);
            tracing::error!(%service, %from, %id, %error, "another process uses our instance id: going on under a new one");
        }
        Told::Rejected(cause) => {
            let error = ErrorChain(&**cause);
            tracing::error!(%service, %id, %error, "changed record cannot be written: the one before stays");
        }
        Told::Unmarked(cause) => {
            let error = ErrorChain(&**cause);
            tracing::warn!(%service, %id, %error, "record could not be marked as leaving before it goes");
        }
        Told::Left(Ok(())) => tracing::info!(%service, %id, "left the registry"),
        Told::Left(Err(cause)) => {
            let error = ErrorChain(&**cause);
            tracing::warn!(%service, %id, %error, "leaving was not confirmed: the record ends with its time to live");
        }
    }
}
