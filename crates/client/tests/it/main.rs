//! The channel over loopback, against real hyper, tonic and Meshwork servers and scripted HTTP/2 peers.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod authority;
mod calls;
mod chain;
mod echo;
mod effects;
mod faults;
mod grpc;
mod hedge;
mod hostile;
mod http1;
mod identity;
mod limits;
mod patience;
mod peer;
mod policies;
mod raw;
mod reasons;
mod registry;
mod rest;
mod server;
mod several;
mod streams;
mod subsets;
mod support;
mod tls;
mod villain;
