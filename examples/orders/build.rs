//! Generates the clients and servers of the protos, without protoc, and the descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = protox::compile(["users.proto", "orders.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), protos.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(protos)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
