//! [`Engine`] on sled 0.34.7. What sled does not give is added here; nothing else names sled.
//!
//! - **Durable means our fdatasync.** sled's `flush` ends in `sync_file_range`, which promises
//!   nothing after a power cut. A durable commit is `apply_batch`, `flush`, then `fdatasync` of
//!   sled's `db` file, all under one lock, so that nobody is told "durable" by another's sync.
//! - **No blob files.** Messages over a quarter of a segment go to files of their own, which sled
//!   does not sync. Segments of 16 MiB and values of at most [`VALUE_BYTES_MAX`] keep all inline.
//! - **One tree.** The space is the first byte of the key, so a batch is atomic across spaces.
//! - **Volatile commits gather in memory** and reach sled as one batch, at the next sync or durable
//!   commit, or when they weigh [`PENDING_BYTES_MAX`]: each `apply_batch` costs two writes of the
//!   disk, each of which wakes all of sled's threads. Reads see them at once.
//! - **A failed write is the end.** After it the engine refuses every commit; reads go on.
//! - **Panics are caught.** sled panics on damaged files; that becomes [`StoreError::Damaged`].
//!
//! `flush_async` is never used: several at a time deadlock sled's thread pool.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io,
    ops::RangeBounds,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Batch, Change, Direction, Durability, Engine, Reclaimed, Rows, Space, StoreError,
    engine::{check_vacant, check_values},
};

/// sled's segments: the largest it takes, so that no value becomes a blob file.
const SEGMENT_BYTES: usize = 16 << 20;
/// sled's background thread writes back and collects garbage this often; durability is not its job.
const FLUSH_EVERY_MS: u64 = 500;
/// sled's log file within its directory: what has to reach the disk.
const LOG_FILE: &str = "db";
/// How long to wait for another holder of the database to let go.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_WAIT_STEP: Duration = Duration::from_millis(10);
/// Volatile changes go to sled once their keys and values weigh this much, in bytes: that takes a
/// few milliseconds, in which reads wait.
const PENDING_BYTES_MAX: usize = 64 << 10;
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
    /// Held for reading by reads and for writing while a batch is applied: a scan sees all of a
    /// batch or nothing of it. Changed only by whoever also holds `writer`.
    pending: RwLock<Pending>,
    writer: Mutex<Writer>,
}

/// Volatile changes that sled does not have yet.
#[derive(Debug, Default)]
struct Pending {
    /// The value of each changed key, by its full key; `None` for those that are deleted.
    changes: Changes,
    bytes: usize,
}

type Changes = BTreeMap<Vec<u8>, Option<Bytes>>;

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
        sync_files(&db, &path)
            .map_err(|e| StoreError::WriteFailed { path: path.clone(), what: e.to_string() })?;
        let log_file = File::open(path.join(LOG_FILE)).map_err(|e| failed(e.to_string()))?;
        let writer = Writer { log_file, unsynced: false, failed: None };
        let pending = RwLock::default();
        Ok(Self { path, options, db, pending, writer: Mutex::new(writer) })
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

    fn pending(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch to what is pending, and gives that to sled if it has become much.
    fn take(&self, writer: &mut Writer, batch: Batch) -> Result<(), StoreError> {
        let changes = self.resolve(batch)?;
        writer.unsynced |= !changes.is_empty();
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        pending.take(changes);
        let much = pending.bytes > PENDING_BYTES_MAX;
        drop(pending);
        if much { self.hand_over(writer) } else { Ok(()) }
    }

    /// Gives sled what is pending.
    fn hand_over(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        if pending.changes.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in std::mem::take(&mut *pending).changes {
            match value {
                Some(value) => batch.insert(key, &value[..]),
                None => batch.remove(key),
            }
        }
        self.step(writer, |_| self.db.apply_batch(batch).map_err(io_error))
    }

    fn make_durable(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if !writer.unsynced {
            return Ok(());
        }
        self.hand_over(writer)?;
        self.step(writer, |writer| {
            self.db.flush().map_err(io_error)?;
            rustix::fs::fdatasync(&writer.log_file)?;
            writer.unsynced = false;
            Ok(())
        })
    }

    /// What the batch comes to for each key. A range costs memory for each key that it removes.
    fn resolve(&self, batch: Batch) -> Result<Changes, StoreError> {
        let mut changes = Changes::new();
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
                    let pending = self.pending();
                    let keys = pending.changes.range(range.clone()).map(|(key, _)| key.clone());
                    changes.extend(keys.map(|key| (key, None)));
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

/// Closed, it has all that was committed.
impl Drop for SledEngine {
    fn drop(&mut self) {
        if let Ok(mut writer) = self.writer() {
            // Only volatile changes are concerned, which promised nothing.
            let _lost = self.hand_over(&mut writer);
        }
    }
}

impl Pending {
    fn take(&mut self, changes: Changes) {
        for (key, value) in changes {
            self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            self.changes.insert(key, value);
        }
    }
}

/// At most `limit` rows of sled with changes laid over them, both in the order of `compare`.
fn lay_over<'a>(
    rows: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
    over: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Bytes>)>,
    compare: impl Fn(&[u8], &[u8]) -> Ordering,
    limit: usize,
) -> sled::Result<Rows> {
    let (mut rows, mut over) = (rows.peekable(), over.peekable());
    let mut found = Rows::new();
    while found.len() < limit {
        let order = match (rows.peek(), over.peek()) {
            (None, None) => break,
            (None, Some(_)) => Ordering::Greater,
            (Some(Ok((key, _))), Some((changed, _))) => compare(key, changed),
            (Some(_), _) => Ordering::Less,
        };
        let row = if order.is_gt() { None } else { rows.next().transpose()? };
        let change = if order.is_lt() { None } else { over.next() };
        match (change, row) {
            (Some((key, Some(value))), _) => {
                found.push((Bytes::copy_from_slice(&key[1..]), value.clone()));
            }
            (None, Some((key, value))) => {
                found.push((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(&value)));
            }
            (Some((_, None)), _) | (None, None) => {}
        }
    }
    Ok(found)
}

/// Without its contents, which sled's own `Debug` prints in full.
impl fmt::Debug for SledEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SledEngine").field(&self.path).finish()
    }
}

impl Engine for SledEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = full_key(space, key);
        let pending = self.pending();
        if let Some(value) = pending.changes.get(&key) {
            return Ok(value.clone());
        }
        let value = self.read(|| self.db.get(key))?;
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
        let range = full_key(space, from)..full_key(space, to);
        let pending = self.pending();
        let over = pending.changes.range(range.clone());
        self.read(|| {
            let rows = self.db.range(range);
            match direction {
                Direction::Forward => lay_over(rows, over, |a, b| a.cmp(b), limit),
                Direction::Backward => lay_over(rows.rev(), over.rev(), |a, b| b.cmp(a), limit),
            }
        })
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        check_values(&batch)?;
        let mut writer = self.writer()?;
        self.take(&mut writer, batch)?;
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
        check_vacant(to)?;
        let mut writer = self.writer()?;
        self.hand_over(&mut writer)?;
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

/// Makes the database's files and their names durable: what recovery wrote, what a process before
/// this one left in the page cache, and of a new database `conf`, which after a power cut was seen
/// with no bytes in it. File by file, since `syncfs` would wait for everybody else's writes too.
fn sync_files(db: &sled::Db, path: &Path) -> io::Result<()> {
    db.flush().map_err(io_error)?;
    sync_directory(path)?;
    match path.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directory(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled removes what it has no more use for.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    File::open(path)?.sync_all()
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
