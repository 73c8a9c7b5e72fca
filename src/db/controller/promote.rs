//! Becoming the leader's database.

use tracing::info;

use super::{
    executor::{Controller, DOMAIN, StepError},
    observation::{At, Part},
    observe::newest,
};
use crate::{db::gtid::Gtid, types::Term};

impl Controller {
    /// Stops the replica, verifies the place once more, hardens, starts capture, opens writes.
    pub(super) async fn promote(
        &mut self,
        term: Term,
        after: Option<Gtid>,
    ) -> Result<(), StepError> {
        let mut session = self.db.session().await?;
        session.stop_replica().await?;
        let positions = session.positions(DOMAIN).await?;
        let log = self.log_seen()?;
        let stray =
            matches!(self.place(&log, newest(&positions.binlog))?, At::Ahead(_) | At::Errant(_));
        if stray || newest(&positions.replica) != after || log.tail != after {
            return Err(StepError::Moved("the database or the log moved meanwhile".into()));
        }
        session.harden().await?;
        if !session.commits_wait().await? {
            return Err(StepError::Moved("commits would not wait for the cluster".into()));
        }
        self.inputs.capture.start(term.clone(), after).await?;
        if !self.leads_in(&term) {
            self.inputs.capture.stop().await;
            return Err(StepError::Moved("the term ended meanwhile".into()));
        }
        // From here on it counts as leader, also if the answer to the next statement is lost.
        self.part = Part::Leader { term: term.clone(), closed: false };
        self.part_run = positions.run;
        self.resumes = 0;
        if let Err(e) = session.open_writes(self.settings.event_scheduler).await {
            let role = self.inputs.role.borrow().clone();
            self.ask_step_down(role, format!("cannot open writes: {e}"));
            return Err(e.into());
        }
        info!(%term, after = after.map(|g| g.to_string()), "the database takes writes");
        Ok(())
    }

    fn leads_in(&self, term: &Term) -> bool {
        let role = self.inputs.role.borrow();
        role.leads() && role.term.as_ref() == Some(term) && !role.handing_over
    }
}
