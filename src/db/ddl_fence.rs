//! Small durable facts about the local database: the DDL that is being fed, why it must be migrated,
//! and where its server writes its error log, to be read when the server does not start.
//!
//! MariaDB's DDL and its replica position are not atomic: killed between the two, a replica comes
//! back with the change made and the position before it, or with a group of its own in its binlog.
//! So a DDL is fed alone, after its predecessors are applied, and recorded here *before* it is fed.
//! If the server was restarted since and its position is before the fence, nobody knows whether the
//! change was made: for now the node must be migrated.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::gtid::Gtid;
use crate::{
    store::{
        Batch, Engine, StoreError,
        codec::{self, Compress, Stored},
        keys,
    },
    types::Lsn,
};

/// Commits a batch of the state store durably, through whatever owns its commits; blocking.
pub type CommitDurably = Arc<dyn Fn(Batch) -> Result<(), StoreError> + Send + Sync>;

/// A DDL that was fed, and is not known to be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Its GTID.
    pub gtid: Gtid,
    /// LSN of its entry.
    pub lsn: Lsn,
    /// When it was recorded, to compare with the start of the server.
    pub raised: SystemTime,
}

impl Fence {
    /// A fence that is raised now.
    pub fn now(gtid: Gtid, lsn: Lsn) -> Self {
        Self { gtid, lsn, raised: SystemTime::now() }
    }
}

/// The records. Cheap to clone.
#[derive(Clone)]
pub struct DbRecords {
    state: Arc<dyn Engine>,
    commit: CommitDurably,
}

impl std::fmt::Debug for DbRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DbRecords")
    }
}

impl DbRecords {
    /// Reads from the state store, and writes through `commit`.
    pub fn new(state: Arc<dyn Engine>, commit: CommitDurably) -> Self {
        Self { state, commit }
    }

    /// Records a DDL durably. Only then may it be fed. Blocking.
    pub fn raise_fence(&self, fence: &Fence) -> Result<(), StoreError> {
        let raised = fence.raised.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let stored = DdlFenceV1 {
            domain: fence.gtid.domain,
            server: fence.gtid.server,
            sequence: fence.gtid.sequence,
            lsn: fence.lsn.0,
            raised_unix_ms: u64::try_from(raised.as_millis()).unwrap_or(u64::MAX),
        };
        self.put(keys::DDL_FENCE, codec::encode(&stored, Compress::Never))
    }

    /// The fence that stands.
    pub fn fence(&self) -> Result<Option<Fence>, StoreError> {
        let Some(bytes) = self.state.get(keys::DB_META, keys::DDL_FENCE)? else { return Ok(None) };
        let stored: DdlFenceV1 = codec::decode(&bytes)?;
        Ok(Some(Fence {
            gtid: Gtid { domain: stored.domain, server: stored.server, sequence: stored.sequence },
            lsn: Lsn(stored.lsn),
            raised: UNIX_EPOCH + Duration::from_millis(stored.raised_unix_ms),
        }))
    }

    /// The DDL is known to be applied. Blocking.
    pub fn clear_fence(&self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.delete(keys::DB_META, keys::DDL_FENCE);
        (self.commit)(batch)
    }

    /// Why the database must be migrated, if it must.
    pub fn needs_migration(&self) -> Result<Option<String>, StoreError> {
        let bytes = self.state.get(keys::DB_META, keys::NEEDS_MIGRATION)?;
        Ok(bytes.map(|b| codec::decode::<NeedsMigrationV1>(&b)).transpose()?.map(|m| m.reason))
    }

    /// Records that the database must be migrated; the first reason is kept. Blocking.
    pub fn mark_needs_migration(&self, reason: &str) -> Result<(), StoreError> {
        if self.needs_migration()?.is_some() {
            return Ok(());
        }
        let stored = NeedsMigrationV1 { reason: reason.to_owned() };
        self.put(keys::NEEDS_MIGRATION, codec::encode(&stored, Compress::WherePays))
    }

    /// The database was rebuilt: both records are void. Blocking.
    pub fn migrated(&self) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.delete(keys::DB_META, keys::NEEDS_MIGRATION);
        batch.delete(keys::DB_META, keys::DDL_FENCE);
        (self.commit)(batch)
    }

    /// Where the server writes its error log, as it last said.
    pub fn error_log(&self) -> Result<Option<PathBuf>, StoreError> {
        let bytes = self.state.get(keys::DB_META, keys::ERROR_LOG)?;
        Ok(bytes.map(|b| codec::decode::<ErrorLogV1>(&b)).transpose()?.map(|log| log.path.into()))
    }

    /// Records where the server writes its error log. Blocking.
    pub fn note_error_log(&self, path: &Path) -> Result<(), StoreError> {
        if self.error_log()?.as_deref() == Some(path) {
            return Ok(());
        }
        let stored = ErrorLogV1 { path: path.to_string_lossy().into_owned() };
        self.put(keys::ERROR_LOG, codec::encode(&stored, Compress::Never))
    }

    fn put(&self, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(keys::DB_META, key, Bytes::from(value));
        (self.commit)(batch)
    }
}

/// The stored form of [`Fence`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct DdlFenceV1 {
    /// GTID domain.
    pub domain: u32,
    /// GTID server.
    pub server: u32,
    /// GTID sequence.
    pub sequence: u64,
    /// LSN of the entry.
    pub lsn: u64,
    /// When it was raised, in milliseconds since 1970.
    pub raised_unix_ms: u64,
}

impl Stored for DdlFenceV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "ddl fence";
}

/// Why the database must be migrated, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct NeedsMigrationV1 {
    /// For the operator.
    pub reason: String,
}

impl Stored for NeedsMigrationV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "migration mark";
}

/// Where the server writes its error log, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct ErrorLogV1 {
    /// Its path on this machine.
    pub path: String,
}

impl Stored for ErrorLogV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "error log";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, MemoryEngine};

    fn records() -> DbRecords {
        let engine = Arc::new(MemoryEngine::new());
        let writer = engine.clone();
        DbRecords::new(engine, Arc::new(move |b| writer.commit(b, Durability::Durable)))
    }

    #[test]
    fn a_fence_stands_until_it_is_cleared() {
        let records = records();
        assert_eq!(records.fence().expect("reads"), None);
        records.raise_fence(&Fence::now("0-2-9".parse().expect("valid"), Lsn(77))).expect("writes");
        let stands = records.fence().expect("reads").expect("stands");
        assert_eq!((stands.gtid.to_string(), stands.lsn), ("0-2-9".into(), Lsn(77)));
        records.clear_fence().expect("writes");
        assert_eq!(records.fence().expect("reads"), None);
    }

    #[test]
    fn the_first_reason_for_a_migration_is_kept() {
        let records = records();
        records.mark_needs_migration("first").expect("writes");
        records.mark_needs_migration("second").expect("writes");
        assert_eq!(records.needs_migration().expect("reads").as_deref(), Some("first"));
        records.migrated().expect("writes");
        assert_eq!(records.needs_migration().expect("reads"), None);
    }

    #[test]
    fn the_newest_place_of_the_error_log_is_kept() {
        let records = records();
        assert_eq!(records.error_log().expect("reads"), None);
        for path in ["/old/error.log", "/new/error.log"].map(Path::new) {
            records.note_error_log(path).expect("writes");
            assert_eq!(records.error_log().expect("reads").as_deref(), Some(path));
        }
    }
}
