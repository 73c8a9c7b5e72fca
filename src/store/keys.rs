//! Every space and key of every database, on one screen. Integers are big-endian.
//!
//! | database | space | key | value | written by |
//! | --- | --- | --- | --- | --- |
//! | log | `01` entries | lsn u64 | [`EntryV1`](crate::log::entry::EntryV1) | `log/` |
//! | log | `03` term runs | first lsn u64 | `TermRunV1` (number, leader, lineage) | `log/` |
//! | log | `04` configurations | lsn u64 | empty: a `Config` or `Fork` entry is at that LSN | `log/` |
//! | log | `02` log meta | a name below | its struct | `log/`, `cluster/` |
//! | state | `10` applied | `applied` | `AppliedV1` (lsn, chain) | `apply/` |
//! | state | `11` sessions | session [16] | reserved | `apply/` |
//! | state | `20` GTIDs | domain u32, seq u64 | `DbPlaceV1` (server, first and last LSN, term) | `db/` |
//! | state | `21` formats | lsn u64 | empty: a binlog format entry is at that LSN | `db/` |
//! | state | `22` db meta | `tail` | `DbPlaceV1` | `db/` |
//! | log | `22` db meta | `ddl-fence`, `needs-migration`, `error-log` | its struct; survives a rebuilt state | `db/` |
//! | state | `30`–`3f` | reserved | replicated KV | `kv/` |
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
/// GTID → place in the log.
pub const DB_GTIDS: Space = Space(0x20);
/// LSNs of binlog format entries.
pub const DB_FORMATS: Space = Space(0x21);
/// Small facts about the local database.
pub const DB_META: Space = Space(0x22);

/// In [`LOG_META`]: the promise and the current term.
pub const HARD_STATE: &[u8] = b"hard-state";
/// In [`LOG_META`]: the commit index last heard of; a hint that saves waiting after a restart.
pub const COMMITTED: &[u8] = b"committed";
/// In [`APPLIED`]: the last applied entry.
pub const APPLIED_AT: &[u8] = b"applied";
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
