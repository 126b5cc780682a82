//! A gRPC echo and a call of it, as a generator would write them.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::{Grpc as Client, GrpcService},
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

const PATH: &str = "/bench.Echo/Unary";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

impl Payload {
    pub(super) fn of(bytes: usize) -> Self {
        Self { bytes: vec![7; bytes].into() }
    }
}

/// The server's side.
#[derive(Clone)]
pub(crate) struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = Grpc::new(ProstCodec::<Payload, Payload>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

/// One call, as a generated client makes it.
pub(super) async fn call<T>(client: &mut Client<T>, payload: Payload) -> Result<Payload, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    client.ready().await.map_err(|e| Status::unknown(format!("service was not ready: {}", e.into())))?;
    let path = PathAndQuery::from_static(PATH);
    let codec = ProstCodec::<Payload, Payload>::default();
    Ok(client.unary(Request::new(payload), path, codec).await?.into_inner())
}
