//! Every space and key of every database, on one screen. Integers are big-endian.
//!
//! | database | space | key | value | written by |
//! | --- | --- | --- | --- | --- |
//! | log | `01` entries | lsn u64 | [`EntryV1`](crate::log::entry::EntryV1) | `log/` |
//! | log | `03` term runs | first lsn u64 | `TermRunV1` (number, leader, lineage) | `log/` |
//! | log | `04` configurations | lsn u64 | empty: a `Config` or `Fork` entry is at that LSN | `log/` |
//! | log | `02` log meta | a name below | its struct | `log/`, `cluster/` |
//! | state | `10` applied | `applied` | `AppliedV1` (lsn, chain) | `apply/` |
//! | state | `11` sessions | session [16] | `SessionV1` (time to live, deadline, answered) | `apply/` |
//! | state | `12` answers | session [16], request u64 | `SessionAnswerV1` (lsn, result) | `apply/` |
//! | state | `13` session deadlines | log time u64, session [16] | empty | `apply/` |
//! | state | `14` session meta | `clock` | `SessionClockV1` (log time, sessions) | `apply/` |
//! | state | `20` GTIDs | domain u32, seq u64 | `DbPlaceV1` (server, first and last LSN, term) | `db/` |
//! | state | `21` formats | lsn u64 | empty: a binlog format entry is at that LSN | `db/` |
//! | state | `22` db meta | `tail` | `DbPlaceV1` | `db/` |
//! | log | `22` db meta | `ddl-fence`, `needs-migration`, `error-log` | its struct; survives a rebuilt state | `db/` |
//! | state | `30` pairs | the key | `PairV1` (value, revisions, lease) | `kv/` |
//! | state | `31` leases | lease u64 | `LeaseV1` (time to live, deadline, keys) | `kv/` |
//! | state | `32` keys of leases | lease u64, the key | empty | `kv/` |
//! | state | `33` lease deadlines | log time u64, lease u64 | empty | `kv/` |
//! | state | `34` history | lsn u64, index u32 | `EventV1` (key, value, lease, revision before) | `kv/` |
//! | state | `35` KV meta | `clock`, `history` | `KvClockV1`, `HistoryV1` (compacted, events, bytes) | `kv/` |
//! | state | `36`–`3f` | reserved | replicated KV | `kv/` |
//! | state | `40`–`4f` | reserved | disk metadata | `disk/` |
//! | state | `50` quarantine | reserved | suffixes that lost a merge | `cluster/` |
//! | chunks | `60`–`6f` | reserved | chunks and their counts | `chunk/` |

use super::Space;
use crate::types::Lsn;

/// Log entries by LSN.
pub const ENTRIES: Space = Space(0x01);
/// Hard state and watermarks of the log.
pub const LOG_META: Space = Space(0x02);
/// Where each term starts.
pub const TERM_RUNS: Space = Space(0x03);
/// LSNs of configuration and fork entries.
pub const CONFIGURATIONS: Space = Space(0x04);
/// How far the appliers have come.
pub const APPLIED: Space = Space(0x10);
/// Client sessions.
pub const SESSIONS: Space = Space(0x11);
/// Answers of executed requests that their clients have not confirmed.
pub const SESSION_ANSWERS: Space = Space(0x12);
/// When sessions expire.
pub const SESSION_DEADLINES: Space = Space(0x13);
/// Log time and the number of sessions.
pub const SESSION_META: Space = Space(0x14);
/// GTID → place in the log.
pub const DB_GTIDS: Space = Space(0x20);
/// LSNs of binlog format entries.
pub const DB_FORMATS: Space = Space(0x21);
/// Small facts about the local database.
pub const DB_META: Space = Space(0x22);

/// Keys and values of the replicated KV.
pub const KV_PAIRS: Space = Space(0x30);
/// Leases of the KV.
pub const KV_LEASES: Space = Space(0x31);
/// Which keys go with a lease.
pub const KV_LEASE_KEYS: Space = Space(0x32);
/// When leases expire.
pub const KV_LEASE_DEADLINES: Space = Space(0x33);
/// What changed in the KV, for watchers.
pub const KV_HISTORY: Space = Space(0x34);
/// Log time of the KV, and what its history holds.
pub const KV_META: Space = Space(0x35);

/// In [`LOG_META`]: the promise and the current term.
pub const HARD_STATE: &[u8] = b"hard-state";
/// In [`LOG_META`]: the commit index last heard of; a hint that saves waiting after a restart.
pub const COMMITTED: &[u8] = b"committed";
/// In [`APPLIED`]: the last applied entry.
pub const APPLIED_AT: &[u8] = b"applied";
/// In [`SESSION_META`] and [`KV_META`]: log time.
pub const CLOCK: &[u8] = b"clock";
/// In [`KV_META`]: what the history holds.
pub const HISTORY: &[u8] = b"history";
/// In [`DB_META`]: the newest database entry that was applied.
pub const DB_TAIL: &[u8] = b"tail";
/// In [`DB_META`]: a DDL that was fed and is not yet known to be applied.
pub const DDL_FENCE: &[u8] = b"ddl-fence";
/// In [`DB_META`]: why this node's database needs to be migrated, once it does.
pub const NEEDS_MIGRATION: &[u8] = b"needs-migration";
/// In [`DB_META`]: where the local server writes its error log.
pub const ERROR_LOG: &[u8] = b"error-log";

/// The key of an entry, and of anything else that is ordered by LSN alone.
pub fn lsn(lsn: Lsn) -> [u8; 8] {
    lsn.0.to_be_bytes()
}

/// The LSN in a key made by [`lsn`].
pub fn parse_lsn(key: &[u8]) -> Option<Lsn> {
    Some(Lsn(u64::from_be_bytes(key.try_into().ok()?)))
}

/// The key of a GTID; GTIDs of a domain are in order of their sequence.
pub fn gtid(domain: u32, sequence: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&domain.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The key of a session's answer; the answers of a session are in order of their requests.
pub fn session_answer(session: [u8; 16], number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&session);
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The key of a deadline: log time in milliseconds, then what is due.
pub fn deadline(at_ms: u64, what: &[u8]) -> Vec<u8> {
    [&at_ms.to_be_bytes(), what].concat()
}

/// The parts of a key made by [`deadline`].
pub fn deadline_of(key: &[u8]) -> Option<(u64, &[u8])> {
    let (at_ms, what) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at_ms), what))
}

/// A key below a number: a key of a lease.
pub fn lease_key(lease: u64, key: &[u8]) -> Vec<u8> {
    [&lease.to_be_bytes(), key].concat()
}

/// The key of an event: events are in order of the log, then of their number in its command.
pub fn event(lsn: Lsn, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&lsn.0.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The parts of a key made by [`event`].
pub fn parse_event(key: &[u8]) -> Option<(Lsn, u32)> {
    let (lsn, index) = key.split_first_chunk::<8>()?;
    Some((Lsn(u64::from_be_bytes(*lsn)), u32::from_be_bytes(index.try_into().ok()?)))
}
