//! The leader moves log time on when a lease or a session is due: all nodes then end it at the same
//! entry.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{command::KvCommand, error::KvError, front::KvFront, lease::TICK};
use crate::{apply::sessions::SessionCommand, clock, store::StoreError};

/// How often the deadlines are looked at: the most that an end is late, beside the log's own time.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A session that nobody has: closing it only moves log time on.
const NOBODY: [u8; 16] = [0; 16];

/// Proposes what is due while this node leads, until it is stopped.
pub async fn run(front: KvFront, stop: CancellationToken) {
    let role = front.role();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !role.borrow().leads() {
            continue;
        }
        match tick(&front).await {
            Ok(Ok(())) => {}
            // The next leader sees the same deadlines.
            Ok(Err(error)) => debug!(%error, "log time was not moved on"),
            Err(error) => warn!(%error, "the deadlines cannot be read"),
        }
    }
}

async fn tick(front: &KvFront) -> Result<Result<(), KvError>, StoreError> {
    let now_ms = clock::unix_ms();
    if front.reader().lease_due(now_ms)? {
        let tick = KvCommand::LeaseKeepAlive { lease: TICK, now_ms };
        if let Err(error) = front.execute(&tick, None).await {
            return Ok(Err(error));
        }
    }
    if front.reader().session_due(now_ms)? {
        let close = SessionCommand::Close { session: NOBODY, now_ms };
        if let Err(error) = front.session(close).await {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
