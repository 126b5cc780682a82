//! The server over loopback, driven by real hyper and tonic clients and by raw sockets.

mod context;
mod deaf;
mod drain;
mod echo;
mod health;
mod limits;
mod one_port;
mod patience;
mod refusal;
mod support;
