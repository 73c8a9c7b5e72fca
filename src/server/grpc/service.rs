//! The admin service: shows the published status, passes actions on.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    server::{
        backend::{AdminBackend, Membership},
        status::NodeStatus,
    },
    wire::{self, admin_server::Admin},
};

/// Answers the admin API.
pub struct AdminService {
    status: watch::Receiver<NodeStatus>,
    backend: Arc<dyn AdminBackend>,
    membership: Arc<dyn Membership>,
}

impl AdminService {
    /// Shows `status`, acts through `backend` and `membership`.
    pub fn new(
        status: watch::Receiver<NodeStatus>,
        backend: Arc<dyn AdminBackend>,
        membership: Arc<dyn Membership>,
    ) -> Self {
        Self { status, backend, membership }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_status(
        &self,
        _: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::GetStatusResponse>, Status> {
        Ok(Response::new(convert::status(&self.status.borrow())))
    }

    async fn list_servers(
        &self,
        _: Request<wire::ListServersRequest>,
    ) -> Result<Response<wire::ListServersResponse>, Status> {
        let status = self.status.borrow();
        let servers = convert::servers(&status);
        Ok(Response::new(wire::ListServersResponse { servers, answered_by: status.id.to_string() }))
    }

    async fn diagnose_database(
        &self,
        _: Request<wire::DiagnoseDatabaseRequest>,
    ) -> Result<Response<wire::DiagnoseDatabaseResponse>, Status> {
        let diagnosis = self.backend.diagnose_database().await?;
        Ok(Response::new(wire::DiagnoseDatabaseResponse {
            findings: diagnosis.findings,
            diff: diagnosis.diff,
        }))
    }

    async fn configure_database(
        &self,
        request: Request<wire::ConfigureDatabaseRequest>,
    ) -> Result<Response<wire::ConfigureDatabaseResponse>, Status> {
        let done = self.backend.configure_database(request.into_inner().dry_run).await?;
        Ok(Response::new(wire::ConfigureDatabaseResponse {
            diff: done.diff,
            written: done.written,
            path: done.path.display().to_string(),
            restart_needed: done.restart_needed,
        }))
    }

    async fn change_membership(
        &self,
        request: Request<wire::ChangeMembershipRequest>,
    ) -> Result<Response<wire::ChangeMembershipResponse>, Status> {
        let change = convert::change(request.into_inner())?;
        let lsn = self.membership.change(change).await?;
        Ok(Response::new(wire::ChangeMembershipResponse { lsn: lsn.0 }))
    }

    async fn take_database_back(
        &self,
        _: Request<wire::TakeDatabaseBackRequest>,
    ) -> Result<Response<wire::TakeDatabaseBackResponse>, Status> {
        let taken = self.backend.take_database_back().await?;
        Ok(Response::new(wire::TakeDatabaseBackResponse {
            reason: taken.reason,
            position: taken.position,
        }))
    }
}
