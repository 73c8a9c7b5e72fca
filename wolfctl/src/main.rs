//! `wolfctl`: shows and steers a WolfScale cluster, over its gRPC API and nothing else.
//!
//! Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 done, and the cluster is not healthy.

mod cli;
mod commands;
mod connect;
mod output;
mod token;

use std::process::ExitCode;

use clap::Parser;

/// Wire types, generated from `proto/`.
#[allow(missing_docs, clippy::all)]
mod wire {
    tonic::include_proto!("wolfscale.v1");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(&cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wolfctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
