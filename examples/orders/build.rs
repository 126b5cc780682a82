//! Generates the clients and servers of the protos, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = protox::compile(["users.proto", "orders.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(protos)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
