//! The client processes: ours, hyper-util's pooled client, reqwest.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{BoxError, Instance, InstanceId, Origin, ServiceName, Watch};

use super::BYTES;
use crate::{
    cpu::Seat,
    duel::{Caller, Sockets, obey},
};

const PATH: &str = "/users/7";

/// Whose client.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Ours,
    HyperUtil,
    Reqwest,
}

/// Asks the server at `addr` on order, until the input ends.
pub(crate) fn run(kind: Kind, addr: &str) -> Result<(), BoxError> {
    Seat::Client.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = runtime.block_on(async { Sockets::before() });
    match kind {
        Kind::Ours => {
            let channel = runtime.block_on(ours(addr.parse()?))?;
            obey(&runtime, &before, |_| Ours(channel.clone()))
        }
        Kind::HyperUtil => {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
            let uri: Uri = format!("http://{addr}{PATH}").parse()?;
            obey(&runtime, &before, |_| HyperUtil { client: client.clone(), uri: uri.clone() })
        }
        Kind::Reqwest => {
            let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy().build()?;
            let url: reqwest::Url = format!("http://{addr}{PATH}").parse()?;
            obey(&runtime, &before, |_| Reqwest { client: client.clone(), url: url.clone() })
        }
    }
}

/// A channel to a foreign instance, to which it speaks HTTP/1.1.
async fn ours(addr: SocketAddr) -> Result<Channel, BoxError> {
    let service = ServiceName::new("users")?;
    let mut instance = Instance::with_id(service.clone(), InstanceId::new("users-1")?);
    instance.origin = Origin::Foreign;
    instance.endpoints = vec![format!("http://{addr}").parse()?];
    let channel =
        Channel::new(service, Watch::fixed(Arc::from([Arc::new(instance)])), ClientConfig::default());
    channel.ready().await?;
    Ok(channel)
}

/// An answer is what the server always says.
fn check(answer: &Bytes) -> Result<(), BoxError> {
    if answer.len() == BYTES { Ok(()) } else { Err(format!("an answer of {} bytes", answer.len()).into()) }
}

struct Ours(Channel);

impl Caller for Ours {
    async fn call(&mut self) -> Result<(), BoxError> {
        check(&self.0.get(PATH).send().await?.bytes().await?)
    }
}

struct HyperUtil {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
}

impl Caller for HyperUtil {
    async fn call(&mut self) -> Result<(), BoxError> {
        let request = Request::get(self.uri.clone()).body(Empty::new())?;
        check(&self.client.request(request).await?.into_body().collect().await?.to_bytes())
    }
}

struct Reqwest {
    client: reqwest::Client,
    url: reqwest::Url,
}

impl Caller for Reqwest {
    async fn call(&mut self) -> Result<(), BoxError> {
        check(&self.client.get(self.url.clone()).send().await?.bytes().await?)
    }
}
