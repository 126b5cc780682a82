//! tower's p2c over peak-EWMA of tonic channels, as one service that calls can share.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use meshwork_core::BoxError;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{
    balance::p2c::Balance,
    discover::ServiceList,
    load::{CompleteOnResponse, PeakEwma},
};
use tower_service::Service;

/// What a node counts as before it has answered, and how long an answer is remembered.
const DEFAULT_RTT: Duration = Duration::from_millis(167);
const DECAY: Duration = Duration::from_secs(10);

type Inner = Balance<ServiceList<Vec<PeakEwma<Channel>>>, Request<Body>>;

/// Balances under a lock: it cannot be cloned, and a queue before it would be measured as well.
#[derive(Clone)]
pub(super) struct Tower(Arc<Mutex<Inner>>);

impl Tower {
    /// Connects to all of them.
    pub(super) async fn connect(addrs: &[SocketAddr], deadline: Duration) -> Result<Self, BoxError> {
        let mut channels = Vec::new();
        for addr in addrs {
            let channel =
                Endpoint::from_shared(format!("http://{addr}"))?.timeout(deadline).connect().await?;
            let decay = DECAY.as_nanos() as f64;
            channels.push(PeakEwma::new(channel, DEFAULT_RTT, decay, CompleteOnResponse::default()));
        }
        Ok(Self(Arc::new(Mutex::new(Balance::new(ServiceList::new(channels))))))
    }
}

impl Service<Request<Body>> for Tower {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, mut request) = (Arc::clone(&self.0), Some(request));
        Box::pin(async move {
            // Ready and called under one lock: nobody else takes what became ready for us.
            let sent = poll_fn(|cx| {
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                ready!(inner.poll_ready(cx))?;
                let request = request.take().ok_or("a request is sent once")?;
                Poll::Ready(Ok::<_, BoxError>(inner.call(request)))
            });
            sent.await?.await
        })
    }
}
