//! `grpc.health.v1.Health`, answered from [`Health`].

use std::pin::Pin;

use axum::Router;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as Service, HealthServer},
};

use crate::{Health, health::State, health_list};

/// How the paths of the service begin.
pub(crate) const PREFIX: &str = "/grpc.health.v1.Health/";

/// The service, ready to be called. Its watches end when `draining` is cancelled.
pub(crate) fn router(health: Health, draining: CancellationToken) -> Router {
    let list = health_list::route(health.clone());
    let router = Routes::new(HealthServer::new(Answers { health, draining })).into_axum_router();
    router.route(health_list::PATH, list).with_state(())
}

struct Answers {
    health: Health,
    draining: CancellationToken,
}

type Answer = Result<HealthCheckResponse, Status>;

#[tonic::async_trait]
impl Service for Answers {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serves = self.health.subscribe().borrow().serves(&request.get_ref().service);
        match serves {
            Some(serves) => Ok(Response::new(response(Some(serves)))),
            None => Err(Status::not_found("unknown service")),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watching = Watching {
            state: self.health.subscribe(),
            service: request.into_inner().service,
            last: None,
            draining: self.draining.clone(),
            ended: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watching, Watching::next))))
    }
}

/// One `Watch` call.
struct Watching {
    state: watch::Receiver<State>,
    service: String,
    /// What was told last.
    last: Option<Option<bool>>,
    draining: CancellationToken,
    ended: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(Answer, Self)> {
        loop {
            if self.ended {
                return None;
            }
            let now = self.state.borrow_and_update().serves(&self.service);
            if self.last != Some(now) {
                self.last = Some(now);
                return Some((Ok(response(now)), self));
            }
            let over = tokio::select! {
                () = self.draining.cancelled() => true,
                changed = self.state.changed() => changed.is_err(),
            };
            if over {
                self.ended = true;
                return Some((Err(Status::unavailable("the server is draining")), self));
            }
        }
    }
}

fn response(serves: Option<bool>) -> HealthCheckResponse {
    let status = match serves {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse { status: status.into() }
}
