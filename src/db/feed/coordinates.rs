//! Binlog files and positions as replicas see them, computed from the log alone: the same on every
//! node and on every connection.
//!
//! ```text
//! entry n stands in file wolf-bin.(n / 16384 + 1), at 4 + (n mod 16384) × 64 KiB: 1 GiB a file
//! ```
//!
//! A transaction has the room of its entries. Events that unpack to more than that share its end,
//! so positions never go back, and never reach into the next transaction.

use crate::types::Lsn;

const FILE_PREFIX: &str = "wolf-bin";
const ENTRIES_PER_FILE: u64 = 1 << 14;
const ENTRY_ROOM: u64 = 1 << 16;
/// Behind the magic number of a binlog file.
const FILE_START: u64 = 4;

/// Where a transaction stands in the virtual binlog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coordinates {
    file: u64,
    start: u64,
    room: u64,
}

impl Coordinates {
    /// Those of a transaction in the entries `first..=last`.
    pub fn of(first: Lsn, last: Lsn) -> Self {
        Self {
            file: first.0 / ENTRIES_PER_FILE + 1,
            start: FILE_START + first.0 % ENTRIES_PER_FILE * ENTRY_ROOM,
            room: (last.0.saturating_sub(first.0) + 1) * ENTRY_ROOM,
        }
    }

    /// The number of its file.
    pub fn file(&self) -> u64 {
        self.file
    }

    /// Where it starts.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The `log_pos` of an event whose end is that many bytes into the transaction.
    pub fn log_pos(&self, offset: u64) -> u32 {
        let position = self.start + offset.min(self.room);
        u32::try_from(position).unwrap_or(u32::MAX)
    }
}

/// The name of a file.
pub fn file_name(file: u64) -> String {
    format!("{FILE_PREFIX}.{file:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_ascend_and_files_hold_a_gibibyte() {
        let one = Coordinates::of(Lsn(1), Lsn(2));
        assert_eq!((one.file(), one.start()), (1, 65_540));
        assert_eq!(one.log_pos(100), 65_640);
        let next = Coordinates::of(Lsn(3), Lsn(3));
        assert_eq!(
            u64::from(one.log_pos(u64::MAX / 2)),
            next.start(),
            "room ends where next starts"
        );
        let last = Coordinates::of(Lsn(ENTRIES_PER_FILE - 1), Lsn(ENTRIES_PER_FILE + 3));
        assert_eq!(last.file(), 1);
        assert!(last.log_pos(1 << 40) > 1 << 30, "the last transaction may reach over the end");
        let first = Coordinates::of(Lsn(ENTRIES_PER_FILE), Lsn(ENTRIES_PER_FILE));
        assert_eq!((first.file(), first.start()), (2, 4));
        assert_eq!(file_name(2), "wolf-bin.000002");
    }
}
