//! How much of everything. Those marked *applied* decide what a command in the log does: another
//! number is another meaning, so it needs a new version of the command.

use std::ops::RangeInclusive;

/// The longest key, in bytes (applied).
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value, in bytes (applied): with its key it fits one stored value.
pub const VALUE_BYTES_MAX: usize = 60 * 1024;
/// How many keys may go with one lease (applied): all are removed by one command.
pub const LEASE_KEYS_MAX: u32 = 10_000;
/// How many leases there may be (applied).
pub const LEASES_MAX: u64 = 100_000;
/// The bounds of a lease's time to live, in milliseconds (applied); others are moved to the nearest.
pub const LEASE_TTL_MS: RangeInclusive<u64> = 1_000..=86_400_000;
/// How many events the history keeps (applied).
pub const HISTORY_EVENTS_MAX: u64 = 65_536;
/// How many bytes of events the history keeps (applied).
pub const HISTORY_BYTES_MAX: u64 = 64 << 20;
/// How many pairs one answer to a range holds.
pub const RANGE_PAIRS_MAX: usize = 1_000;
/// About how many bytes one answer to a range or of a watch holds.
pub const PAGE_BYTES_MAX: usize = 1 << 20;
/// How many requests may wait on a node.
pub const REQUESTS_WAITING_MAX: usize = 4_096;
/// How many watches may be open on a node.
pub const WATCHES_MAX: usize = 1_024;
