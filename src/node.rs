//! The composition root: builds the node out of its parts, runs it, stops it in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{Config, LogFormat},
    metrics,
    replicate::role::RoleView,
    server::{
        backend::{AdminBackend, NoDatabase},
        grpc::{self, ServeError},
        http::{self, Answers},
        status::{Liveness, Marks, MemberStatus, NodeStatus},
    },
    tasks::{OnEnd, Tasks},
    types::{Incarnation, Lsn, Position},
};

/// How long all tasks together may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Fatal: why the node does not run, or no more.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be had.
    #[error("{setting}: listen on {address}: {source}; is another node running here?")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// What it says.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The gRPC edge cannot be built.
    #[error(transparent)]
    Grpc(#[from] ServeError),
    /// The metrics' recorder cannot be made.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Signals cannot be caught.
    #[error("catch signals: {0}")]
    Signals(io::Error),
    /// A task failed without which the node must not go on.
    #[error("{0}")]
    Failed(String),
}

/// Runs the node until SIGTERM or SIGINT, or until it must not go on.
pub async fn run(config: Config) -> Result<(), NodeError> {
    trace(&config);
    let tasks = Tasks::default();
    let (status_tx, status) = watch::channel(before_start(&config));
    serve(&config, status, Arc::new(NoDatabase), &tasks).await?;
    info!(id = %config.node.id, grpc = %config.listen.grpc, http = %config.listen.http, "started");
    let signalled = stop_signal(&tasks).await;
    tasks.stop();
    if !tasks.ended(STOP_DEADLINE).await {
        warn!("some tasks did not end in time");
    }
    drop(status_tx);
    signalled?;
    tasks.failure().map_or(Ok(()), |reason| Err(NodeError::Failed(reason)))
}

/// Starts both edges.
async fn serve(
    config: &Config,
    status: watch::Receiver<NodeStatus>,
    backend: Arc<dyn AdminBackend>,
    tasks: &Tasks,
) -> Result<(), NodeError> {
    let handle = metrics::install()?;
    let answers = Answers::new(config.http.token.clone(), status.clone(), handle);
    let routes = grpc::routes(config.api.token.clone(), status, backend).await?;
    let grpc_listener = listen("listen.grpc", config.listen.grpc).await?;
    let http_listener = listen("listen.http", config.listen.http).await?;
    let stop = tasks.stopping();
    tasks.spawn("grpc server", OnEnd::StopNode, async move {
        if let Err(error) = grpc::serve(grpc_listener, routes, stop).await {
            error!(%error, "grpc server ended");
        }
    });
    tasks.spawn("http server", OnEnd::StopNode, http::serve(http_listener, answers, tasks.clone()));
    Ok(())
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, NodeError> {
    let failed = |source| NodeError::Listen { setting, address, source };
    TcpListener::bind(address).await.map_err(failed)
}

/// Waits for a signal, or for a task to stop the node.
async fn stop_signal(tasks: &Tasks) -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(NodeError::Signals)?;
    let stop = tasks.stopping();
    tokio::select! {
        _ = terminate.recv() => info!("stopping on SIGTERM"),
        _ = interrupt.recv() => info!("stopping on SIGINT"),
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Log lines on standard error. Twice in a process is harmless: the first stays.
fn trace(config: &Config) {
    let lines = fmt().with_env_filter(EnvFilter::new(&config.log.level)).with_writer(io::stderr);
    let set = match config.log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    if let Err(error) = set {
        warn!(%error, "log lines were set up before");
    }
}

/// The status before anything is known.
fn before_start(config: &Config) -> NodeStatus {
    let member = |member: &crate::config::Member| {
        let own = member.id == config.node.id;
        MemberStatus {
            id: member.id.clone(),
            address: member.address.clone(),
            liveness: if own { Liveness::Alive } else { Liveness::Dead },
            silent_ms: own.then_some(0),
            leads: false,
            durable: Lsn::ZERO,
            applied: Lsn::ZERO,
            eligible: false,
        }
    };
    NodeStatus {
        id: config.node.id.clone(),
        incarnation: Incarnation::default(),
        cluster: None,
        role: RoleView::nobody(),
        last: Position::default(),
        marks: Marks::default(),
        members: config.cluster.initial_members.iter().map(member).collect(),
        db: None,
        notices: Vec::new(),
    }
}
