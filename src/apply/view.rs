//! The state as the commands of one batch see it: what is stored, and over it what the batch
//! has changed so far.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    vec,
};

use bytes::Bytes;

use crate::store::{
    Batch, Direction, Engine, Rows, Space, StoreError,
    codec::{self, Compress, Stored},
};

/// Reads through the open batch into the state store, and gathers the changes of the batch.
///
/// Only the last change of a key is kept, so the batch does not depend on how often a key changed.
pub struct View<'a> {
    state: &'a dyn Engine,
    changed: BTreeMap<(Space, Vec<u8>), Option<Bytes>>,
}

type Changes<'a> = Peekable<btree_map::Range<'a, (Space, Vec<u8>), Option<Bytes>>>;

impl<'a> View<'a> {
    /// A view without changes.
    pub fn new(state: &'a dyn Engine) -> Self {
        Self { state, changed: BTreeMap::new() }
    }

    /// The value of a key.
    pub fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.changed.get(&(space, key.to_vec())) {
            Some(changed) => Ok(changed.clone()),
            None => self.state.get(space, key),
        }
    }

    /// The struct that is stored under a key.
    pub fn load<T: Stored>(&self, space: Space, key: &[u8]) -> Result<Option<T>, StoreError> {
        let stored = self.get(space, key)?;
        Ok(stored.map(|bytes| codec::decode(&bytes)).transpose()?)
    }

    /// At most `limit` rows with keys in `from..to`, lowest first.
    pub fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Rows, StoreError> {
        let (mut rows, mut from) = (Rows::new(), from.to_vec());
        while rows.len() < limit && *from < *to {
            let wanted = limit - rows.len();
            let page = self.state.scan(space, &from, to, Direction::Forward, wanted)?;
            let whole = page.len() < wanted;
            let end = match page.last() {
                Some((last, _)) if !whole => [last, &[0][..]].concat(),
                _ => to.to_vec(),
            };
            let over = self.changed.range((space, from)..(space, end.clone())).peekable();
            merge(page.into_iter().peekable(), over, limit, &mut rows);
            from = end;
        }
        Ok(rows)
    }

    /// Sets a key.
    pub fn put(&mut self, space: Space, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.changed.insert((space, key.into()), Some(value.into()));
    }

    /// Stores a struct under a key.
    pub fn store<T: Stored>(&mut self, space: Space, key: impl Into<Vec<u8>>, value: &T) {
        self.put(space, key, codec::encode(value, Compress::WherePays));
    }

    /// Removes a key; absent is fine.
    pub fn delete(&mut self, space: Space, key: impl Into<Vec<u8>>) {
        self.changed.insert((space, key.into()), None);
    }

    /// The changes, in the order of their keys.
    pub fn into_batch(self) -> Batch {
        let mut batch = Batch::default();
        for ((space, key), value) in self.changed {
            match value {
                Some(value) => batch.put(space, key, value),
                None => batch.delete(space, key),
            }
        }
        batch
    }
}

/// Appends to `rows`, up to `limit` of them, what is stored with the changes over it.
fn merge(
    mut stored: Peekable<vec::IntoIter<(Bytes, Bytes)>>,
    mut over: Changes<'_>,
    limit: usize,
    rows: &mut Rows,
) {
    while rows.len() < limit {
        let changed_first = match (stored.peek(), over.peek()) {
            (None, None) => return,
            (Some(_), None) => false,
            (None, Some(_)) => true,
            (Some((key, _)), Some(((_, changed), _))) => changed[..] <= key[..],
        };
        if !changed_first {
            rows.extend(stored.next());
            continue;
        }
        let Some(((_, key), value)) = over.next() else { return };
        let _replaced = stored.next_if(|(stored, _)| stored[..] == key[..]);
        rows.extend(value.clone().map(|value| (Bytes::copy_from_slice(key), value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Durability, MemoryEngine};

    const SPACE: Space = Space(7);
    const OTHER: Space = Space(8);

    fn stored(keys: &[u8]) -> MemoryEngine {
        let engine = MemoryEngine::new();
        let mut batch = Batch::default();
        keys.iter().for_each(|key| batch.put(SPACE, [*key], vec![b's']));
        batch.put(OTHER, [0], vec![b'o']);
        engine.commit(batch, Durability::Volatile).expect("memory");
        engine
    }

    fn seen(view: &View<'_>, limit: usize) -> Vec<(u8, u8)> {
        let rows = view.scan(SPACE, &[0], &[100], limit).expect("memory");
        rows.iter().map(|(key, value)| (key[0], value[0])).collect()
    }

    #[test]
    fn a_command_sees_what_those_before_it_did() {
        let engine = stored(&[1, 2, 3, 5, 8]);
        let mut view = View::new(&engine);
        view.delete(SPACE, [1]);
        view.delete(SPACE, [2]);
        view.put(SPACE, [3], vec![b'n']);
        view.put(SPACE, [4], vec![b'n']);
        view.put(SPACE, [200], vec![b'n']);
        let all = [(3, b'n'), (4, b'n'), (5, b's'), (8, b's')];
        for limit in 0..6 {
            assert_eq!(seen(&view, limit), &all[..limit.min(4)], "limit {limit}");
        }
        assert_eq!(view.get(SPACE, &[1]).expect("memory"), None);
        assert_eq!(view.get(SPACE, &[3]).expect("memory").as_deref(), Some(&b"n"[..]));
        assert_eq!(view.get(SPACE, &[8]).expect("memory").as_deref(), Some(&b"s"[..]));
        view.put(SPACE, [1], vec![b'a']);
        assert_eq!(seen(&view, 1), [(1, b'a')]);
    }

    #[test]
    fn the_batch_holds_the_last_change_of_each_key() {
        let engine = stored(&[1]);
        let mut view = View::new(&engine);
        view.put(SPACE, [2], vec![b'a']);
        view.put(SPACE, [2], vec![b'b']);
        view.delete(SPACE, [1]);
        let batch = view.into_batch();
        assert_eq!(batch.0.len(), 2);
        engine.commit(batch, Durability::Volatile).expect("memory");
        assert_eq!(seen(&View::new(&engine), 9), [(2, b'b')]);
    }
}
