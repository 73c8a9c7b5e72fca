//! The gRPC server of a node: one port for peers and people.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{auth::TokenCheck, service::AdminService};
use crate::{
    config::Secret,
    replicate::transport::grpc::{incoming, server_builder},
    server::{
        backend::{AdminBackend, Membership},
        status::NodeStatus,
    },
    wire::{self, admin_server::AdminServer},
};

/// The largest message of the admin API.
const ADMIN_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How long open calls may go on once the node stops.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// Fatal: the gRPC server is not there, or no more.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The compiled descriptors cannot be read.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server ended.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Admin (behind the token), health and reflection. More services are added to what it returns:
/// `routes(…)?.add_service(peers)`.
pub async fn routes(
    token: Secret,
    status: watch::Receiver<NodeStatus>,
    backend: Arc<dyn AdminBackend>,
    membership: Arc<dyn Membership>,
) -> Result<Routes, ServeError> {
    let admin = AdminServer::new(AdminService::new(status, backend, membership))
        .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(ADMIN_MESSAGE_BYTES_MAX);
    let admin = tonic::service::interceptor::InterceptedService::new(admin, TokenCheck::new(token));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("wolfscale.v1.Admin", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .build_v1()?;
    Ok(Routes::new(admin).add_service(health).add_service(reflection))
}

/// Serves until `stop`; then open calls have [`DRAIN_DEADLINE`] to end, and streams are cut.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let server = server_builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener), stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        served = server => Ok(served?),
        () = overdue => Ok(()),
    }
}
