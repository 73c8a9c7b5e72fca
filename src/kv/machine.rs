//! The KV's deterministic applier: a command and the state before it make the state after it.

use bytes::Bytes;

use super::{
    command::{KvCommand, LeaseId},
    history::{HISTORY, HistoryLimits, record},
    lease,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX},
    outcome::{KvOutcome, KvRefusal},
    record::{EventV1, PairV1},
};
use crate::{
    apply::{ApplyError, Command, StateMachine, View},
    log::entry::EntryKind,
    store::{StoreError, keys},
    types::Lsn,
};

/// Applies KV commands.
///
/// Invariants: a pair's revision is the LSN of the command that last set it; a lease counts exactly
/// the keys listed below it, and each of those pairs names it; every change of a pair is one event.
#[derive(Debug)]
pub struct KvMachine {
    history: HistoryLimits,
}

impl Default for KvMachine {
    fn default() -> Self {
        Self { history: HISTORY }
    }
}

impl KvMachine {
    /// One with another history than every node has: for tests.
    pub fn with_history(history: HistoryLimits) -> Self {
        Self { history }
    }
}

impl StateMachine for KvMachine {
    fn kind(&self) -> EntryKind {
        EntryKind::Kv
    }

    fn apply(&mut self, command: &Command, state: &mut View<'_>) -> Result<Bytes, ApplyError> {
        let lsn = command.at.lsn;
        let decoded = KvCommand::decode(&command.body);
        let decoded = decoded.map_err(|source| ApplyError::Command { lsn, source })?;
        let mut change = Change { state, lsn, events: 0, history: self.history };
        Ok(change.execute(decoded)?.encode().into())
    }
}

/// One command's change of the state.
pub(super) struct Change<'a, 'b> {
    pub state: &'a mut View<'b>,
    pub lsn: Lsn,
    events: u32,
    history: HistoryLimits,
}

impl Change<'_, '_> {
    fn execute(&mut self, command: KvCommand) -> Result<KvOutcome, StoreError> {
        match command {
            KvCommand::Put { key, value, lease } => self.set(&key, value, lease),
            KvCommand::Delete { key } => Ok(KvOutcome::Deleted { previous: self.remove(&key)? }),
            KvCommand::CompareAndSet { key, expected, value, lease } => {
                self.compare_and_set(&key, expected, value, lease)
            }
            KvCommand::LeaseGrant { lease, ttl_ms, now_ms } => {
                let now_ms = lease::advance(self, now_ms)?;
                lease::grant(self, lease, ttl_ms, now_ms)
            }
            KvCommand::LeaseKeepAlive { lease, now_ms } => {
                let now_ms = lease::advance(self, now_ms)?;
                lease::keep_alive(self, lease, now_ms)
            }
            KvCommand::LeaseRevoke { lease } => lease::end(self, lease),
        }
    }

    fn compare_and_set(
        &mut self,
        key: &Bytes,
        expected: Lsn,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<KvOutcome, StoreError> {
        let present = self.pair(key)?.map_or(Lsn::ZERO, |pair| Lsn(pair.revision));
        if present != expected {
            return Ok(KvOutcome::Conflict { present });
        }
        match value {
            Some(value) => self.set(key, value, lease),
            None => Ok(KvOutcome::Deleted { previous: self.remove(key)? }),
        }
    }

    fn set(
        &mut self,
        key: &Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
    ) -> Result<KvOutcome, StoreError> {
        if let Some(refusal) = invalid(key, &value) {
            return Ok(KvOutcome::Refused(refusal));
        }
        let before = self.pair(key)?;
        let had = before.as_ref().map_or(0, |pair| pair.lease);
        let gets = lease.map_or(0, |lease| lease.0);
        if had != gets {
            if let Some(refusal) = lease::attach(self, gets, key)? {
                return Ok(KvOutcome::Refused(refusal));
            }
            lease::detach(self, had, key)?;
        }
        let previous = before.as_ref().map_or(0, |pair| pair.revision);
        let created = before.map_or(self.lsn.0, |pair| pair.created);
        let pair = PairV1 { value: value.to_vec(), revision: self.lsn.0, created, lease: gets };
        self.state.store(keys::KV_PAIRS, &key[..], &pair);
        let event = EventV1 { key: key.to_vec(), value: Some(pair.value), lease: gets, previous };
        self.record(&event)?;
        Ok(KvOutcome::Put { previous: Lsn(previous) })
    }

    /// Removes a key; its revision before, zero if it was absent.
    pub fn remove(&mut self, key: &[u8]) -> Result<Lsn, StoreError> {
        let Some(pair) = self.pair(key)? else { return Ok(Lsn::ZERO) };
        lease::detach(self, pair.lease, key)?;
        self.state.delete(keys::KV_PAIRS, key);
        let (lease, previous) = (pair.lease, pair.revision);
        self.record(&EventV1 { key: key.to_vec(), value: None, lease, previous })?;
        Ok(Lsn(previous))
    }

    fn pair(&self, key: &[u8]) -> Result<Option<PairV1>, StoreError> {
        self.state.load(keys::KV_PAIRS, key)
    }

    fn record(&mut self, event: &EventV1) -> Result<(), StoreError> {
        let index = self.events;
        self.events += 1;
        record(self.state, (self.lsn, index), event, self.history)
    }
}

/// Why a pair cannot be stored. Proposers refuse it before; a log may hold it all the same.
pub fn invalid(key: &[u8], value: &[u8]) -> Option<KvRefusal> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Some(KvRefusal::KeyInvalid);
    }
    (value.len() > VALUE_BYTES_MAX).then_some(KvRefusal::ValueTooLarge)
}

#[cfg(test)]
mod tests;
