//! Compiles the public protos: all that this client knows of the cluster.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let protos = ["wolfscale/v1/admin.proto", "wolfscale/v1/kv.proto"];
    let descriptors = protox::compile(protos, ["../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
