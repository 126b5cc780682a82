//! A backend that counts what is asked of it and answers as ordered.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::{StreamExt, future, stream};
use meshwork_core::{
    Announcer, BoxFuture, Change, Changes, Drive, Error, ErrorKind, Instance, InstanceId, Query, ServiceName,
    Source,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    Well,
    After(Duration),
    Never,
    Error(ErrorKind),
    Panic,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) drives: AtomicUsize,
    pub(crate) driving: AtomicUsize,
    pub(crate) subscribed: AtomicUsize,
    pub(crate) open: AtomicUsize,
    pub(crate) listing: AtomicUsize,
    pub(crate) most_listing: AtomicUsize,
    pub(crate) claims: AtomicUsize,
    pub(crate) updates: AtomicUsize,
    pub(crate) releases: AtomicUsize,
}

pub(crate) struct Scripted {
    pub(crate) counts: Arc<Counts>,
    answer: watch::Sender<Answer>,
    /// Ends the drive there is.
    pub(crate) crash: Notify,
    /// Ends the claim there is.
    pub(crate) lose: Notify,
    pub(crate) drops_claims: AtomicBool,
    pub(crate) written: Mutex<Option<Instance>>,
    pub(crate) claimed_at: Mutex<Vec<Instant>>,
}

impl Scripted {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            counts: Arc::default(),
            answer: watch::Sender::new(answer),
            crash: Notify::new(),
            lose: Notify::new(),
            drops_claims: AtomicBool::new(false),
            written: Mutex::default(),
            claimed_at: Mutex::default(),
        }
    }

    /// From now on.
    pub(crate) fn answers(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    async fn answer(&self) -> Result<(), Error> {
        let how = *self.answer.borrow();
        answer(how).await
    }
}

async fn answer(answer: Answer) -> Result<(), Error> {
    match answer {
        Answer::Well => Ok(()),
        Answer::After(delay) => {
            sleep(delay).await;
            Ok(())
        }
        Answer::Never => future::pending().await,
        Answer::Panic => panic!("by order"),
        Answer::Error(kind) => Err(Error::new(kind, "asking the scripted registry").with_source("by order")),
    }
}

/// Counts down when dropped.
struct Counted(Arc<Counts>, fn(&Counts) -> &AtomicUsize);

impl Counted {
    fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicUsize) -> Self {
        which(counts).fetch_add(1, SeqCst);
        Self(Arc::clone(counts), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, SeqCst);
    }
}

impl Drive for Scripted {
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(async {
            self.counts.drives.fetch_add(1, SeqCst);
            let _driving = Counted::new(&self.counts, |counts| &counts.driving);
            self.crash.notified().await;
            Error::unavailable("driving the scripted registry")
        })
    }
}

impl Source for Scripted {
    fn subscribe(&self, query: &Query) -> Changes {
        self.counts.subscribed.fetch_add(1, SeqCst);
        let (counts, service) = (Arc::clone(&self.counts), query.service().clone());
        let answers = self.answer.subscribe();
        let open = Counted::new(&counts, |counts| &counts.open);
        let list = async move {
            let _listing = Counted::new(&counts, |counts| &counts.listing);
            counts.most_listing.fetch_max(counts.listing.load(SeqCst), SeqCst);
            let how = *answers.borrow();
            answer(how).await?;
            Ok((Change::Set(vec![Arc::new(instance(&service))]), answers))
        };
        // Follows until an error is ordered.
        let changes = stream::once(list).flat_map(move |listed: Result<_, Error>| match listed {
            Err(error) => stream::iter([Err(error)]).boxed(),
            Ok((set, mut answers)) => {
                let broken = async move {
                    let is_error = |answer: &Answer| matches!(answer, Answer::Error(_));
                    let ordered = answers.wait_for(is_error).await.map(|answer| *answer);
                    match ordered {
                        Ok(ordered) => answer(ordered).await.map(|()| Change::Set(Vec::new())),
                        Err(_) => future::pending().await,
                    }
                };
                stream::iter([Ok(set)]).chain(stream::once(broken)).boxed()
            }
        });
        changes
            .map(move |item| {
                let _ = &open;
                item
            })
            .boxed()
    }
}

pub(crate) struct Note;

impl Announcer for Scripted {
    type Claim = Note;

    async fn claim(&self, instance: &Instance, claim: &mut Option<Note>) -> Result<(), Error> {
        self.counts.claims.fetch_add(1, SeqCst);
        self.claimed_at.lock().unwrap().push(Instant::now());
        *claim = Some(Note);
        self.answer().await?;
        *self.written.lock().unwrap() = Some(instance.clone());
        if self.drops_claims.load(SeqCst) {
            *claim = None;
        }
        Ok(())
    }

    async fn hold(&self, _claim: &mut Note) -> Error {
        self.lose.notified().await;
        Error::unavailable("holding the scripted claim").with_source("by order")
    }

    async fn update(&self, _claim: &mut Note, instance: &Instance) -> Result<(), Error> {
        self.counts.updates.fetch_add(1, SeqCst);
        self.answer().await?;
        *self.written.lock().unwrap() = Some(instance.clone());
        Ok(())
    }

    async fn release(&self, _claim: Note) -> Result<(), Error> {
        self.counts.releases.fetch_add(1, SeqCst);
        self.answer().await?;
        *self.written.lock().unwrap() = None;
        Ok(())
    }
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn instance(service: &ServiceName) -> Instance {
    let mut instance = Instance::with_id(service.clone(), InstanceId::new(format!("{service}-1")).unwrap());
    instance.endpoints.push("http://127.0.0.1:8080".parse().unwrap());
    instance.start_time = None;
    instance
}

/// Waits until something is so, at most 90 s of paused time.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..90_000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}");
}
