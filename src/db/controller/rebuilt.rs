//! Taking a database back that had to be rebuilt, on the operator's word and a look of our own.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::{
    decide::take_back,
    executor::{Controller, StepError},
    observation::{DbSeen, Observation},
    observe::{ReplicaProgress, blocking},
    start::FailedStarts,
};
use crate::db::mariadb::DbError;

/// How long the log may take to show all that is released.
const CURRENT_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A database that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Why it had to be rebuilt.
    pub reason: String,
    /// The position that it goes on from; empty for the beginning of the log.
    pub position: String,
}

/// Why a database was not taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuiltError {
    /// Rejected: it is as before. Says what to do.
    #[error("{0}")]
    Refused(String),
    /// Indeterminate: the controller has ended.
    #[error("the controller has ended")]
    Ended,
}

/// Refused by what was seen, or fatal.
pub(super) type Verdict = Result<Rebuilt, RebuiltError>;

impl Controller {
    /// The operator says that the database was replaced by a copy of another node's. If nothing
    /// that can be seen speaks against that, its marks are removed, and it follows again.
    pub(super) async fn take_back(&mut self) -> Result<Verdict, StepError> {
        let answers = matches!(self.observe().await?.db, DbSeen::Up(_));
        let looked = if answers { self.look_at_copy().await } else { Ok(String::new()) };
        let own_binlog = match looked {
            Ok(state) => state,
            Err(StepError::Db(e)) => return Ok(Err(RebuiltError::Refused(e.to_string()))),
            Err(e) => return Err(e),
        };
        let seen = self.observe_current().await?;
        let fence = self.inputs.records.fence()?.map(|fence| fence.gtid);
        let (reason, at) = match take_back(&seen, &own_binlog, fence) {
            Ok(taken) => taken,
            Err(why) => return Ok(Err(RebuiltError::Refused(why))),
        };
        let records = self.inputs.records.clone();
        blocking(move || records.migrated()).await?;
        (self.outlived_restart, self.failed_starts) = (None, FailedStarts::default());
        self.replica = ReplicaProgress::default();
        let position = at.map(|gtid| gtid.to_string()).unwrap_or_default();
        info!(reason, position, "a rebuilt database is taken back");
        Ok(Ok(Rebuilt { reason, position }))
    }

    /// On a busy cluster, what is applied is behind what is released for a moment, again and again.
    async fn observe_current(&mut self) -> Result<Observation, StepError> {
        let deadline = Instant::now() + CURRENT_WAIT;
        loop {
            let seen = self.observe().await?;
            if seen.log.current || Instant::now() >= deadline {
                return Ok(seen);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Makes it take no writes, and returns the state of its own binlog.
    async fn look_at_copy(&mut self) -> Result<String, StepError> {
        let mut session = self.db.session().await?;
        if session.waiting_commits().await? > 0 {
            let why = "commits wait in it: kill it (-9), and start it as follower";
            return Err(DbError::Unexpected { what: "look at the copy", found: why.into() }.into());
        }
        session.close_writes().await?;
        Ok(session.binlog_state().await?)
    }
}
