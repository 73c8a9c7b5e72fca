//! Finds a node that answers.

use std::{future::Future, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{cli::Cli, token, wire::admin_client::AdminClient};

/// A client that brings the token.
pub type Client = AdminClient<InterceptedService<Channel, Bearer>>;

/// Adds the token to each call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Whether a call may go to another node when its answer is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It changes nothing.
    NextNode,
    /// It may have happened: only a node that was not reached at all is passed over.
    Never,
    /// As `Never`; but a node that says that it did nothing is passed over too.
    IfRejected,
}

/// Calls the nodes in turn until one answers.
pub async fn ask<T, F, A>(cli: &Cli, retry: Retry, call: A) -> Result<T>
where
    A: Fn(Client) -> F,
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    ask_at(cli, &cli.endpoints, retry, call).await
}

/// As [`ask`], at these endpoints.
pub async fn ask_at<T, F, A>(cli: &Cli, endpoints: &[String], retry: Retry, call: A) -> Result<T>
where
    A: Fn(Client) -> F,
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let bearer = bearer(cli)?;
    let limit = cli.timeout;
    let mut failures = Vec::new();
    for endpoint in endpoints {
        let channel = match connect(endpoint, limit).await {
            Ok(channel) => channel,
            Err(error) => {
                failures.push(format!("{endpoint}: {error:#}"));
                continue;
            }
        };
        let client = AdminClient::with_interceptor(channel, bearer.clone());
        match tokio::time::timeout(limit, call(client)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) if retry == Retry::NextNode && passing(status.code()) => {
                failures.push(format!("{endpoint}: {}", status.message()));
            }
            Ok(Err(status)) if retry == Retry::IfRejected && status.code() == Code::Unavailable => {
                failures.push(format!("{endpoint}: {}", status.message()));
            }
            Ok(Err(status)) => return Err(refused(endpoint, &status)),
            Err(_) if retry == Retry::NextNode => {
                failures.push(format!("{endpoint}: no answer within {:?}", cli.timeout));
            }
            Err(_) => bail!(
                "{endpoint}: no answer within {:?}; it may have happened: look before you try again",
                cli.timeout
            ),
        }
    }
    Err(anyhow!(
        "no node answered; is one running, and is --endpoint its listen.grpc?\n  {}",
        failures.join("\n  ")
    ))
}

/// What each call brings.
pub fn bearer(cli: &Cli) -> Result<Bearer> {
    let token = format!("Bearer {}", token::token(cli)?);
    Ok(Bearer(token.parse().context("the token is not plain text")?))
}

/// A connection to a node.
pub async fn connect(endpoint: &str, limit: Duration) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .context("not an address: write HOST:PORT")?
        .connect_timeout(limit)
        .tcp_nodelay(true);
    match tokio::time::timeout(limit, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(anyhow::Error::new(error).context("cannot connect")),
        Err(_) => bail!("no connection within {} s", limit.as_secs()),
    }
}

/// Whether another node may do better.
fn passing(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn refused(endpoint: &str, status: &Status) -> anyhow::Error {
    let next = match status.code() {
        Code::Unauthenticated => "",
        Code::Unknown => "; it may have happened: look before you try again",
        Code::Unimplemented => "; the node runs another version: use its wolfctl",
        _ => "",
    };
    anyhow!("{endpoint}: {}{next}", status.message())
}
