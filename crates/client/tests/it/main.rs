//! The channel over loopback, against real hyper, tonic and Meshwork servers and scripted HTTP/2 peers.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod authority;
mod calls;
mod chain;
mod echo;
mod faults;
mod grpc;
mod hedge;
mod hostile;
mod http1;
mod identity;
mod peer;
mod raw;
mod registry;
mod rest;
mod server;
mod several;
mod streams;
mod support;
mod tls;
mod villain;
