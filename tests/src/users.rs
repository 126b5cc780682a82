//! `users.v1.Users` as tests and processes serve it: all four kinds of methods, and work that takes a while.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use meshwork::Channel;
use orders::users::{GetUser, Imported, User, users_client::UsersClient, users_server::Users};
use tokio_stream::{Stream, StreamExt, wrappers::IntervalStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    behave::{Conduct, Handler},
    event::Event,
};

/// A `Get` with this id never answers.
pub const HANG: u64 = u64::MAX;
/// A `Watch` with this id never ends, not even while the process stops; others end when it is asked to stop.
pub const ENDLESS: u64 = u64::MAX - 1;
/// A `Get` with this id finds nobody.
pub const NOBODY: u64 = u64::MAX - 2;

/// Says so, and never returns, though its type does not say so: handlers want an answer.
///
/// # Cancel safety
/// Dropping the future ends it.
pub async fn hang() {
    Event::Hanging.say();
    std::future::pending::<()>().await;
}

/// The service. Each user bears the name it is given.
#[derive(Clone, Debug)]
pub struct Directory {
    name: String,
    conduct: Arc<Conduct>,
    next: Option<Channel>,
    stopping: CancellationToken,
}

type Answers = Pin<Box<dyn Stream<Item = Result<User, Status>> + Send>>;

impl Directory {
    /// A directory in which everybody is called `name`; its streams end with `stopping`.
    pub fn new(name: impl Into<String>, stopping: CancellationToken) -> Self {
        Self { name: name.into(), conduct: Arc::default(), next: None, stopping }
    }

    /// Each `Get` does what this says.
    #[must_use]
    pub fn with_conduct(self, conduct: Arc<Conduct>) -> Self {
        Self { conduct, ..self }
    }

    /// Each `Get`, its own work done, asks another service and answers as that one does.
    #[must_use]
    pub fn before(self, next: Option<Channel>) -> Self {
        Self { next, ..self }
    }

    fn user(&self, id: u64) -> User {
        User { id, name: self.name.clone() }
    }

    /// One answer at once, then one every 50 ms.
    fn beats(&self, id: u64) -> Answers {
        let user = self.user(id);
        let beats = IntervalStream::new(tokio::time::interval(Duration::from_millis(50)));
        Box::pin(beats.map(move |_| Ok(user.clone())))
    }
}

#[tonic::async_trait]
impl Users for Directory {
    type WatchStream = Answers;
    type ChatStream = Answers;

    async fn get(&self, request: Request<GetUser>) -> Result<Response<User>, Status> {
        let id = request.into_inner().id;
        if id == HANG {
            hang().await;
        }
        if id == NOBODY {
            return Err(Status::not_found("nobody has this id"));
        }
        if let Err(fault) = self.conduct.call(Handler::Get).await {
            return Err(Status::new(fault.code.into(), "told to fail"));
        }
        match &self.next {
            Some(next) => UsersClient::new(next.idempotent()).get(GetUser { id }).await,
            None => Ok(Response::new(self.user(id))),
        }
    }

    async fn watch(&self, request: Request<GetUser>) -> Result<Response<Answers>, Status> {
        let id = request.into_inner().id;
        if id == ENDLESS {
            return Ok(Response::new(self.beats(id)));
        }
        let stopping = self.stopping.clone().cancelled_owned();
        Ok(Response::new(Box::pin(Until { beats: self.beats(id), stopping: Box::pin(stopping) })))
    }

    async fn import(&self, request: Request<Streaming<User>>) -> Result<Response<Imported>, Status> {
        let mut users = request.into_inner();
        let mut count = 0;
        while let Some(user) = users.next().await {
            user?;
            count += 1;
        }
        Ok(Response::new(Imported { count }))
    }

    async fn chat(&self, request: Request<Streaming<User>>) -> Result<Response<Answers>, Status> {
        let directory = self.clone();
        Ok(Response::new(Box::pin(request.into_inner().map(move |asked| Ok(directory.user(asked?.id))))))
    }
}

/// A stream that ends by itself once the process was asked to stop, as a well-behaved one does.
struct Until {
    beats: Answers,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Stream for Until {
    type Item = Result<User, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopping.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        self.beats.as_mut().poll_next(context)
    }
}
