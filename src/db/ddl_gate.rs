//! Feeding a DDL to the local database: alone, recorded first, and until it is applied.

use std::time::Duration;

use tokio::sync::Mutex;
use tracing::debug;

use super::{
    controller::GtidIndex,
    ddl_fence::{DbRecords, Fence},
    gtid::Gtid,
    mariadb::{DbError, MariaDb, Session},
};
use crate::{store::StoreError, types::Lsn};

/// How often the replica's position is looked at while a DDL is under way.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How many unused sequence numbers are looked past for a DDL's predecessor.
const GAP_MAX: u64 = 10_000;

/// Why a DDL cannot be fed now; the replica connects again.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Rejected: the local database cannot be asked how far it is.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The record or the index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// The fence of the local database's feed. Waiting in it may be dropped at any time.
pub struct DdlGate {
    db: MariaDb,
    server_id: u32,
    index: Box<dyn GtidIndex>,
    records: DbRecords,
    /// Kept between looks; at most one replica thread connects, so nobody queues here.
    session: Mutex<Option<Session>>,
}

impl DdlGate {
    /// For the local database with that server ID.
    pub fn new(db: MariaDb, server_id: u32, index: Box<dyn GtidIndex>, records: DbRecords) -> Self {
        Self { db, server_id, index, records, session: Mutex::new(None) }
    }

    /// Only the local database is fenced.
    pub fn covers(&self, server_id: u32) -> bool {
        server_id == self.server_id
    }

    /// Waits until the DDL's predecessors are applied, then records it durably.
    /// Cancel safe: a record without its DDL is lowered when the position passes it.
    pub async fn before_ddl(&self, gtid: Gtid, lsn: Lsn) -> Result<(), GateError> {
        let predecessor = self.predecessor(gtid)?;
        self.applied(gtid.domain, predecessor).await?;
        debug!(%gtid, "fencing a schema change");
        let records = self.records.clone();
        blocking(move || records.raise_fence(&Fence::now(gtid, lsn))).await
    }

    /// Waits until the DDL is applied, then lowers the fence. Cancel safe.
    pub async fn after_ddl(&self, gtid: Gtid) -> Result<(), GateError> {
        self.applied(gtid.domain, gtid.sequence).await?;
        let records = self.records.clone();
        blocking(move || match records.fence()? {
            Some(fence) if fence.gtid == gtid => records.clear_fence(),
            _ => Ok(()),
        })
        .await
    }

    /// The sequence before this one in the log; 0 if there is none.
    fn predecessor(&self, gtid: Gtid) -> Result<u64, StoreError> {
        let lowest = gtid.sequence.saturating_sub(GAP_MAX);
        for sequence in (lowest..gtid.sequence).rev() {
            if self.index.uses(gtid.domain, sequence)? {
                return Ok(sequence);
            }
        }
        Ok(0)
    }

    async fn applied(&self, domain: u32, sequence: u64) -> Result<(), GateError> {
        while self.position(domain).await? < sequence {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    async fn position(&self, domain: u32) -> Result<u64, DbError> {
        let mut kept = self.session.lock().await;
        // Taken out: a session that failed, or whose wait was dropped, is not used again.
        let mut session = match kept.take() {
            Some(session) => session,
            None => self.db.session().await?,
        };
        let positions = session.positions(domain).await?;
        *kept = Some(session);
        Ok(positions.replica.iter().map(|gtid| gtid.sequence).max().unwrap_or(0))
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<(), GateError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|_| GateError::Stopping)??)
}
