//! What the admin API can make this node do to its database.

use crate::{
    db::{
        controller::{ControllerHandle, RebuiltError},
        mariadb::MariaDb,
        requirements::{self, Wanted},
    },
    server::backend::{AdminBackend, BackendError, Configured, Diagnosis, TakenBack},
};

/// The actions on the local database.
pub(super) struct LocalBackend {
    pub db: MariaDb,
    pub wanted: Wanted,
    pub controller: ControllerHandle,
}

#[tonic::async_trait]
impl AdminBackend for LocalBackend {
    async fn diagnose_database(&self) -> Result<Diagnosis, BackendError> {
        let rejected = |e: &dyn std::fmt::Display| BackendError::Rejected(e.to_string());
        let mut session = self.db.session().await.map_err(|e| rejected(&e))?;
        let found = requirements::check(&mut session, &self.wanted).await;
        let findings = found.map_err(|e| rejected(&e))?;
        Ok(Diagnosis {
            findings: findings.iter().map(requirements::Finding::advice).collect(),
            diff: requirements::diff(&self.wanted),
        })
    }

    async fn configure_database(&self, dry_run: bool) -> Result<Configured, BackendError> {
        let diff = requirements::diff(&self.wanted);
        let path = self.wanted.drop_in.clone();
        let changed = !diff.is_empty();
        if changed && !dry_run {
            let wanted = self.wanted.clone();
            let written = tokio::task::spawn_blocking(move || requirements::write(&wanted)).await;
            let failed = |e: &dyn std::fmt::Display| {
                BackendError::Indeterminate(format!("write {}: {e}", path.display()))
            };
            written.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        }
        Ok(Configured { diff, written: changed && !dry_run, path, restart_needed: changed })
    }

    async fn take_database_back(&self) -> Result<TakenBack, BackendError> {
        let taken = self.controller.take_back().await.map_err(|e| match e {
            RebuiltError::Refused(why) => BackendError::NotReady(why),
            RebuiltError::Ended => BackendError::Indeterminate(e.to_string()),
        })?;
        Ok(TakenBack { reason: taken.reason, position: taken.position })
    }
}
