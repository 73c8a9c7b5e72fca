//! Leases: when one ends, its keys are removed by the same command.
//!
//! *Log time* is the highest proposer's time of all KV commands that bring one; it never goes back.
//! What is due by it ends before a command acts. A keep-alive of [`TICK`], which names no lease,
//! does that alone: the leader proposes it when a lease is due.

use bytes::Bytes;

use super::{
    command::LeaseId,
    limits::{KEY_BYTES_MAX, LEASE_KEYS_MAX, LEASE_TTL_MS, LEASES_MAX},
    machine::Change,
    outcome::{KvOutcome, KvRefusal},
    record::{KvClockV1, LeaseV1},
};
use crate::store::{StoreError, keys};

/// No lease has this ID; stored, it means *none*.
pub const TICK: LeaseId = LeaseId(0);
/// How many rows are looked at in one step.
const STEP: usize = 256;

/// Moves log time on and ends the leases that are due; returns log time.
pub(super) fn advance(change: &mut Change<'_, '_>, now_ms: u64) -> Result<u64, StoreError> {
    let mut clock = clock(change)?;
    if now_ms > clock.now_ms {
        clock.now_ms = now_ms;
        change.state.store(keys::KV_META, keys::CLOCK, &clock);
    }
    let (from, to) = (keys::deadline(0, &[]), keys::deadline(clock.now_ms.saturating_add(1), &[]));
    loop {
        let due = change.state.scan(keys::KV_LEASE_DEADLINES, &from, &to, STEP)?;
        if due.is_empty() {
            return Ok(clock.now_ms);
        }
        for (key, _) in due {
            change.state.delete(keys::KV_LEASE_DEADLINES, &key[..]);
            let lease = keys::deadline_of(&key).and_then(|(_, lease)| lease.try_into().ok());
            if let Some(lease) = lease.map(u64::from_be_bytes) {
                end(change, LeaseId(lease))?;
            }
        }
    }
}

/// Opens a lease. One that is there already with that time to live was opened by the same request:
/// its time begins anew.
pub(super) fn grant(
    change: &mut Change<'_, '_>,
    lease: LeaseId,
    ttl_ms: u64,
    now_ms: u64,
) -> Result<KvOutcome, StoreError> {
    if lease == TICK {
        return Ok(KvOutcome::Refused(KvRefusal::LeaseUnknown));
    }
    let ttl_ms = ttl_ms.clamp(*LEASE_TTL_MS.start(), *LEASE_TTL_MS.end());
    match load(change, lease)? {
        Some(known) if known.ttl_ms == ttl_ms => return keep_alive(change, lease, now_ms),
        Some(_) => return Ok(KvOutcome::Refused(KvRefusal::LeaseExists)),
        None => {}
    }
    let mut clock = clock(change)?;
    if clock.leases >= LEASES_MAX {
        return Ok(KvOutcome::Refused(KvRefusal::TooManyLeases));
    }
    clock.leases += 1;
    change.state.store(keys::KV_META, keys::CLOCK, &clock);
    let expires_ms = now_ms.saturating_add(ttl_ms);
    store(change, lease, &LeaseV1 { ttl_ms, expires_ms, keys: 0 });
    change.state.put(keys::KV_LEASE_DEADLINES, due(expires_ms, lease), Bytes::new());
    Ok(KvOutcome::LeaseAlive { expires_ms })
}

/// Begins a lease's time anew.
pub(super) fn keep_alive(
    change: &mut Change<'_, '_>,
    lease: LeaseId,
    now_ms: u64,
) -> Result<KvOutcome, StoreError> {
    if lease == TICK {
        return Ok(KvOutcome::Ticked);
    }
    let Some(mut record) = load(change, lease)? else {
        return Ok(KvOutcome::Refused(KvRefusal::LeaseUnknown));
    };
    change.state.delete(keys::KV_LEASE_DEADLINES, due(record.expires_ms, lease));
    record.expires_ms = now_ms.saturating_add(record.ttl_ms);
    store(change, lease, &record);
    let expires_ms = record.expires_ms;
    change.state.put(keys::KV_LEASE_DEADLINES, due(expires_ms, lease), Bytes::new());
    Ok(KvOutcome::LeaseAlive { expires_ms })
}

/// Ends a lease and removes its keys; absent is fine.
pub(super) fn end(change: &mut Change<'_, '_>, lease: LeaseId) -> Result<KvOutcome, StoreError> {
    let Some(record) = load(change, lease)? else { return Ok(KvOutcome::LeaseEnded { keys: 0 }) };
    let from = keys::lease_key(lease.0, &[]);
    let to = keys::lease_key(lease.0, &[0xff; KEY_BYTES_MAX + 1]);
    let listed = change.state.scan(keys::KV_LEASE_KEYS, &from, &to, usize::MAX)?;
    debug_assert_eq!(listed.len(), record.keys as usize, "a lease counts its keys");
    for (key, _) in &listed {
        change.remove(&key[from.len()..])?;
    }
    change.state.delete(keys::KV_LEASES, lease.0.to_be_bytes());
    change.state.delete(keys::KV_LEASE_DEADLINES, due(record.expires_ms, lease));
    let mut clock = clock(change)?;
    clock.leases = clock.leases.saturating_sub(1);
    change.state.store(keys::KV_META, keys::CLOCK, &clock);
    Ok(KvOutcome::LeaseEnded { keys: record.keys })
}

/// Puts a key under a lease, or says why not.
pub(super) fn attach(
    change: &mut Change<'_, '_>,
    lease: u64,
    key: &[u8],
) -> Result<Option<KvRefusal>, StoreError> {
    if lease == TICK.0 {
        return Ok(None);
    }
    let Some(mut record) = load(change, LeaseId(lease))? else {
        return Ok(Some(KvRefusal::LeaseUnknown));
    };
    if record.keys >= LEASE_KEYS_MAX {
        return Ok(Some(KvRefusal::LeaseFull));
    }
    record.keys += 1;
    store(change, LeaseId(lease), &record);
    change.state.put(keys::KV_LEASE_KEYS, keys::lease_key(lease, key), Bytes::new());
    Ok(None)
}

/// Takes a key from the lease that it goes with, if any.
pub(super) fn detach(
    change: &mut Change<'_, '_>,
    lease: u64,
    key: &[u8],
) -> Result<(), StoreError> {
    if let Some(mut record) = load(change, LeaseId(lease))? {
        record.keys = record.keys.saturating_sub(1);
        store(change, LeaseId(lease), &record);
        change.state.delete(keys::KV_LEASE_KEYS, keys::lease_key(lease, key));
    }
    Ok(())
}

fn load(change: &Change<'_, '_>, lease: LeaseId) -> Result<Option<LeaseV1>, StoreError> {
    change.state.load(keys::KV_LEASES, &lease.0.to_be_bytes())
}

fn store(change: &mut Change<'_, '_>, lease: LeaseId, record: &LeaseV1) {
    change.state.store(keys::KV_LEASES, lease.0.to_be_bytes(), record);
}

fn clock(change: &Change<'_, '_>) -> Result<KvClockV1, StoreError> {
    Ok(change.state.load(keys::KV_META, keys::CLOCK)?.unwrap_or_default())
}

fn due(expires_ms: u64, lease: LeaseId) -> Vec<u8> {
    keys::deadline(expires_ms, &lease.0.to_be_bytes())
}
