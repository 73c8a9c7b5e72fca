//! Where the API token comes from.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cli::Cli;

/// What a token is derived for; the node derives the same.
const LABEL: &[u8] = b"wolfscale api token v1";

/// The token: from a file, from a secret's file, or from the environment, in this order.
pub fn token(cli: &Cli) -> Result<String> {
    if let Some(path) = &cli.token_file {
        return read(path).context("read the API token");
    }
    if let Some(path) = &cli.secret_file {
        return Ok(derive(&read(path).context("read the cluster secret")?));
    }
    if let Ok(token) = env::var("WOLFSCALE_API_TOKEN") {
        return Ok(token.trim_end_matches(['\r', '\n']).to_owned());
    }
    if let Ok(secret) = env::var("WOLFSCALE_CLUSTER_SECRET") {
        return Ok(derive(secret.trim_end_matches(['\r', '\n'])));
    }
    bail!("no token: pass --secret-file /etc/wolfscale/secret, or --token-file FILE")
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn derive(secret: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(LABEL);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
