//! The KV through any node: a request is sent until it is answered, if it can be repeated.

use std::{
    fmt,
    future::Future,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use prost::Message as _;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use crate::{
    cli::{Cli, RequestId},
    commands::{EXIT_MAYBE, EXIT_NOT_SO},
    connect::{Bearer, bearer, connect},
    wire::{
        KvError, KvRequestId, KvSessionCloseRequest, KvSessionOpenRequest, KvStatusDetails,
        kv_client::KvClient, kv_error,
    },
};

/// A client of the KV that brings the token.
pub type Client = KvClient<InterceptedService<Channel, Bearer>>;

/// How long it waits before it asks all nodes again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a session lasts that is opened for one request.
const ONE_REQUEST_TTL_MS: u64 = 60_000;
const TYPE_URL: &str = "type.googleapis.com/wolfscale.v1.KvError";

/// What may be done with a call whose answer was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Send it again, to any node.
    Safe,
    /// Say that it may have happened.
    Never,
}

/// It may or may not have happened.
#[derive(Debug)]
pub struct Maybe(pub String);

impl fmt::Display for Maybe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it may or may not have happened: {}", self.0)
    }
}

impl std::error::Error for Maybe {}

/// The node says that it did not happen, and why.
#[derive(Debug)]
pub struct Refused(pub KvError);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if !self.0.leader_address.is_empty() {
            write!(f, " ({} leads, at {})", self.0.leader, self.0.leader_address)?;
        }
        Ok(())
    }
}

impl std::error::Error for Refused {}

/// The exit code that tells a failure from others.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<Maybe>().is_some() {
        return ExitCode::from(EXIT_MAYBE);
    }
    let code = error.downcast_ref::<Refused>().map(|refused| refused.0.code());
    match code {
        Some(
            kv_error::Code::LeaseUnknown
            | kv_error::Code::SessionUnknown
            | kv_error::Code::AnswerForgotten,
        ) => ExitCode::from(EXIT_NOT_SO),
        _ => ExitCode::FAILURE,
    }
}

/// The error in a status, if a node put one there.
pub fn details(status: &Status) -> Option<KvError> {
    let details = KvStatusDetails::decode(status.details()).ok()?;
    let detail = details.details.into_iter().find(|detail| detail.type_url == TYPE_URL)?;
    KvError::decode(&detail.value[..]).ok()
}

/// Calls the nodes in turn, and again, until one answers or the time is up.
pub async fn ask<T, F, A>(cli: &Cli, repeat: Repeat, call: A) -> Result<T>
where
    A: Fn(Client) -> F,
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let (bearer, deadline) = (bearer(cli)?, Instant::now() + cli.timeout);
    let mut maybe = None;
    let mut last = anyhow!("no node was asked");
    loop {
        for endpoint in &cli.endpoints {
            let left = deadline.saturating_duration_since(Instant::now());
            let channel = match connect(endpoint, left).await {
                Ok(channel) => channel,
                Err(error) => {
                    last = error.context(endpoint.clone());
                    continue;
                }
            };
            let client = KvClient::with_interceptor(channel, bearer.clone());
            let failed = match tokio::time::timeout(left, call(client)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => judge(endpoint, &status),
                Err(_) => Failed::Lost(format!("{endpoint}: no answer within {left:?}")),
            };
            match failed {
                Failed::Lost(what) if repeat == Repeat::Never => return Err(Maybe(what).into()),
                Failed::Lost(what) => maybe = Some(what),
                Failed::Passing(refused) => last = refused.into(),
                Failed::Final(refused) if maybe.is_some() && blind(&refused) => {
                    return Err(Maybe(refused.to_string()).into());
                }
                Failed::Final(refused) => return Err(refused.into()),
                Failed::Door(what) => return Err(anyhow!(what)),
            }
        }
        if Instant::now() + AGAIN_AFTER >= deadline {
            return Err(maybe.map_or(last, |what| Maybe(what).into()));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Whether the refusal leaves open what became of an earlier attempt.
fn blind(refused: &Refused) -> bool {
    matches!(refused.0.code(), kv_error::Code::SessionUnknown | kv_error::Code::AnswerForgotten)
}

/// What a failed attempt means.
enum Failed {
    /// It may have happened.
    Lost(String),
    /// It did not; it may go better later, or elsewhere.
    Passing(Refused),
    /// It did not, and trying again is in vain.
    Final(Refused),
    /// The node does not let us in.
    Door(String),
}

fn judge(endpoint: &str, status: &Status) -> Failed {
    match details(status) {
        Some(error) if error.happened() == kv_error::Happened::Maybe => {
            Failed::Lost(format!("{endpoint}: {}", error.message))
        }
        Some(error) if error.may_retry => Failed::Passing(Refused(error)),
        Some(error) => Failed::Final(Refused(error)),
        None => match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => {
                Failed::Door(format!("{endpoint}: {}", status.message()))
            }
            _ => Failed::Lost(format!("{endpoint}: {}", status.message())),
        },
    }
}

/// A request ID for one request: the caller's, or that of a session opened for it.
pub struct OneRequest {
    pub id: KvRequestId,
    opened: bool,
}

impl OneRequest {
    /// Takes the caller's session, or opens one.
    pub async fn begin(cli: &Cli, given: &RequestId) -> Result<Self> {
        if let (Some(session), Some(number)) = (&given.session, given.request) {
            let id = KvRequestId { session: unhex(session)?, number };
            return Ok(Self { id, opened: false });
        }
        let open = KvSessionOpenRequest { session: Vec::new(), ttl_ms: ONE_REQUEST_TTL_MS };
        let opened = ask(cli, Repeat::Safe, |mut client| {
            let open = open.clone();
            async move { client.session_open(open).await }
        });
        let id = KvRequestId { session: opened.await?.session, number: 1 };
        Ok(Self { id, opened: true })
    }

    /// The answer is here: a session that was opened for it is not needed any more.
    pub async fn end(self, cli: &Cli) {
        if self.opened {
            let close = KvSessionCloseRequest { session: self.id.session };
            // It ends by itself too.
            let _expires = ask(cli, Repeat::Never, |mut client| {
                let close = close.clone();
                async move { client.session_close(close).await }
            })
            .await;
        }
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    let wrong = || anyhow!("{text:?} is not an even number of hexadecimal digits");
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(wrong());
    }
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
    (0..text.len()).step_by(2).map(pair).collect()
}
