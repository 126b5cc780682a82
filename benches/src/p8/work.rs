//! The one method of the nodes: works, or is told how long its work takes from now on.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task,
    time::Duration,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::time::sleep;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::{Grpc as Client, GrpcService},
    server::{Grpc, NamedService, UnaryService},
};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::fleet::Chance;

const PATH: &str = "/bench.Node/Work";
/// What a node takes by itself: from so many milliseconds, evenly over so many.
const USUAL: (u64, u64) = (147, 40);

/// Asks for work, or changes how long it takes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Order {
    /// From now on work takes so many milliseconds; 0 = as usual.
    #[prost(uint64, optional, tag = "1")]
    takes: Option<u64>,
}

impl Order {
    /// Works.
    pub(super) fn work() -> Self {
        Self { takes: None }
    }

    /// Changes how long work takes; `None` = as usual.
    pub(super) fn taking(time: Option<Duration>) -> Self {
        Self { takes: Some(time.map_or(0, |time| time.as_millis() as u64)) }
    }
}

/// A node.
#[derive(Clone, Default)]
pub(super) struct Node {
    takes: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

impl NamedService for Node {
    const NAME: &'static str = "bench.Node";
}

impl UnaryService<Order> for Node {
    type Response = Order;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Order>, Status>> + Send>>;

    fn call(&mut self, request: Request<Order>) -> Self::Future {
        let order = request.into_inner();
        if let Some(takes) = order.takes {
            self.takes.store(takes, Relaxed);
            return Box::pin(async { Ok(Response::new(order)) });
        }
        let takes = match self.takes.load(Relaxed) {
            0 => USUAL.0 * 1_000 + Chance(self.calls.fetch_add(1, Relaxed)).bits() % (USUAL.1 * 1_000),
            takes => takes * 1_000,
        };
        Box::pin(async move {
            sleep(Duration::from_micros(takes)).await;
            Ok(Response::new(order))
        })
    }
}

impl Service<http::Request<Body>> for Node {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let node = self.clone();
        Box::pin(async {
            let mut grpc = Grpc::new(ProstCodec::<Order, Order>::default());
            Ok(grpc.unary(node, request).await)
        })
    }
}

/// One call, as a generated client makes it.
pub(super) async fn call<T>(client: &mut Client<T>, order: Order) -> Result<(), Status>
where
    T: GrpcService<Body>,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    client.ready().await.map_err(|e| Status::unknown(format!("service was not ready: {}", e.into())))?;
    let codec = ProstCodec::<Order, Order>::default();
    client.unary(Request::new(order), PathAndQuery::from_static(PATH), codec).await?;
    Ok(())
}
