//! Accepts HTTP connections, a bounded number of them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::{debug, warn};

use super::Answers;
use crate::tasks::{OnEnd, Tasks};

/// Connections that are served at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How long one connection is served; a scraper opens another.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(300);
/// The pause after a failed accept (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the tasks are stopped.
pub async fn serve(listener: TcpListener, answers: Answers, tasks: Tasks) {
    let stop = tasks.stopping();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Some((stream, slot)) => {
                let connection = connection(stream, answers.clone(), tasks.clone(), slot);
                tasks.spawn("http connection", OnEnd::Ignore, connection);
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            warn!(%error, "http connection not accepted");
            None
        }
    }
}

async fn connection(stream: TcpStream, answers: Answers, tasks: Tasks, slot: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answers.answer(request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(answer) }
    });
    let stop = tasks.stopping();
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        served = tokio::time::timeout(CONNECTION_DEADLINE, served) => {
            if let Ok(Err(error)) = served {
                debug!(%error, "http connection ended");
            }
        }
        () = stop.cancelled() => {}
    }
    drop(slot);
}
