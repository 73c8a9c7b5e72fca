//! What the KV stores, each struct frozen.

use rkyv::{Archive, Deserialize, Serialize};

use crate::store::codec::Stored;

/// A key's value.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
pub struct PairV1 {
    /// The value.
    pub value: Vec<u8>,
    /// The LSN of the command that last set it.
    pub revision: u64,
    /// The LSN of the command that made it, since it was last absent.
    pub created: u64,
    /// The lease that it goes with; zero for none.
    pub lease: u64,
}

impl Stored for PairV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV pair";
}

/// A lease.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
pub struct LeaseV1 {
    /// How long it lasts without a sign of life, in milliseconds.
    pub ttl_ms: u64,
    /// When it expires, in log time.
    pub expires_ms: u64,
    /// How many keys go with it.
    pub keys: u32,
}

impl Stored for LeaseV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV lease";
}

/// A change of a key.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug)]
pub struct EventV1 {
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; `None` if it was removed.
    pub value: Option<Vec<u8>>,
    /// The lease that it goes with, or went with; zero for none.
    pub lease: u64,
    /// Its revision before; zero if it was absent.
    pub previous: u64,
}

impl Stored for EventV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV event";
}

/// Log time and the number of leases.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug, Default)]
pub struct KvClockV1 {
    /// The highest proposer's time so far, in milliseconds since 1970.
    pub now_ms: u64,
    /// How many leases there are.
    pub leases: u64,
}

impl Stored for KvClockV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "log time of the KV";
}

/// What the history holds.
#[derive(Archive, Serialize, Deserialize, PartialEq, Clone, Debug, Default)]
pub struct HistoryV1 {
    /// The newest LSN of which events were forgotten; zero for none.
    pub compacted: u64,
    /// The number of the last forgotten event of that LSN.
    pub compacted_index: u32,
    /// How many events are kept.
    pub events: u64,
    /// How many bytes they take.
    pub bytes: u64,
}

impl Stored for HistoryV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV history";
}
