//! `List` of `grpc.health.v1.Health`: younger than the crate that brings `Check` and `Watch`, so its two messages are here.

use std::{
    collections::HashMap,
    future::{Ready, ready},
};

use axum::{
    body::Body,
    response::IntoResponse,
    routing::{MethodRouter, post},
};
use tonic::{
    Request, Response, Status,
    server::{Grpc, UnaryService},
};
use tonic_health::pb::{HealthCheckResponse, health_check_response::ServingStatus};
use tonic_prost::ProstCodec;

use crate::Health;

/// Its path.
pub(crate) const PATH: &str = "/grpc.health.v1.Health/List";
/// The most services that an answer may have, says the protocol.
const MOST: usize = 100;

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct HealthListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthListResponse {
    #[prost(map = "string, message", tag = "1")]
    statuses: HashMap<String, HealthCheckResponse>,
}

/// Answers for every service known, and for `""`, the process.
pub(crate) fn route(health: Health) -> MethodRouter {
    post(move |request: http::Request<Body>| async move {
        let codec = ProstCodec::<HealthListResponse, HealthListRequest>::default();
        Grpc::new(codec).unary(List(health), request).await.into_response()
    })
}

struct List(Health);

impl UnaryService<HealthListRequest> for List {
    type Response = HealthListResponse;
    type Future = Ready<Result<Response<HealthListResponse>, Status>>;

    fn call(&mut self, _: Request<HealthListRequest>) -> Self::Future {
        let all = self.0.services();
        if all.len() > MOST {
            return ready(Err(Status::resource_exhausted("more than 100 services")));
        }
        let status = |serves| HealthCheckResponse {
            status: if serves { ServingStatus::Serving } else { ServingStatus::NotServing }.into(),
        };
        let statuses = all.into_iter().map(|(name, serves)| (name, status(serves))).collect();
        ready(Ok(Response::new(HealthListResponse { statuses })))
    }
}
