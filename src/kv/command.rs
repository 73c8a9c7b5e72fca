//! What a KV entry of the log holds.
//!
//! A key's *revision* is the LSN of the command that last changed it; zero means absent. Leases are
//! judged by the proposer's time in the log, never by an applier's clock. Transactions of several
//! operations are left to the next version of the stored form.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    store::codec::{self, CodecError, Compress, Stored},
    types::Lsn,
};

/// A command of kind [`crate::log::entry::EntryKind::Kv`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KvCommand {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// The lease that it goes with, if any.
        lease: Option<LeaseId>,
    },
    /// Removes a key; absent is fine.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets or removes a key if its revision is the expected one.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// Its revision as the client knows it; zero: it must not exist.
        expected: Lsn,
        /// Its new value; `None` removes it.
        value: Option<Bytes>,
        /// The lease that it goes with, if any.
        lease: Option<LeaseId>,
    },
    /// Opens a lease: when it runs out, its keys are removed.
    LeaseGrant {
        /// Its ID, chosen by the proposer.
        lease: LeaseId,
        /// How long it lasts without a sign of life, in milliseconds.
        ttl_ms: u64,
        /// The proposer's time, in milliseconds since 1970.
        now_ms: u64,
    },
    /// Begins a lease's time anew.
    LeaseKeepAlive {
        /// The lease.
        lease: LeaseId,
        /// The proposer's time, in milliseconds since 1970.
        now_ms: u64,
    },
    /// Ends a lease and removes its keys; absent is fine.
    LeaseRevoke {
        /// The lease.
        lease: LeaseId,
    },
}

/// Names a lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(pub u64);

impl KvCommand {
    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&KvCommandV1::from(self), Compress::WherePays)
    }

    /// The command that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<KvCommandV1>(bytes).map(Self::from)
    }
}

/// The stored form of [`KvCommand`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum KvCommandV1 {
    /// Key, value, lease.
    Put(Vec<u8>, Vec<u8>, Option<u64>),
    /// Key.
    Delete(Vec<u8>),
    /// Key, expected revision, value, lease.
    CompareAndSet(Vec<u8>, u64, Option<Vec<u8>>, Option<u64>),
    /// Lease, time to live, now.
    LeaseGrant(u64, u64, u64),
    /// Lease, now.
    LeaseKeepAlive(u64, u64),
    /// Lease.
    LeaseRevoke(u64),
}

impl Stored for KvCommandV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV command";
}

impl From<&KvCommand> for KvCommandV1 {
    fn from(command: &KvCommand) -> Self {
        let lease_number = |lease: &Option<LeaseId>| lease.map(|lease| lease.0);
        match command {
            KvCommand::Put { key, value, lease } => {
                Self::Put(key.to_vec(), value.to_vec(), lease_number(lease))
            }
            KvCommand::Delete { key } => Self::Delete(key.to_vec()),
            KvCommand::CompareAndSet { key, expected, value, lease } => Self::CompareAndSet(
                key.to_vec(),
                expected.0,
                value.as_ref().map(|value| value.to_vec()),
                lease_number(lease),
            ),
            KvCommand::LeaseGrant { lease, ttl_ms, now_ms } => {
                Self::LeaseGrant(lease.0, *ttl_ms, *now_ms)
            }
            KvCommand::LeaseKeepAlive { lease, now_ms } => Self::LeaseKeepAlive(lease.0, *now_ms),
            KvCommand::LeaseRevoke { lease } => Self::LeaseRevoke(lease.0),
        }
    }
}

impl From<KvCommandV1> for KvCommand {
    fn from(stored: KvCommandV1) -> Self {
        match stored {
            KvCommandV1::Put(key, value, lease) => {
                Self::Put { key: key.into(), value: value.into(), lease: lease.map(LeaseId) }
            }
            KvCommandV1::Delete(key) => Self::Delete { key: key.into() },
            KvCommandV1::CompareAndSet(key, expected, value, lease) => Self::CompareAndSet {
                key: key.into(),
                expected: Lsn(expected),
                value: value.map(Bytes::from),
                lease: lease.map(LeaseId),
            },
            KvCommandV1::LeaseGrant(lease, ttl_ms, now_ms) => {
                Self::LeaseGrant { lease: LeaseId(lease), ttl_ms, now_ms }
            }
            KvCommandV1::LeaseKeepAlive(lease, now_ms) => {
                Self::LeaseKeepAlive { lease: LeaseId(lease), now_ms }
            }
            KvCommandV1::LeaseRevoke(lease) => Self::LeaseRevoke { lease: LeaseId(lease) },
        }
    }
}
