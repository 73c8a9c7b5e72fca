//! Why a stream ends, and what the replica is told.

use std::io;

use crate::{
    db::{
        gtid::Gtid,
        protocol::{packet::WireError, server, value::Malformed},
    },
    store::{StoreError, codec::CodecError},
    types::Lsn,
};

/// ER_MASTER_FATAL_ERROR_READING_BINLOG: the replica stops instead of connecting again.
const FATAL_TO_REPLICA: u16 = 1236;

/// Why a stream ended. Nothing happened to the log or the node in any case.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The connection broke, or what came is no protocol.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The replica said goodbye.
    #[error("the replica left")]
    Left,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// The replica has a transaction that the cluster has not: a stray of its own.
    #[error("GTID {0} is not in the cluster log")]
    NotInLog(Gtid),
    /// The replica lacks what the founders' databases held before the log began.
    #[error(
        "the cluster's log goes on from GTID {0}: copy a member's database first, then set \
         gtid_slave_pos to where the copy stands"
    )]
    BeforeBase(Gtid),
    /// What the replica needs is no longer here: it must be rebuilt from a snapshot.
    #[error("log entry {0} is no longer held by this node")]
    Trimmed(Lsn),
    /// The replica names a start that the feed does not have.
    #[error("{0}")]
    Start(&'static str),
    /// A read of the node's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry does not hold what it should.
    #[error("log entry {lsn}: {source}")]
    Command {
        /// Which.
        lsn: Lsn,
        /// What is wrong.
        source: CodecError,
    },
    /// The events in an entry are none.
    #[error("log entry {lsn}: {source}")]
    Events {
        /// Which.
        lsn: Lsn,
        /// What is wrong.
        source: Malformed,
    },
    /// The controller does not let a DDL pass. The replica connects again.
    #[error("fence of DDL {gtid}: {reason}")]
    Fence {
        /// Which.
        gtid: Gtid,
        /// Why.
        reason: String,
    },
    /// A background read panicked or was cancelled.
    #[error("a read of the log was cut short")]
    ReadLost,
}

impl From<io::Error> for FeedError {
    fn from(error: io::Error) -> Self {
        Self::Wire(error.into())
    }
}

impl FeedError {
    /// The payload that makes the replica stop, where connecting again cannot help.
    pub fn farewell(&self) -> Option<Vec<u8>> {
        match self {
            Self::NotInLog(_) | Self::BeforeBase(_) | Self::Trimmed(_) | Self::Start(_) => {
                Some(server::err(FATAL_TO_REPLICA, "HY000", &self.to_string()))
            }
            _ => None,
        }
    }

    /// Whether it is how conversations end.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Wire(WireError::Io(_)) | Self::Left | Self::Stopped)
    }
}
