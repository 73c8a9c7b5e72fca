//! [`Engine`] on sled 0.34.7. What sled does not give is added here; nothing else names sled.
//!
//! - **Durable means our fdatasync.** sled's `flush` ends in `sync_file_range`, which promises
//!   nothing after a power cut. A durable commit is `apply_batch`, `flush`, then `fdatasync` of
//!   sled's `db` file, all under one lock, so that nobody is told "durable" by another's sync.
//! - **No blob files.** Messages over a quarter of a segment go to files of their own, which sled
//!   does not sync. Segments of 16 MiB and values of at most [`VALUE_BYTES_MAX`] keep all inline.
//! - **One tree.** The space is the first byte of the key, so a batch is atomic across spaces.
//! - **A failed write is the end.** After it the engine refuses every commit; reads go on.
//! - **Panics are caught.** sled panics on damaged files; that becomes [`StoreError::Damaged`].
//!
//! `flush_async` is never used: several at a time deadlock sled's thread pool.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io,
    ops::RangeBounds,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Batch, Change, Direction, Durability, Engine, Reclaimed, Rows, Space, StoreError,
    engine::check_values,
};

/// sled's segments: the largest it takes, so that no value becomes a blob file.
const SEGMENT_BYTES: usize = 16 << 20;
/// Sled's background thread writes back and collects garbage this often; durability is not its job.
const FLUSH_EVERY_MS: u64 = 500;
/// sled's log file within its directory: what has to reach the disk.
const LOG_FILE: &str = "db";
/// Exists once the files of a new database, `conf` above all, are known to be on disk.
const SETTLED_FILE: &str = "settled";
/// How long to wait for another holder of the database to let go.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_WAIT_STEP: Duration = Duration::from_millis(10);
/// How much a snapshot copies in one batch.
const COPY_BYTES: usize = 1 << 20;

/// What may be chosen about a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SledOptions {
    /// The page cache to aim at, in bytes. sled takes it as a hint: it was seen to hold 8 times as
    /// much.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20 }
    }
}

/// A sled database as an [`Engine`].
pub struct SledEngine {
    path: PathBuf,
    options: SledOptions,
    db: sled::Db,
    /// Held for reading by scans and for writing while a batch is applied: a scan sees all of a
    /// batch or nothing of it.
    batches: RwLock<()>,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    log_file: File,
    /// Something was applied that no fdatasync covers yet.
    unsynced: bool,
    /// Why no commit is taken any more.
    failed: Option<String>,
}

impl SledEngine {
    /// Opens the database in the directory `path`, creating it if it is absent. Blocks for up to
    /// five seconds while somebody else has it open.
    pub fn open(path: impl Into<PathBuf>, options: SledOptions) -> Result<Self, StoreError> {
        let path = path.into();
        let damaged = |what: String| StoreError::Damaged { path: path.clone(), what };
        let failed = |what: String| StoreError::ReadFailed { path: path.clone(), what };
        fs::create_dir_all(&path).map_err(|e| failed(e.to_string()))?;
        let config = sled::Config::new()
            .path(&path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = match catch_unwind(AssertUnwindSafe(|| open_unlocked(&config))) {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(e))) => return Err(failed(e.to_string())),
            Ok(Err(e)) => return Err(damaged(e.to_string())),
            Err(panic) => return Err(damaged(panic_text(&*panic))),
        };
        settle(&db, &path)
            .map_err(|e| StoreError::WriteFailed { path: path.clone(), what: e.to_string() })?;
        let log_file = File::open(path.join(LOG_FILE)).map_err(|e| failed(e.to_string()))?;
        // What recovery wrote, or a process before this one left in the page cache, counts too.
        let writer = Writer { log_file, unsynced: true, failed: None };
        Ok(Self { path, options, db, batches: RwLock::new(()), writer: Mutex::new(writer) })
    }

    /// The database's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match &writer.failed {
            Some(what) => Err(self.write_failed(format!("an earlier write failed: {what}"))),
            None => Ok(writer),
        }
    }

    /// Runs a step of a commit; if it fails, the engine takes no further one.
    fn step<T>(
        &self,
        writer: &mut Writer,
        step: impl FnOnce(&mut Writer) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let what = match catch_unwind(AssertUnwindSafe(|| step(writer))) {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(e)) => e.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        writer.failed = Some(what.clone());
        Err(self.write_failed(what))
    }

    fn apply(&self, writer: &mut Writer, batch: Batch) -> Result<(), StoreError> {
        let changes = self.resolve(batch)?;
        if changes.is_empty() {
            return Ok(());
        }
        let mut resolved = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => resolved.insert(key, &value[..]),
                None => resolved.remove(key),
            }
        }
        writer.unsynced = true;
        self.step(writer, |_| {
            let _alone = self.batches.write().unwrap_or_else(PoisonError::into_inner);
            self.db.apply_batch(resolved).map_err(io_error)
        })
    }

    fn make_durable(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if !writer.unsynced {
            return Ok(());
        }
        self.step(writer, |writer| {
            self.db.flush().map_err(io_error)?;
            rustix::fs::fdatasync(&writer.log_file)?;
            writer.unsynced = false;
            Ok(())
        })
    }

    /// What the batch comes to for each key. A range costs memory for each key that it removes.
    fn resolve(&self, batch: Batch) -> Result<BTreeMap<Vec<u8>, Option<Bytes>>, StoreError> {
        let mut changes = BTreeMap::new();
        for change in batch.0 {
            match change {
                Change::Put(space, key, value) => {
                    changes.insert(full_key(space, &key), Some(value));
                }
                Change::Delete(space, key) => {
                    changes.insert(full_key(space, &key), None);
                }
                Change::DeleteRange(space, from, to) if from < to => {
                    let range = full_key(space, &from)..full_key(space, &to);
                    changes.range_mut(range.clone()).for_each(|(_, value)| *value = None);
                    changes.extend(self.keys(range)?.into_iter().map(|key| (key, None)));
                }
                Change::DeleteRange(..) => {}
            }
        }
        Ok(changes)
    }

    fn keys(&self, range: impl RangeBounds<Vec<u8>>) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read(|| self.db.range(range).keys().map(|key| Ok(key?.to_vec())).collect())
    }

    /// Runs a read; what sled says or panics with becomes an error.
    fn read<T>(&self, read: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
        let path = || self.path.clone();
        match catch_unwind(AssertUnwindSafe(read)) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(sled::Error::Io(e))) => {
                Err(StoreError::ReadFailed { path: path(), what: e.to_string() })
            }
            Ok(Err(e)) => Err(StoreError::Damaged { path: path(), what: e.to_string() }),
            Err(panic) => Err(StoreError::Damaged { path: path(), what: panic_text(&*panic) }),
        }
    }

    fn write_failed(&self, what: String) -> StoreError {
        StoreError::WriteFailed { path: self.path.clone(), what }
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.read(|| self.db.size_on_disk())
    }

    fn copy_to(&self, copy: &SledEngine) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut from = vec![];
        while let Some((key, value)) = self.read(|| self.db.range(from..).next().transpose())? {
            let [space, rest @ ..] = &key[..] else { break };
            batch.put(Space(*space), rest, Bytes::copy_from_slice(&value));
            bytes += key.len() + value.len();
            from = [&key[..], &[0]].concat();
            if bytes >= COPY_BYTES {
                copy.commit(std::mem::take(&mut batch), Durability::Volatile)?;
                bytes = 0;
            }
        }
        copy.commit(batch, Durability::Durable)
    }
}

/// Without its contents, which sled's own `Debug` prints in full.
impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SledEngine").field(&self.path).finish()
    }
}

impl Engine for SledEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.read(|| self.db.get(full_key(space, key)))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        if from >= to {
            return Ok(Rows::new());
        }
        let row = |row: sled::Result<(sled::IVec, sled::IVec)>| {
            row.map(|(k, v)| (Bytes::copy_from_slice(&k[1..]), Bytes::copy_from_slice(&v)))
        };
        self.read(|| {
            let _whole_batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
            let range = self.db.range(full_key(space, from)..full_key(space, to));
            match direction {
                Direction::Forward => range.take(limit).map(row).collect(),
                Direction::Backward => range.rev().take(limit).map(row).collect(),
            }
        })
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        check_values(&batch)?;
        let mut writer = self.writer()?;
        self.apply(&mut writer, batch)?;
        match durability {
            Durability::Durable => self.make_durable(&mut writer),
            Durability::Volatile => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.make_durable(&mut *self.writer()?)
    }

    /// Commits wait until the copy is done: sled has no consistent view of a past moment.
    fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        let refused = |what: String| StoreError::ReadFailed { path: to.into(), what };
        let occupied = match fs::read_dir(to) {
            Ok(mut files) => files.next().is_some(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(refused(e.to_string())),
        };
        if occupied {
            return Err(refused("the directory for the snapshot is not empty".to_owned()));
        }
        let _no_commits = self.writer()?;
        self.copy_to(&SledEngine::open(to, self.options)?)
    }

    /// sled reuses space in the background and never shrinks its file: this only syncs and measures.
    fn reclaim(&self) -> Result<Reclaimed, StoreError> {
        self.sync()?;
        let before_bytes = self.size_bytes()?;
        Ok(Reclaimed { before_bytes, after_bytes: self.size_bytes()? })
    }
}

/// Opens a database once nobody else has it open: for a moment after the last handle is dropped,
/// sled's threads still hold the lock, and a process that is being killed holds it to its end.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let started = Instant::now();
    loop {
        match config.open() {
            Err(e) if is_locked(&e) && started.elapsed() < LOCK_WAIT_MAX => {
                thread::sleep(LOCK_WAIT_STEP);
            }
            result => return result,
        }
    }
}

/// sled hides the error number in a text.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().starts_with("could not acquire lock"))
}

/// Makes a new database's files and their names durable, once: after a power cut sled's `conf`
/// was seen with no bytes in it.
fn settle(db: &sled::Db, path: &Path) -> io::Result<()> {
    if path.join(SETTLED_FILE).exists() {
        return Ok(());
    }
    db.flush().map_err(io_error)?;
    let directory = File::open(path)?;
    rustix::fs::syncfs(&directory)?;
    File::create(path.join(SETTLED_FILE))?.sync_all()?;
    directory.sync_all()?;
    match path.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn full_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[space.0], key].concat()
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("sled panicked: {}", text.as_deref().unwrap_or("no message"))
}
