//! Ceasing to be the leader's database: gracefully, or because the lead is lost.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    cut::cut_clients,
    executor::{Controller, DOMAIN, StepError},
    observation::{At, Part},
    observe::newest,
};
use crate::db::mariadb::{DbError, Session};

/// How long a graceful close of writes may take before they open again.
pub const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// How long a successor's first entry is awaited before the database is killed.
pub const SUCCESSOR_WAIT: Duration = Duration::from_secs(5);
/// How long what was acknowledged may take to end.
const SETTLE_WAIT: Duration = Duration::from_secs(3);
/// How long writes stay closed if nobody takes over.
pub(super) const HAND_OVER_WAIT: Duration = Duration::from_secs(10);
/// How often something that takes milliseconds is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

impl Controller {
    /// Closes writes while the lead is still ours, and waits until all that was committed is
    /// released. If that fails, writes are open as before.
    pub(super) async fn close_writes(&mut self) -> Result<(), StepError> {
        let Part::Leader { term, .. } = self.part.clone() else { return Ok(()) };
        match self.close_and_drain(CLOSE_WAIT).await {
            Ok(()) => {
                info!("writes are closed, and everything is released");
                self.part = Part::Leader { term, closed: true };
                (self.closed_at, self.hand_over_failed) = (Some(Instant::now()), false);
                Ok(())
            }
            Err(e) => {
                if let Err(reopen) = self.reopen().await {
                    warn!(error = %reopen, "cannot open writes again");
                }
                Err(e)
            }
        }
    }

    /// Nobody took over: writes open again.
    pub(super) async fn reopen(&mut self) -> Result<(), StepError> {
        if let Part::Leader { closed, .. } = &mut self.part {
            *closed = false;
            (self.closed_at, self.hand_over_failed) = (None, false);
            let mut session = self.db.session().await?;
            session.open_writes(self.settings.event_scheduler).await?;
        }
        Ok(())
    }

    /// After a graceful hand-over: capture ends; the next decision makes it follow.
    pub(super) async fn retire(&mut self) {
        self.inputs.capture.stop().await;
        self.become_follower();
    }

    /// The lead is lost. Clients are cut off first; what waits is acknowledged only if the log
    /// holds it; otherwise the database is killed, and cuts it off at its start as follower.
    pub(super) async fn lose(&mut self) -> Result<(), StepError> {
        match self.settle().await {
            Ok(()) => {
                info!("all that was committed is in the log; the database can follow");
                self.retire().await;
                Ok(())
            }
            Err(StepError::Store(e)) => Err(e.into()),
            Err(why) => {
                warn!(%why, "killing the database, to cut off what the cluster does not have");
                self.inputs.capture.stop().await;
                self.restart(&why.to_string()).await?;
                self.become_follower();
                Ok(())
            }
        }
    }

    /// At the node's stop: a database that leads is left read-only with everything released, or
    /// is killed and started as follower.
    pub(super) async fn retire_at_stop(&mut self) {
        let Part::Leader { closed, .. } = &self.part else { return };
        let clean = *closed || self.close_and_drain(SETTLE_WAIT).await.is_ok();
        self.inputs.capture.stop().await;
        if !clean && let Err(e) = self.restart("the node stops").await {
            warn!(error = %e, "the database still leads: kill it (-9) and start it as follower");
        }
        self.become_follower();
    }

    async fn settle(&mut self) -> Result<(), StepError> {
        let mut session = self.db.session().await?;
        if !cut_clients(&mut session, &self.settings.admin.user).await? {
            return Err(StepError::Moved("its clients cannot be cut off otherwise".into()));
        }
        self.await_successor().await?;
        let log = self.log_seen()?;
        match self.place(&log, newest(&session.positions(DOMAIN).await?.binlog))? {
            At::InLog(gtid) if session.waiting_commits().await? > 0 => {
                self.inputs.capture.ack_through(gtid).await?;
            }
            At::Start | At::InLog(_) => {}
            At::Ahead(gtid) | At::Errant(gtid) => {
                return Err(StepError::Moved(format!("the log does not hold {gtid}")));
            }
        }
        self.close_and_drain(SETTLE_WAIT).await
    }

    /// Waits until a newer term's first entry is released and everything before it is applied.
    async fn await_successor(&self) -> Result<(), StepError> {
        let Part::Leader { term, .. } = &self.part else { return Ok(()) };
        let deadline = Instant::now() + SUCCESSOR_WAIT;
        loop {
            let newer = self.inputs.role.borrow().term.as_ref().is_some_and(|now| now > term);
            if newer && self.log_seen()?.current {
                return Ok(());
            }
            look_again(deadline, "no successor showed").await?;
        }
    }

    /// Sets `read_only`, then waits until nothing waits and the binlog's end is in the log.
    async fn close_and_drain(&self, wait: Duration) -> Result<(), StepError> {
        let deadline = Instant::now() + wait;
        let mut session = self.db.session().await?;
        while !closed(&mut session).await? {
            look_again(deadline, "running commits do not end").await?;
        }
        loop {
            let waiting = session.waiting_commits().await?;
            let binlog = newest(&session.positions(DOMAIN).await?.binlog);
            let place = self.place(&self.log_seen()?, binlog)?;
            if waiting == 0 && matches!(place, At::Start | At::InLog(_)) {
                return Ok(());
            }
            look_again(deadline, "the log does not hold all that was committed").await?;
        }
    }

    fn become_follower(&mut self) {
        self.part = Part::Follower;
        self.part_run = None;
        self.closed_at = None;
    }
}

/// Closes writes; `false` if a commit is still under way.
async fn closed(session: &mut Session) -> Result<bool, DbError> {
    match session.close_writes().await {
        Ok(()) => Ok(true),
        Err(DbError::Refused { code: 1205, .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

async fn look_again(deadline: Instant, why: &str) -> Result<(), StepError> {
    if Instant::now() >= deadline {
        return Err(StepError::Moved(why.to_owned()));
    }
    tokio::time::sleep(LOOK_INTERVAL).await;
    Ok(())
}
