//! What the rest of the program asks of an embedded store, and nothing more.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// A key space within one database: the first byte of every key. All are listed in `keys.rs`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Space(pub u8);

/// The largest value, in bytes. Above it sled would make blob files, which a power cut loses.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// What must be true when [`Engine::commit`] returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Survives a power cut (fdatasync'ed), and so does everything committed before.
    Durable,
    /// Visible to readers; may be lost by a power cut, or when the process is killed, until the
    /// next [`Engine::sync`] or durable commit: whole commits, the newest first.
    Volatile,
}

/// One change of a [`Batch`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Set a key.
    Put(Space, Vec<u8>, Bytes),
    /// Remove a key; absent is fine.
    Delete(Space, Vec<u8>),
    /// Remove all keys in `from..to`. Takes effect in order with its neighbours.
    DeleteRange(Space, Vec<u8>, Vec<u8>),
}

/// Changes that happen together or not at all, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch(pub Vec<Change>);

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.0.push(Change::Put(space, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, space: Space, key: impl Into<Vec<u8>>) {
        self.0.push(Change::Delete(space, key.into()));
    }

    /// Removes all keys in `from..to`.
    pub fn delete_range(&mut self, space: Space, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.0.push(Change::DeleteRange(space, from.into(), to.into()));
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends another batch's changes behind this one's.
    pub fn extend(&mut self, other: Batch) {
        self.0.extend(other.0);
    }
}

/// Which end a scan starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Lowest key first.
    Forward,
    /// Highest key first.
    Backward,
}

/// What [`Engine::reclaim`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reclaimed {
    /// Bytes on disk before.
    pub before_bytes: u64,
    /// Bytes on disk after.
    pub after_bytes: u64,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Rejected: the value was not written.
    #[error("value of {bytes} bytes in space {space:?} is over {VALUE_BYTES_MAX}")]
    ValueTooLarge {
        /// Where it was to go.
        space: Space,
        /// Its size.
        bytes: usize,
    },
    /// Fatal: bytes on disk are not what was written. Set the database aside and rebuild it.
    #[error("store {path}: damaged: {what}")]
    Damaged {
        /// The database's directory.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// Fatal: a write or a sync failed. It may or may not be on disk, so the node must stop:
    /// after a failed fsync the kernel may drop the pages and report success the next time.
    #[error("store {path}: write failed: {what}")]
    WriteFailed {
        /// The database's directory.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
    /// A read failed; nothing changed.
    #[error("store {path}: read failed: {what}")]
    ReadFailed {
        /// The database's directory.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
    /// A stored value does not decode.
    #[error(transparent)]
    Codec(#[from] super::codec::CodecError),
}

/// Refuses a batch with a value that is too large, before anything of it is written.
pub fn check_values(batch: &Batch) -> Result<(), StoreError> {
    batch.0.iter().try_for_each(|change| match change {
        Change::Put(space, _, value) if value.len() > VALUE_BYTES_MAX => {
            Err(StoreError::ValueTooLarge { space: *space, bytes: value.len() })
        }
        _ => Ok(()),
    })
}

/// Refuses a directory for a snapshot that has something in it.
pub(super) fn check_vacant(directory: &Path) -> Result<(), StoreError> {
    let what = match fs::read_dir(directory).map(|mut files| files.next().is_some()) {
        Ok(false) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(true) => "the directory for the snapshot is not empty".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(StoreError::ReadFailed { path: directory.to_owned(), what })
}

/// Keys and values received by a scan, in its order.
pub type Rows = Vec<(Bytes, Bytes)>;

/// An embedded key-value store with atomic batches across spaces.
///
/// Reads see every commit that returned. Only one thread commits (`log/writer.rs`), so an engine
/// may assume that commits do not overlap; reads come from any thread.
pub trait Engine: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` rows with keys in `from..to`.
    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Rows, StoreError>;

    /// Makes all changes of the batch, or none. An error of kind `WriteFailed` is fatal.
    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError>;

    /// Makes everything committed so far durable.
    fn sync(&self) -> Result<(), StoreError>;

    /// Writes a consistent copy into the empty or absent directory `to`, and syncs it.
    fn snapshot(&self, to: &Path) -> Result<(), StoreError>;

    /// Gives space back where the engine can.
    fn reclaim(&self) -> Result<Reclaimed, StoreError>;
}
