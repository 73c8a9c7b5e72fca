//! The in-memory twin of the store, for simulation: it knows what would survive a power cut.
//!
//! No threads, no clock, no randomness, ordered maps: two runs are the same run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    Batch, Change, Direction, Durability, Engine, Reclaimed, Rows, Space, StoreError,
    engine::check_values,
};

/// What goes wrong with the next sync. Either way the caller hears `WriteFailed`, and the engine
/// takes no commit until it is restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncFault {
    /// Nothing reached the disk: a power cut loses it.
    Lost,
    /// It happened, yet was reported as failed: it survives a power cut.
    Done,
}

/// An [`Engine`] in memory. Clones share their contents.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine(Arc<Mutex<Contents>>);

#[derive(Clone, Debug, Default)]
struct Contents {
    rows: BTreeMap<Space, BTreeMap<Vec<u8>, Bytes>>,
    /// What undoes the changes since the last sync, oldest first.
    undo: Vec<(Space, Vec<u8>, Option<Bytes>)>,
    fault: Option<SyncFault>,
    failed: bool,
    sync_count: u64,
}

impl MemoryEngine {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine loses power and starts again: all that was not synced is gone.
    pub fn power_cut(&self) {
        let mut contents = self.contents();
        contents.roll_back();
        contents.restart();
    }

    /// The process is killed and starts again: what was written is still there, synced or not.
    pub fn kill(&self) {
        self.contents().restart();
    }

    /// Makes the next sync, by `commit` or by `sync`, fail.
    pub fn fail_next_sync(&self, fault: SyncFault) {
        self.contents().fault = Some(fault);
    }

    /// How many syncs reached the disk.
    pub fn sync_count(&self) -> u64 {
        self.contents().sync_count
    }

    /// An independent copy of what is here now: a disk image to roll back to later.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.contents().clone())))
    }

    /// Replaces the contents by those of `image`: the store is rolled back, or lost and restored.
    pub fn restore(&self, image: &MemoryEngine) {
        let image = image.contents().clone();
        *self.contents() = image;
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(space, key, value) => self.set(space, key, Some(value)),
            Change::Delete(space, key) => self.set(space, key, None),
            Change::DeleteRange(space, from, to) if from < to => {
                let rows = self.rows.entry(space).or_default();
                let keys: Vec<_> = rows.range(from..to).map(|(key, _)| key.clone()).collect();
                keys.into_iter().for_each(|key| self.set(space, key, None));
            }
            Change::DeleteRange(..) => {}
        }
    }

    fn set(&mut self, space: Space, key: Vec<u8>, value: Option<Bytes>) {
        let before = self.replace(space, key.clone(), value);
        self.undo.push((space, key, before));
    }

    fn replace(&mut self, space: Space, key: Vec<u8>, value: Option<Bytes>) -> Option<Bytes> {
        let rows = self.rows.entry(space).or_default();
        match value {
            Some(value) => rows.insert(key, value),
            None => rows.remove(&key),
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        if self.undo.is_empty() {
            return Ok(());
        }
        let fault = self.fault.take();
        if fault != Some(SyncFault::Lost) {
            self.undo.clear();
            self.sync_count += 1;
        }
        self.failed = fault.is_some();
        self.usable()
    }

    fn roll_back(&mut self) {
        for (space, key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.replace(space, key, before);
        }
    }

    fn restart(&mut self) {
        self.fault = None;
        self.failed = false;
    }

    fn usable(&self) -> Result<(), StoreError> {
        if !self.failed {
            return Ok(());
        }
        let what = "a sync failed, as the test wanted it".to_owned();
        Err(StoreError::WriteFailed { path: PathBuf::from("memory"), what })
    }
}

impl Engine for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.contents().rows.get(&space).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
        direction: Direction,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        use std::ops::Bound::{Excluded, Included};
        let contents = self.contents();
        let Some(rows) = contents.rows.get(&space).filter(|_| from < to) else {
            return Ok(Rows::new());
        };
        let range = rows.range::<[u8], _>((Included(from), Excluded(to)));
        let row = |(key, value): (&Vec<u8>, &Bytes)| (Bytes::copy_from_slice(key), value.clone());
        Ok(match direction {
            Direction::Forward => range.take(limit).map(row).collect(),
            Direction::Backward => range.rev().take(limit).map(row).collect(),
        })
    }

    fn commit(&self, batch: Batch, durability: Durability) -> Result<(), StoreError> {
        check_values(&batch)?;
        let mut contents = self.contents();
        contents.usable()?;
        batch.0.into_iter().for_each(|change| contents.apply(change));
        match durability {
            Durability::Durable => contents.sync(),
            Durability::Volatile => Ok(()),
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut contents = self.contents();
        contents.usable()?;
        contents.sync()
    }

    /// Not to be had: there is no directory behind it. A simulation uses [`MemoryEngine::fork`].
    fn snapshot(&self, to: &Path) -> Result<(), StoreError> {
        let what = "an engine in memory has no files; use `fork`".to_owned();
        Err(StoreError::ReadFailed { path: to.to_owned(), what })
    }

    fn reclaim(&self) -> Result<Reclaimed, StoreError> {
        let contents = self.contents();
        let rows = contents.rows.values().flatten();
        let bytes = rows.map(|(key, value)| (key.len() + value.len()) as u64).sum();
        Ok(Reclaimed { before_bytes: bytes, after_bytes: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space = Space(1);

    fn commit(engine: &MemoryEngine, key: u8, durability: Durability) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(SPACE, [key], vec![key]);
        engine.commit(batch, durability)
    }

    fn keys(engine: &MemoryEngine) -> Vec<u8> {
        let rows = engine.scan(SPACE, b"", &[0xff; 2], Direction::Forward, usize::MAX);
        rows.expect("scans").iter().map(|(key, _)| key[0]).collect()
    }

    #[test]
    fn a_power_cut_takes_back_what_was_not_synced() {
        let engine = MemoryEngine::new();
        commit(&engine, 1, Durability::Volatile).expect("commits");
        commit(&engine, 2, Durability::Durable).expect("commits");
        let mut batch = Batch::default();
        batch.delete_range(SPACE, [0], [9]);
        batch.put(SPACE, [2], vec![0]);
        batch.put(SPACE, [3], vec![3]);
        engine.commit(batch, Durability::Volatile).expect("commits");
        assert_eq!(keys(&engine), [2, 3]);
        engine.kill();
        assert_eq!(keys(&engine), [2, 3], "the page cache outlives a kill");
        engine.power_cut();
        assert_eq!(keys(&engine), [1, 2]);
        assert_eq!(engine.get(SPACE, &[2]).expect("reads").as_deref(), Some(&[2][..]));
        commit(&engine, 4, Durability::Volatile).expect("commits");
        engine.sync().expect("syncs");
        engine.power_cut();
        assert_eq!(keys(&engine), [1, 2, 4]);
    }

    #[test]
    fn a_failed_sync_ends_it_until_the_restart() {
        for (fault, left) in [(SyncFault::Lost, &[1][..]), (SyncFault::Done, &[1, 2][..])] {
            let engine = MemoryEngine::new();
            commit(&engine, 1, Durability::Durable).expect("commits");
            engine.fail_next_sync(fault);
            commit(&engine, 2, Durability::Durable).expect_err("fails");
            commit(&engine, 3, Durability::Volatile).expect_err("refuses");
            engine.sync().expect_err("refuses");
            engine.power_cut();
            assert_eq!(keys(&engine), left);
            commit(&engine, 4, Durability::Durable).expect("commits again");
        }
    }

    #[test]
    fn a_fork_is_independent_and_can_be_restored() {
        let engine = MemoryEngine::new();
        commit(&engine, 1, Durability::Durable).expect("commits");
        let image = engine.fork();
        commit(&engine, 2, Durability::Durable).expect("commits");
        assert_eq!(keys(&image), [1]);
        let handle = engine.clone();
        engine.restore(&image);
        assert_eq!(keys(&handle), [1], "all handles see the rolled back store");
        commit(&engine, 3, Durability::Durable).expect("commits");
        assert_eq!(keys(&image), [1]);
    }
}
