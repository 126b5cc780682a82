//! The server over loopback, driven by real hyper and tonic clients and by raw sockets.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod age;
mod authority;
mod context;
mod deaf;
mod drain;
mod echo;
mod guards;
mod handover;
mod health;
mod in_process;
mod inherited;
mod limits;
mod one_port;
mod overload;
mod patience;
mod refusal;
mod support;
mod tls;
mod web;
mod work;
