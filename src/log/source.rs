//! Reading entries back, from any thread.

use std::sync::Arc;

use super::entry::Entry;
use crate::{store::StoreError, types::Lsn};

/// Where appliers and peers' catch-up read the log.
pub trait EntrySource: Send + Sync + 'static {
    /// The entries `from..=to`, in order, stopping once their weight passes `bytes_max`; never
    /// empty if `from` is held and `from <= to`. Empty if `from` is trimmed or not yet there.
    fn read(&self, from: Lsn, to: Lsn, bytes_max: usize) -> Result<Vec<Arc<Entry>>, StoreError>;
}
