//! `orders`: HTTP and gRPC on one port; asks the service `users` for names.
//!
//! ```text
//! cargo run -p orders --bin users &
//! cargo run -p orders
//! curl http://127.0.0.1:<the port of the banner>/orders/7
//! ```

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use meshwork::{App, BoxError, Channel, Problem};
use orders::{
    orders::{
        GetOrder, Order,
        orders_server::{Orders, OrdersServer},
    },
    users::{GetUser, users_client::UsersClient},
};
use tonic::{Request, Response, Status};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = App::new().with_build(meshwork::build_info!());
    let users = app.channel("users");
    let http = Router::new().route("/orders/{id}", get(order)).with_state(users.clone());
    // `grpcurl -plaintext localhost:<port> describe orders.v1.Orders`; in dev only, unless the configuration asks for it.
    let app = app.http(http).grpc(OrdersServer::new(Book { users })).reflection(orders::DESCRIPTORS);
    app.serve().await?;
    Ok(())
}

async fn order(State(users): State<Channel>, Path(id): Path<u64>) -> Result<String, Problem> {
    let mut users = UsersClient::new(users.idempotent());
    let customer = users.get(GetUser { id }).await?.into_inner();
    Ok(format!("order {id} of {}\n", customer.name))
}

struct Book {
    users: Channel,
}

#[tonic::async_trait]
impl Orders for Book {
    async fn get(&self, request: Request<GetOrder>) -> Result<Response<Order>, Status> {
        let id = request.into_inner().id;
        let mut users = UsersClient::new(self.users.idempotent());
        let customer = users.get(GetUser { id }).await?.into_inner().name;
        Ok(Response::new(Order { id, customer }))
    }
}
