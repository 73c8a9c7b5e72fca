//! Following: starting the database, protecting it, pointing it to the feed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    executor::{Controller, DOMAIN, StepError},
    observe::{blocking, newest},
};
use crate::db::{
    control::{ControlError, StartRole},
    mariadb::Entrance,
};

/// How often a starting server is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a start may show no process before it counts as failed.
const NO_PROCESS_WAIT: Duration = Duration::from_secs(5);

impl Controller {
    /// Starts a database that does not run, as follower.
    pub(super) async fn launch(&mut self) -> Result<(), StepError> {
        self.start(StartRole::Follower).await
    }

    /// Kills it and starts it as follower, which cuts off what was not acknowledged. A server that
    /// refuses that ("unsafe statement") starts with its default role, and keeps the surplus.
    pub(super) async fn restart(&mut self, why: &str) -> Result<(), StepError> {
        warn!(why, "killing the database and starting it as follower");
        self.settings.control.kill().await?;
        let Err(e) = self.start(StartRole::Follower).await else { return Ok(()) };
        warn!(error = %e, "it does not start as follower; starting it with its default role");
        self.settings.control.kill().await?;
        self.start(StartRole::Default).await
    }

    pub(super) async fn migrate(&mut self, reason: String) -> Result<(), StepError> {
        warn!(reason, "the database needs migration");
        let records = self.inputs.records.clone();
        blocking(move || records.mark_needs_migration(&reason)).await?;
        // It must not apply on: what is on top of an error hides it.
        let mut session = self.db.session().await?;
        Ok(session.stop_replica().await?)
    }

    pub(super) async fn protect(&mut self) -> Result<(), StepError> {
        let mut session = self.db.session().await?;
        session.close_writes().await?;
        Ok(session.relax().await?)
    }

    pub(super) async fn follow(&mut self, entrance: Entrance) -> Result<(), StepError> {
        let mut session = self.db.session().await?;
        session.follow(&self.settings.feed, entrance).await?;
        info!(?entrance, "the database follows the local feed");
        Ok(())
    }

    pub(super) async fn start_replica(&mut self) -> Result<(), StepError> {
        self.replica.starts += 1;
        let mut session = self.db.session().await?;
        // Started with one thread still running, only the other one would start; stop both first,
        // so that the I/O thread fetches again what the other lost.
        session.stop_replica().await?;
        Ok(session.start_replica().await?)
    }

    async fn start(&mut self, role: StartRole) -> Result<(), StepError> {
        let mut launched = self.settings.control.start(role).await?;
        let begun = Instant::now();
        loop {
            if let Ok(mut session) = self.db.session().await {
                let positions = session.positions(DOMAIN).await?;
                // Whatever it still holds now, a start as follower did not rid it of.
                self.outlived_restart = newest(&positions.binlog);
                info!(?role, took = ?begun.elapsed(), "the database is up");
                return Ok(());
            }
            if let Some(e) = launched.failure() {
                return Err(e.into());
            }
            let gone = self.settings.control.is_running().await == Some(false);
            let after = if gone { NO_PROCESS_WAIT } else { self.settings.start_timeout };
            if begun.elapsed() > after {
                return Err(ControlError::Timeout { what: "start database", after }.into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}
