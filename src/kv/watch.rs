//! Watching: the history from a revision on, then what is applied, as it is applied.

use super::reader::{EventPage, HistoryError, KeyRange, KvReader};
use crate::{
    log::watermark::{Stopped, Watermark},
    types::Lsn,
};

/// What changes in a range of keys, in the order of the log, each change once.
///
/// A watcher that is too slow hears [`HistoryError::Compacted`], never a gap.
pub struct Watch {
    reader: KvReader,
    applied: Watermark,
    range: KeyRange,
    next: (Lsn, u32),
}

/// Why a watch ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The history cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The node is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Watch {
    /// Watches from revision `from` on; from now on if it is zero.
    pub fn new(reader: KvReader, applied: Watermark, range: KeyRange, from: Lsn) -> Self {
        let from = if from == Lsn::ZERO { applied.at().next() } else { from };
        Self { reader, applied, range, next: (from, 0) }
    }

    /// The revision that it goes on from: all changes below it were delivered.
    pub fn from(&self) -> Lsn {
        self.next.0
    }

    /// Waits for the next changes. Cancel safe: what it did not return comes again.
    pub async fn next(&mut self) -> Result<EventPage, WatchError> {
        loop {
            let to = self.applied.reached(self.next.0).await?;
            let page = self.reader.events(&self.range, self.next, to)?;
            self.next = page.next;
            if !page.events.is_empty() {
                return Ok(page);
            }
        }
    }
}
