//! Following: protecting the database, pointing it to the feed.

use tracing::{info, warn};

use super::{
    executor::{Controller, StepError},
    observe::blocking,
};
use crate::db::mariadb::Entrance;

impl Controller {
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
}
