//! Reading the KV's state: what this node has applied. How fresh that must be is the caller's to
//! await first.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    command::LeaseId,
    limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX},
    record::{EventV1, HistoryV1, LeaseV1, PairV1},
};
use crate::{
    apply::SessionAnswerV1,
    store::{Direction, Engine, Space, StoreError, codec, keys},
    types::{Lsn, RequestId},
};

/// How many events are looked at in one step.
const EVENTS_PER_STEP: usize = 512;

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The LSN of the command that last set it.
    pub revision: Lsn,
    /// The LSN of the command that made it, since it was last absent.
    pub created: Lsn,
    /// The lease that it goes with, if any.
    pub lease: Option<LeaseId>,
}

/// A change of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The LSN of the command that changed it.
    pub revision: Lsn,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` if it was removed.
    pub value: Option<Bytes>,
    /// The lease that it goes with, or went with, if any.
    pub lease: Option<LeaseId>,
    /// Its revision before; zero if it was absent.
    pub previous: Lsn,
}

/// Keys from `from` up to, not including, `to`; an empty `to` is the end of all keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyRange {
    /// The first key.
    pub from: Bytes,
    /// Behind the last key.
    pub to: Bytes,
}

impl KeyRange {
    /// All keys that begin so; all keys for an empty prefix.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut to = prefix.to_vec();
        while to.pop_if(|last| *last == u8::MAX).is_some() {}
        if let Some(last) = to.last_mut() {
            *last += 1;
        }
        Self { from: Bytes::copy_from_slice(prefix), to: to.into() }
    }

    /// Whether a key is among them.
    pub fn holds(&self, key: &[u8]) -> bool {
        *key >= self.from[..] && (self.to.is_empty() || *key < self.to[..])
    }
}

/// Events of the history, in the order of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPage {
    /// The events of the range asked for.
    pub events: Vec<Event>,
    /// Where to go on: this key of the history has not been looked at.
    pub next: (Lsn, u32),
}

/// Why the history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Rejected: what was asked for is forgotten.
    #[error(
        "the history before revision {first} is forgotten: read the keys, and watch from there"
    )]
    Compacted {
        /// The first revision that can be watched from.
        first: Lsn,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads a node's state store.
#[derive(Clone)]
pub struct KvReader(Arc<dyn Engine>);

impl KvReader {
    /// A reader of that state store.
    pub fn new(state: Arc<dyn Engine>) -> Self {
        Self(state)
    }

    /// A key's pair, if it is there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Pair>, StoreError> {
        let stored = self.0.get(keys::KV_PAIRS, key)?;
        stored.map(|stored| pair(Bytes::copy_from_slice(key), &stored)).transpose()
    }

    /// The pairs of a range, lowest key first, and where to go on if there are more: after `limit`
    /// pairs, or about [`PAGE_BYTES_MAX`]. A page is not a snapshot: keys that change meanwhile
    /// may be seen before or after it.
    pub fn range(
        &self,
        range: &KeyRange,
        limit: usize,
    ) -> Result<(Vec<Pair>, Option<Bytes>), StoreError> {
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        let end = [0xff; KEY_BYTES_MAX + 1];
        let to = if range.to.is_empty() { &end[..] } else { &range.to[..] };
        let mut from = range.from.to_vec();
        loop {
            let step = (limit + 1 - pairs.len()).min(64);
            let rows = self.0.scan(keys::KV_PAIRS, &from, to, Direction::Forward, step)?;
            let Some((last, _)) = rows.last() else { return Ok((pairs, None)) };
            from = [last, &[0][..]].concat();
            for (key, stored) in rows {
                if pairs.len() == limit || bytes >= PAGE_BYTES_MAX {
                    return Ok((pairs, Some(key)));
                }
                bytes += key.len() + stored.len();
                pairs.push(pair(key, &stored)?);
            }
        }
    }

    /// The lease's time to live and deadline in log time, in milliseconds, if it is there.
    pub fn lease(&self, lease: LeaseId) -> Result<Option<(u64, u64)>, StoreError> {
        let stored = self.0.get(keys::KV_LEASES, &lease.0.to_be_bytes())?;
        let stored = stored.map(|bytes| codec::decode::<LeaseV1>(&bytes)).transpose()?;
        Ok(stored.map(|lease| (lease.ttl_ms, lease.expires_ms)))
    }

    /// Events from `from` on, of commands up to `to`: about [`PAGE_BYTES_MAX`] of those in the range.
    pub fn events(
        &self,
        range: &KeyRange,
        from: (Lsn, u32),
        to: Lsn,
    ) -> Result<EventPage, HistoryError> {
        let (mut next, end) = (from, keys::event(to.next(), 0));
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES_MAX {
            let start = keys::event(next.0, next.1);
            let step = EVENTS_PER_STEP;
            let rows = self.0.scan(keys::KV_HISTORY, &start, &end, Direction::Forward, step)?;
            let whole = rows.len() < step;
            for (key, stored) in rows {
                let Some((lsn, index)) = keys::parse_event(&key) else { continue };
                let event = event(lsn, &stored)?;
                next = (lsn, index + 1);
                if range.holds(&event.key) {
                    bytes += stored.len() + event.key.len();
                    events.push(event);
                }
                if bytes >= PAGE_BYTES_MAX {
                    break;
                }
            }
            if whole && bytes < PAGE_BYTES_MAX {
                next = (to.next(), 0);
                break;
            }
        }
        // Looked at last, as the applier forgets while this reads.
        let compacted = self.compacted()?;
        if from.0 <= compacted {
            return Err(HistoryError::Compacted { first: compacted.next() });
        }
        Ok(EventPage { events, next })
    }

    /// The newest LSN of which events were forgotten.
    pub fn compacted(&self) -> Result<Lsn, StoreError> {
        let stored = self.0.get(keys::KV_META, keys::HISTORY)?;
        let held = stored.map(|bytes| codec::decode::<HistoryV1>(&bytes)).transpose()?;
        Ok(Lsn(held.map_or(0, |held| held.compacted)))
    }

    /// The answer of a request, if it is kept: where it was executed, and its sealed outcome.
    pub(super) fn answer(&self, request: RequestId) -> Result<Option<(Lsn, Bytes)>, StoreError> {
        let key = keys::session_answer(request.session, request.number);
        let stored = self.0.get(keys::SESSION_ANSWERS, &key)?;
        let stored = stored.map(|bytes| codec::decode::<SessionAnswerV1>(&bytes)).transpose()?;
        Ok(stored.map(|answer| (Lsn(answer.lsn), answer.result.into())))
    }

    /// Whether a lease is due at that time.
    pub(super) fn lease_due(&self, now_ms: u64) -> Result<bool, StoreError> {
        self.due(keys::KV_LEASE_DEADLINES, now_ms)
    }

    /// Whether a session is due at that time.
    pub(super) fn session_due(&self, now_ms: u64) -> Result<bool, StoreError> {
        self.due(keys::SESSION_DEADLINES, now_ms)
    }

    fn due(&self, space: Space, now_ms: u64) -> Result<bool, StoreError> {
        let to = keys::deadline(now_ms.saturating_add(1), &[]);
        let rows = self.0.scan(space, &keys::deadline(0, &[]), &to, Direction::Forward, 1)?;
        Ok(!rows.is_empty())
    }
}

fn pair(key: Bytes, stored: &[u8]) -> Result<Pair, StoreError> {
    let stored: PairV1 = codec::decode(stored)?;
    Ok(Pair {
        key,
        value: stored.value.into(),
        revision: Lsn(stored.revision),
        created: Lsn(stored.created),
        lease: lease(stored.lease),
    })
}

fn event(revision: Lsn, stored: &[u8]) -> Result<Event, StoreError> {
    let stored: EventV1 = codec::decode(stored)?;
    Ok(Event {
        revision,
        key: stored.key.into(),
        value: stored.value.map(Bytes::from),
        lease: lease(stored.lease),
        previous: Lsn(stored.previous),
    })
}

fn lease(stored: u64) -> Option<LeaseId> {
    (stored != 0).then_some(LeaseId(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range() {
        let range = |prefix: &[u8]| KeyRange::prefix(prefix).to.to_vec();
        assert_eq!(range(b"ab"), b"ac");
        assert_eq!(range(b"a\xff\xff"), b"b");
        assert_eq!(range(b"\xff"), b"", "the end of all keys");
        assert_eq!(range(b""), b"");
        let inside = KeyRange::prefix(b"ab");
        assert!(inside.holds(b"ab") && inside.holds(b"ab\xff\xff"));
        assert!(!inside.holds(b"ac") && !inside.holds(b"aa\xff"));
    }
}
