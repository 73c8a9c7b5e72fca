//! `wolfctl`: shows and steers a WolfScale cluster, over its gRPC API and nothing else.
//!
//! Exit codes: 0 done; 1 it failed; 2 wrong usage; 3 done, and the cluster is not healthy; 4 (kv) no such
//! key, lease or session, or another revision than expected; 5 (kv) it may or may not have happened.

/// As `println!`, but a reader that has seen enough (`wolfctl … | head`) is no failure.
macro_rules! out {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

mod cli;
mod commands;
mod connect;
mod connect_kv;
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
            connect_kv::exit_code(&error)
        }
    }
}
