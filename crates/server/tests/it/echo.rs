//! A gRPC service with all four kinds of calls, and its client, written by hand.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, task};

use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use meshwork_core::Context;
use tonic::{
    Request, Response, Status, Streaming,
    client::Grpc as Client,
    server::{
        ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
    },
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

/// `test.Echo`: what a call says decides what happens.
#[derive(Clone)]
pub(crate) struct Echo;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Texts = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = Boxed<Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        Box::pin(async move {
            let peer = request.remote_addr();
            match request.into_inner().text.as_str() {
                "hang" => std::future::pending().await,
                "panic" => panic!("asked to"),
                "peer" => Ok(Response::new(text(peer.map_or("none".into(), |peer| peer.to_string())))),
                "context" => Ok(Response::new(text(describe(&Context::current())))),
                other => Ok(Response::new(text(other))),
            }
        })
    }
}

impl ServerStreamingService<Text> for Echo {
    type Response = Text;
    type ResponseStream = Texts;
    type Future = Boxed<Result<Response<Texts>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let said = request.into_inner().text;
        let stream: Texts = match said.as_str() {
            // One message, then nothing for ever.
            "hang" => Box::pin(stream::iter([Ok(text("first"))]).chain(stream::pending())),
            // Each item is made while the body is polled.
            "context" => Box::pin(stream::iter(0..3).map(|_| Ok(text(describe(&Context::current()))))),
            // The pause lets the first message leave.
            "panic" => Box::pin(stream::iter([Ok(text("first"))]).chain(stream::once(async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                panic!("asked to")
            }))),
            _ => Box::pin(stream::iter(said.split(' ').map(|t| Ok(text(t))).collect::<Vec<_>>())),
        };
        Box::pin(async move { Ok(Response::new(stream)) })
    }
}

impl ClientStreamingService<Text> for Echo {
    type Response = Text;
    type Future = Boxed<Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        Box::pin(async move {
            let mut said = Vec::new();
            let mut stream = request.into_inner();
            while let Some(message) = stream.message().await? {
                said.push(message.text);
            }
            Ok(Response::new(text(said.join(" "))))
        })
    }
}

impl StreamingService<Text> for Echo {
    type Response = Text;
    type ResponseStream = Texts;
    type Future = Boxed<Result<Response<Texts>, Status>>;

    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(Box::pin(request.into_inner()) as Texts)) })
    }
}

fn describe(context: &Context) -> String {
    format!(
        "deadline={} attempt={} priority={} lane={} peer={}",
        context.deadline.is_some(),
        context.attempt,
        context.priority.as_str(),
        context.lane.as_deref().unwrap_or("-"),
        context.peer.is_some(),
    )
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Text, Text>::default());
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => grpc.unary(Echo, request).await,
                "/test.Echo/Server" => grpc.server_streaming(Echo, request).await,
                "/test.Echo/Client" => grpc.client_streaming(Echo, request).await,
                "/test.Echo/Both" => grpc.streaming(Echo, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// The client.
#[derive(Clone)]
pub(crate) struct EchoClient(Client<Channel>);

impl EchoClient {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        Self(Client::new(channel))
    }

    pub(crate) async fn unary(&mut self, request: impl tonic::IntoRequest<Text>) -> Result<String, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Echo/Unary");
        Ok(self.0.unary(request.into_request(), path, codec).await?.into_inner().text)
    }

    pub(crate) async fn server(
        &mut self,
        request: impl tonic::IntoRequest<Text>,
    ) -> Result<Streaming<Text>, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Echo/Server");
        Ok(self.0.server_streaming(request.into_request(), path, codec).await?.into_inner())
    }

    pub(crate) async fn client(&mut self, said: &[&str]) -> Result<String, Status> {
        self.0.ready().await.unwrap();
        let said: Vec<Text> = said.iter().map(|t| text(*t)).collect();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Echo/Client");
        let request = Request::new(stream::iter(said));
        Ok(self.0.client_streaming(request, path, codec).await?.into_inner().text)
    }

    /// Says whatever `said` brings; the answer comes after its end.
    pub(crate) async fn client_stream(
        &mut self,
        said: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<String, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Echo/Client");
        Ok(self.0.client_streaming(Request::new(said), path, codec).await?.into_inner().text)
    }

    pub(crate) async fn both(
        &mut self,
        said: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<Streaming<Text>, Status> {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Echo/Both");
        Ok(self.0.streaming(Request::new(said), path, codec).await?.into_inner())
    }

    pub(crate) async fn unknown_method(&mut self) -> Status {
        self.0.ready().await.unwrap();
        let codec = ProstCodec::<Text, Text>::default();
        let path = PathAndQuery::from_static("/test.Nobody/Nothing");
        self.0.unary(Request::new(text("")), path, codec).await.unwrap_err()
    }
}

/// All texts of a stream, or how it failed after which.
pub(crate) async fn collect(mut stream: Streaming<Text>) -> (Vec<String>, Option<Status>) {
    let mut texts = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => texts.push(message.text),
            Ok(None) => return (texts, None),
            Err(status) => return (texts, Some(status)),
        }
    }
}
