//! `orders` for pages in a browser: gRPC-Web beside gRPC on one port, for one other origin.
//!
//! ```text
//! cargo run -p orders --bin browser
//! curl -i http://127.0.0.1:<port>/orders.v1.Orders/Get -H 'content-type: application/grpc-web+proto' \
//!     -H 'x-grpc-web: 1' --data-binary $'\x00\x00\x00\x00\x02\x08\x07' --output -
//! ```

use axum::http::{HeaderName, HeaderValue, Method};
use meshwork::{App, BoxError};
use orders::orders::{
    GetOrder, Order,
    orders_server::{Orders, OrdersServer},
};
use tonic::{Request, Response, Status};
use tower_http::cors::CorsLayer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = App::new().grpc(OrdersServer::new(Shop)).grpc_web();
    app.reflection(orders::DESCRIPTORS).layer(pages_of("https://shop.example")?).serve().await?;
    Ok(())
}

/// What a browser asks before it lets a page of another origin call, and what the page may read of the answer.
fn pages_of(origin: &str) -> Result<CorsLayer, BoxError> {
    let headers = |names: [&'static str; 3]| names.map(HeaderName::from_static);
    Ok(CorsLayer::new()
        .allow_origin(origin.parse::<HeaderValue>()?)
        .allow_methods([Method::POST])
        .allow_headers(headers(["content-type", "x-grpc-web", "grpc-timeout"]))
        .expose_headers(headers(["grpc-status", "grpc-message", "meshwork-refused"])))
}

struct Shop;

#[tonic::async_trait]
impl Orders for Shop {
    async fn get(&self, request: Request<GetOrder>) -> Result<Response<Order>, Status> {
        let id = request.into_inner().id;
        Ok(Response::new(Order { id, customer: "Ada".to_owned() }))
    }
}
