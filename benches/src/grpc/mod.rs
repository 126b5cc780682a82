//! A gRPC echo: its server process, and the client processes that call it over our channel or over tonic's.

mod client;
mod echo;
mod server;

pub(crate) use self::{
    client::{Kind, run as client},
    echo::Echo,
    server::run as server,
};
