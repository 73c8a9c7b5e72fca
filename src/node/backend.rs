//! What the admin API can make this node do to its database and to the membership.

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    cluster::change::Change,
    db::{
        controller::{ControllerHandle, RebuiltError},
        mariadb::MariaDb,
        requirements::{self, Wanted},
    },
    replicate::{driver::Request, propose::ProposeError, replica::ChangeRefused},
    server::{
        backend::{
            AdminBackend, BackendError, ChangeFailed, Configured, Diagnosis, Membership, TakenBack,
        },
        status::NodeStatus,
    },
    types::{Lsn, NodeId},
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
        // Where nothing is wrong, a drop-in in other words is no news.
        let diff = match findings.is_empty() {
            true => String::new(),
            false => requirements::diff(&self.wanted),
        };
        let findings = findings.iter().map(requirements::Finding::advice).collect();
        Ok(Diagnosis { findings, diff })
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

/// Changes of the membership, through the local replica.
pub(super) struct LocalMembership {
    pub requests: mpsc::Sender<Request>,
    pub status: watch::Receiver<NodeStatus>,
}

#[tonic::async_trait]
impl Membership for LocalMembership {
    async fn change(&self, change: Change) -> Result<Lsn, ChangeFailed> {
        let (answer, decided) = oneshot::channel();
        if self.requests.send(Request::Change { change, answer }).await.is_err() {
            return Err(ChangeFailed::Elsewhere("this node is stopping".into()));
        }
        match decided.await.unwrap_or(Err(ProposeError::Indeterminate)) {
            Ok(released) => Ok(released.position.lsn),
            Err(ProposeError::Change(ChangeRefused::Invalid(error))) => {
                Err(ChangeFailed::Invalid(error.to_string()))
            }
            Err(ProposeError::NotLeader { leader }) => {
                Err(ChangeFailed::Elsewhere(self.who_leads(leader.as_ref())))
            }
            Err(ProposeError::Indeterminate) => {
                Err(ChangeFailed::Indeterminate(ProposeError::Indeterminate.to_string()))
            }
            Err(other) => Err(ChangeFailed::Elsewhere(other.to_string())),
        }
    }
}

impl LocalMembership {
    fn who_leads(&self, leader: Option<&NodeId>) -> String {
        let status = self.status.borrow();
        let member = leader.and_then(|id| status.members.iter().find(|m| m.id == *id));
        match member {
            Some(member) => {
                format!("this node does not lead; {} at {} does", member.id, member.address)
            }
            None => "this node does not lead, and knows nobody who does".to_owned(),
        }
    }
}
