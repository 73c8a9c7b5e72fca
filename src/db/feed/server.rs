//! The listener: who may connect, and who is connected.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tracing::{debug, warn};

use super::{FeedGate, session};
use crate::{
    db::{gtid::Gtid, index::DbIndex},
    log::{EntrySource, watermark::Watermark},
    tasks::{OnEnd, Tasks},
};

/// How many replicas and consumers may be connected at once.
pub const CONNECTIONS_MAX: usize = 64;
/// After a failed accept (out of file descriptors, most likely).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How the feed is reached, and by whom.
#[derive(Clone)]
pub struct FeedSettings {
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// Who may replicate.
    pub user: String,
    /// With that password.
    pub password: String,
    /// The feed's server ID, used by no database.
    pub server_id: u32,
}

/// A connected replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Its server ID.
    pub server_id: u32,
    /// The GTID that it started behind; `None` for the log's beginning.
    pub started_at: Option<Gtid>,
    /// The newest GTID that was sent to it.
    pub last_sent: Option<Gtid>,
}

/// The replicas that are being served, by connection.
pub type Replicas = BTreeMap<u32, ReplicaStatus>;

/// The feed of one node, bound but not serving yet.
pub struct FeedServer {
    settings: FeedSettings,
    listener: TcpListener,
    local_addr: SocketAddr,
}

/// A feed that serves, until the node stops.
#[derive(Clone, Debug)]
pub struct FeedHandle {
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// Who is connected.
    pub status: watch::Receiver<Replicas>,
}

/// What every session needs.
pub(super) struct Context {
    pub settings: FeedSettings,
    pub index: DbIndex,
    pub source: Arc<dyn EntrySource>,
    pub applied: Watermark,
    pub gate: Arc<dyn FeedGate>,
    pub replicas: watch::Sender<Replicas>,
}

impl FeedServer {
    /// Takes the address.
    pub async fn bind(settings: FeedSettings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self { settings, listener, local_addr })
    }

    /// Serves what is applied: `index` must show at least the transactions up to `applied`.
    pub fn start(
        self,
        index: DbIndex,
        source: Arc<dyn EntrySource>,
        applied: Watermark,
        gate: Arc<dyn FeedGate>,
        tasks: &Tasks,
    ) -> FeedHandle {
        let (replicas, status) = watch::channel(Replicas::new());
        let handle = FeedHandle { local_addr: self.local_addr, status };
        let settings = self.settings;
        let context = Arc::new(Context { settings, index, source, applied, gate, replicas });
        let accepting = accept(self.listener, context, tasks.clone());
        tasks.spawn("db feed", OnEnd::StopNode, accepting);
        handle
    }
}

async fn accept(listener: TcpListener, context: Arc<Context>, tasks: Tasks) {
    let stopping = tasks.stopping();
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = AtomicU32::new(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a replica");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(seat) = seats.clone().try_acquire_owned() else {
            warn!(%peer, CONNECTIONS_MAX, "too many replicas");
            continue;
        };
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let (context, stopping) = (context.clone(), stopping.clone());
        tasks.spawn("db feed session", OnEnd::Ignore, async move {
            let _seat = seat;
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                () = serve(stream, peer, context, number) => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, context: Arc<Context>, number: u32) {
    let ended = session::run(stream, context, number).await;
    match ended {
        Ok(()) => debug!(%peer, "replica left"),
        Err(error) if error.is_ordinary() => debug!(%peer, %error, "replica is gone"),
        Err(error) => warn!(%peer, %error, "session with a replica ended"),
    }
}
