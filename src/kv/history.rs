//! The bounded history of changes, for those who watch.

use super::{
    limits::{HISTORY_BYTES_MAX, HISTORY_EVENTS_MAX},
    record::{EventV1, HistoryV1},
};
use crate::{
    apply::View,
    store::{
        StoreError,
        codec::{self, Compress},
        keys,
    },
    types::Lsn,
};

/// How much history is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryLimits {
    /// Events.
    pub events: u64,
    /// Bytes of events, as they are stored.
    pub bytes: u64,
}

/// What every node keeps.
pub const HISTORY: HistoryLimits =
    HistoryLimits { events: HISTORY_EVENTS_MAX, bytes: HISTORY_BYTES_MAX };

/// Adds an event and forgets the oldest over the limits. The LSN of a forgotten event counts as
/// compacted, whole: a watcher must not see half of what one command did.
pub(super) fn record(
    state: &mut View<'_>,
    (lsn, index): (Lsn, u32),
    event: &EventV1,
    limits: HistoryLimits,
) -> Result<(), StoreError> {
    let mut held: HistoryV1 = state.load(keys::KV_META, keys::HISTORY)?.unwrap_or_default();
    let sealed = codec::encode(event, Compress::WherePays);
    held.events += 1;
    held.bytes += sealed.len() as u64;
    state.put(keys::KV_HISTORY, keys::event(lsn, index), sealed);
    while held.events > limits.events || held.bytes > limits.bytes {
        let from = keys::event(Lsn(held.compacted), held.compacted_index.saturating_add(1));
        let to = keys::event(Lsn(u64::MAX), u32::MAX);
        let Some((key, oldest)) = state.scan(keys::KV_HISTORY, &from, &to, 1)?.pop() else { break };
        held.events -= 1;
        held.bytes -= oldest.len() as u64;
        if let Some((lsn, index)) = keys::parse_event(&key) {
            (held.compacted, held.compacted_index) = (lsn.0, index);
        }
        state.delete(keys::KV_HISTORY, key);
    }
    state.store(keys::KV_META, keys::HISTORY, &held);
    Ok(())
}
