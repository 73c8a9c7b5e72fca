//! What several of these commands show. Values that are no text are shown as hexadecimal digits.

use serde::Serialize;

use crate::{
    cli::Freshness,
    connect_kv::hex,
    wire::{KvApplied, KvConsistency, KvPair},
};

/// Bytes, as JSON shows them.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bytes {
    /// They are UTF-8.
    Text(String),
    /// They are not.
    Hex(String),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(hex(bytes)),
        }
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Hex(digits) => write!(f, "0x{digits}"),
        }
    }
}

/// A request that happened.
#[derive(Serialize)]
pub struct AppliedView {
    pub revision: u64,
    pub forced: bool,
    pub repeated: bool,
}

impl From<Option<KvApplied>> for AppliedView {
    fn from(applied: Option<KvApplied>) -> Self {
        let applied = applied.unwrap_or_default();
        let (forced, repeated) = (applied.forced, applied.repeated);
        Self { revision: applied.revision, forced, repeated }
    }
}

/// A key and its value.
#[derive(Serialize)]
pub struct PairView {
    pub key: Bytes,
    pub value: Bytes,
    pub revision: u64,
    pub created_revision: u64,
    pub lease_id: Option<u64>,
}

impl From<&KvPair> for PairView {
    fn from(pair: &KvPair) -> Self {
        Self {
            key: pair.key[..].into(),
            value: pair.value[..].into(),
            revision: pair.revision,
            created_revision: pair.created_revision,
            lease_id: (pair.lease_id != 0).then_some(pair.lease_id),
        }
    }
}

/// The consistency asked for, and the revision that must be seen.
pub fn consistency(freshness: &Freshness) -> (KvConsistency, u64) {
    match (freshness.stale, freshness.after) {
        (true, _) => (KvConsistency::Stale, 0),
        (false, Some(after)) => (KvConsistency::Session, after),
        (false, None) => (KvConsistency::Linearizable, 0),
    }
}
