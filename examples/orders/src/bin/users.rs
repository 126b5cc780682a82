//! `users`: a gRPC service with all four kinds of methods.

use std::pin::Pin;

use meshwork::{App, BoxError};
use orders::users::{
    GetUser, Imported, User,
    users_server::{Users, UsersServer},
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let app = App::new().with_config("[service]\nname = \"users\"").with_build(meshwork::build_info!());
    app.grpc(UsersServer::new(Directory)).serve().await?;
    Ok(())
}

struct Directory;

fn user(id: u64) -> User {
    let names = ["Ada", "Barbara", "Edsger", "Grace", "Leslie", "Radia"];
    User { id, name: names[(id % names.len() as u64) as usize].to_owned() }
}

type Answers = Pin<Box<dyn Stream<Item = Result<User, Status>> + Send>>;

#[tonic::async_trait]
impl Users for Directory {
    type WatchStream = Answers;
    type ChatStream = Answers;

    async fn get(&self, request: Request<GetUser>) -> Result<Response<User>, Status> {
        Ok(Response::new(user(request.into_inner().id)))
    }

    async fn watch(&self, request: Request<GetUser>) -> Result<Response<Answers>, Status> {
        let first = request.into_inner().id;
        let answers = tokio_stream::iter(first..first.saturating_add(3)).map(|id| Ok(user(id)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn import(&self, request: Request<Streaming<User>>) -> Result<Response<Imported>, Status> {
        let mut users = request.into_inner();
        let mut count = 0;
        while let Some(user) = users.next().await {
            user?;
            count += 1;
        }
        Ok(Response::new(Imported { count }))
    }

    async fn chat(&self, request: Request<Streaming<User>>) -> Result<Response<Answers>, Status> {
        let answers = request.into_inner().map(|asked| Ok(user(asked?.id)));
        Ok(Response::new(Box::pin(answers)))
    }
}
