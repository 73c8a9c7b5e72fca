//! Compiles `proto/` with protox, so that no system `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 4] = [
    "wolfscale/v1/peer.proto",
    "wolfscale/v1/admin.proto",
    "wolfscale/v1/kv.proto",
    "wolfscale/v1/types.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("wolfscale.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
