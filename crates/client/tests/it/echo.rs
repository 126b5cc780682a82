//! A gRPC service with all four kinds of calls, and its client, in the shape of generated code.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, task};

use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use meshwork_client::Channel;
use tokio::task::JoinHandle;
use tonic::{
    IntoRequest, IntoStreamingRequest, Request, Response, Status, Streaming,
    client::{Grpc as Client, GrpcService},
    server::{
        ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService,
    },
    service::{Interceptor, interceptor::InterceptedService},
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
            let header = |name: &str| {
                let value = request.metadata().get(name)?.to_str().ok()?;
                Some(value.to_owned())
            };
            let (timeout, by) = (header("grpc-timeout"), header("x-by"));
            match request.into_inner().text.as_str() {
                "hang" => std::future::pending().await,
                "timeout" => Ok(Response::new(text(timeout.unwrap_or_default()))),
                "by" => Ok(Response::new(text(by.unwrap_or_default()))),
                "unavailable" => Err(Status::unavailable("asked to")),
                "missing" => Err(Status::not_found("asked to")),
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
            "hang" => Box::pin(stream::iter([Ok(text("first"))]).chain(stream::pending())),
            "fail" => Box::pin(stream::iter([Ok(text("first")), Err(Status::internal("asked to"))])),
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

/// A stock tonic server.
pub(crate) async fn tonic_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let task = tokio::spawn(async move {
        tonic::transport::Server::builder().add_service(Echo).serve_with_incoming(incoming).await.unwrap();
    });
    (addr, task)
}

type StdError = Box<dyn std::error::Error + Send + Sync>;

/// The client, bounded as tonic's generator bounds it.
#[derive(Clone)]
pub(crate) struct EchoClient<T>(Client<T>);

impl<T> EchoClient<T>
where
    T: GrpcService<tonic::body::Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    pub(crate) fn new(inner: T) -> Self {
        Self(Client::new(inner))
    }

    pub(crate) fn with_interceptor<F: Interceptor>(
        inner: T,
        interceptor: F,
    ) -> EchoClient<InterceptedService<T, F>>
    where
        T::ResponseBody: Default,
        T: Service<http::Request<tonic::body::Body>, Response = http::Response<T::ResponseBody>>,
        <T as Service<http::Request<tonic::body::Body>>>::Error: Into<StdError> + Send + Sync,
    {
        EchoClient::new(InterceptedService::new(inner, interceptor))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|e| Status::unknown(format!("Service was not ready: {}", e.into())))
    }

    pub(crate) async fn unary(&mut self, request: impl IntoRequest<Text>) -> Result<String, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Unary");
        let codec = ProstCodec::<Text, Text>::default();
        Ok(self.0.unary(request.into_request(), path, codec).await?.into_inner().text)
    }

    pub(crate) async fn server(
        &mut self,
        request: impl IntoRequest<Text>,
    ) -> Result<Streaming<Text>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Server");
        let codec = ProstCodec::<Text, Text>::default();
        Ok(self.0.server_streaming(request.into_request(), path, codec).await?.into_inner())
    }

    pub(crate) async fn client(
        &mut self,
        request: impl IntoStreamingRequest<Message = Text>,
    ) -> Result<String, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Client");
        let codec = ProstCodec::<Text, Text>::default();
        let answer = self.0.client_streaming(request.into_streaming_request(), path, codec).await?;
        Ok(answer.into_inner().text)
    }

    pub(crate) async fn both(
        &mut self,
        request: impl IntoStreamingRequest<Message = Text>,
    ) -> Result<Streaming<Text>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Both");
        let codec = ProstCodec::<Text, Text>::default();
        Ok(self.0.streaming(request.into_streaming_request(), path, codec).await?.into_inner())
    }
}

pub(crate) fn client(channel: &Channel) -> EchoClient<Channel> {
    EchoClient::new(channel.clone())
}
