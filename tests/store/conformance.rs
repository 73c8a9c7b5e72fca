//! What every engine must do: one suite, run over each of them.
//!
//! A new engine adds a [`Subject`] and one line to `conformance!`.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use proptest::prelude::*;
use wolfscale::store::{
    Batch, Change, Direction, Durability, Engine, MemoryEngine, Rows, SledEngine, SledOptions,
    Space, StoreError, VALUE_BYTES_MAX,
};

const A: Space = Space(1);
const B: Space = Space(2);
const LAST: Space = Space(255);

/// An engine with a way to stop and start it again.
trait Subject {
    fn new() -> Self;
    fn engine(&self) -> Arc<dyn Engine>;
    /// Ends the engine as a process would end, and starts it on the same contents.
    fn reopen(&mut self);
}

struct Memory(MemoryEngine);

impl Subject for Memory {
    fn new() -> Self {
        Self(MemoryEngine::new())
    }

    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.clone())
    }

    fn reopen(&mut self) {
        self.0.kill();
    }
}

struct Sled {
    /// `None` only between closing and opening.
    engine: Option<Arc<SledEngine>>,
    directory: tempfile::TempDir,
}

impl Sled {
    fn open(&mut self) {
        let engine = SledEngine::open(self.directory.path().join("db"), SledOptions::default());
        self.engine = Some(Arc::new(engine.expect("opens")));
    }
}

impl Subject for Sled {
    fn new() -> Self {
        let mut new = Self { engine: None, directory: tempfile::tempdir().expect("tempdir") };
        new.open();
        new
    }

    fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone().expect("is open")
    }

    fn reopen(&mut self) {
        let engine = self.engine.take().expect("is open");
        assert_eq!(Arc::strong_count(&engine), 1, "nobody else holds it open");
        drop(engine);
        self.open();
    }
}

macro_rules! conformance {
    ($($engine:ident: $subject:ty),*) => { $(mod $engine {
        use super::*;
        #[test] fn rows_come_and_go() { super::rows_come_and_go(<$subject>::new()); }
        #[test] fn batches_span_spaces() { super::batches_span_spaces(<$subject>::new()); }
        #[test] fn changes_take_effect_in_order() { super::changes_take_effect_in_order(<$subject>::new()); }
        #[test] fn scans_are_bounded_both_ways() { super::scans_are_bounded_both_ways(<$subject>::new()); }
        #[test] fn ranges_are_deleted() { super::ranges_are_deleted(<$subject>::new()); }
        #[test] fn large_values_are_refused_whole() { super::large_values_are_refused_whole(<$subject>::new()); }
        #[test] fn scans_see_whole_batches() { super::scans_see_whole_batches(<$subject>::new()); }
        #[test] fn reopening_changes_nothing() { super::reopening_changes_nothing(<$subject>::new()); }
        #[test] fn reclaim_loses_nothing() { super::reclaim_loses_nothing(<$subject>::new()); }
        #[test] fn it_behaves_like_a_map() { super::it_behaves_like_a_map(<$subject>::new); }
    })* };
}

conformance!(memory: Memory, sled: Sled);

fn commit(engine: &dyn Engine, changes: impl IntoIterator<Item = Change>) {
    engine.commit(Batch(changes.into_iter().collect()), Durability::Volatile).expect("commits");
}

fn put(space: Space, key: &[u8], value: &[u8]) -> Change {
    Change::Put(space, key.to_vec(), Bytes::copy_from_slice(value))
}

fn delete(space: Space, key: &[u8]) -> Change {
    Change::Delete(space, key.to_vec())
}

fn delete_range(space: Space, from: &[u8], to: &[u8]) -> Change {
    Change::DeleteRange(space, from.to_vec(), to.to_vec())
}

fn value(engine: &dyn Engine, space: Space, key: &[u8]) -> Option<Vec<u8>> {
    engine.get(space, key).expect("reads").map(|value| value.to_vec())
}

fn all(engine: &dyn Engine, space: Space) -> Rows {
    scan(engine, space, b"", &[0xff; 16], Direction::Forward, usize::MAX)
}

fn scan(
    engine: &dyn Engine,
    space: Space,
    from: &[u8],
    to: &[u8],
    direction: Direction,
    limit: usize,
) -> Rows {
    engine.scan(space, from, to, direction, limit).expect("scans")
}

fn keys(rows: &Rows) -> Vec<&[u8]> {
    rows.iter().map(|(key, _)| &key[..]).collect()
}

fn rows_come_and_go(subject: impl Subject) {
    let engine = subject.engine();
    assert_eq!(value(&*engine, A, b"k"), None);
    for durability in [Durability::Durable, Durability::Volatile] {
        let mut batch = Batch::default();
        batch.put(A, b"k", vec![1, 2]);
        batch.put(A, b"", vec![]);
        engine.commit(batch, durability).expect("commits");
        assert_eq!(value(&*engine, A, b"k"), Some(vec![1, 2]));
        assert_eq!(value(&*engine, A, b""), Some(vec![]), "key and value may be empty");
        commit(&*engine, [put(A, b"k", b"other")]);
        assert_eq!(value(&*engine, A, b"k"), Some(b"other".to_vec()));
        commit(&*engine, [delete(A, b"k"), delete(A, b""), delete(A, b"absent")]);
        assert_eq!(all(&*engine, A), Rows::new());
    }
    engine.commit(Batch::default(), Durability::Durable).expect("an empty batch is fine");
    engine.sync().expect("syncs");
    engine.sync().expect("syncs again");
}

fn batches_span_spaces(subject: impl Subject) {
    let engine = subject.engine();
    commit(&*engine, [put(A, b"k", b"a"), put(B, b"k", b"b"), put(LAST, b"k", b"last")]);
    assert_eq!(value(&*engine, A, b"k"), Some(b"a".to_vec()));
    assert_eq!(value(&*engine, B, b"k"), Some(b"b".to_vec()));
    assert_eq!(keys(&all(&*engine, A)), [b"k"], "a scan stays in its space");
    assert_eq!(keys(&all(&*engine, LAST)), [b"k"]);
    commit(&*engine, [delete(A, b"k"), delete_range(B, b"", b"z")]);
    assert_eq!(all(&*engine, A), Rows::new());
    assert_eq!(all(&*engine, B), Rows::new());
    assert_eq!(keys(&all(&*engine, LAST)), [b"k"]);
}

fn changes_take_effect_in_order(subject: impl Subject) {
    let engine = subject.engine();
    commit(&*engine, [put(A, b"old", b"0")]);
    commit(
        &*engine,
        [
            put(A, b"a", b"1"),
            put(A, b"b", b"1"),
            delete_range(A, b"a", b"z"),
            put(A, b"b", b"2"),
            put(A, b"c", b"1"),
            delete(A, b"c"),
            put(A, b"d", b"1"),
            put(A, b"d", b"2"),
        ],
    );
    assert_eq!(keys(&all(&*engine, A)), [b"b", b"d"]);
    assert_eq!(value(&*engine, A, b"b"), Some(b"2".to_vec()));
    assert_eq!(value(&*engine, A, b"d"), Some(b"2".to_vec()));
}

fn scans_are_bounded_both_ways(subject: impl Subject) {
    let engine = subject.engine();
    commit(&*engine, (0..100u8).map(|key| put(A, &[key], &[key])));
    commit(&*engine, [put(B, &[50], b"another space's")]);
    let found = |from: u8, to: u8, direction, limit| -> Vec<u8> {
        let rows = scan(&*engine, A, &[from], &[to], direction, limit);
        rows.iter().map(|(key, value)| (assert_eq!(key, value), key[0]).1).collect()
    };
    assert_eq!(found(10, 13, Direction::Forward, 9), [10, 11, 12], "the end is not in it");
    assert_eq!(found(10, 13, Direction::Backward, 9), [12, 11, 10]);
    assert_eq!(found(10, 90, Direction::Forward, 2), [10, 11]);
    assert_eq!(found(10, 90, Direction::Backward, 2), [89, 88]);
    assert_eq!(found(98, 200, Direction::Forward, 9), [98, 99]);
    for (from, to, limit) in [(10, 10, 9), (20, 10, 9), (10, 20, 0), (200, 210, 9)] {
        for direction in [Direction::Forward, Direction::Backward] {
            assert_eq!(found(from, to, direction, limit), [0; 0], "{from}..{to}, {limit}");
        }
    }
}

fn ranges_are_deleted(subject: impl Subject) {
    let engine = subject.engine();
    let rows = |keys: std::ops::Range<u16>| keys.map(|k| put(A, &k.to_be_bytes(), &[7; 100]));
    commit(&*engine, rows(0..3000));
    commit(&*engine, [delete_range(A, &1000u16.to_be_bytes(), &2900u16.to_be_bytes())]);
    let left = all(&*engine, A);
    assert_eq!(left.len(), 1100);
    assert_eq!(left[999].0[..], 999u16.to_be_bytes());
    assert_eq!(left[1000].0[..], 2900u16.to_be_bytes(), "the end is not in it");
    commit(&*engine, [delete_range(A, b"z", b"a"), delete_range(A, b"a", b"a")]);
    commit(&*engine, [delete_range(B, b"", &[0xff; 3])]);
    assert_eq!(all(&*engine, A).len(), 1100, "empty and reversed ranges, and other spaces");
    commit(&*engine, rows(1000..1001).chain([delete_range(A, b"", &[0xff; 3])]));
    assert_eq!(all(&*engine, A), Rows::new());
}

fn large_values_are_refused_whole(subject: impl Subject) {
    let engine = subject.engine();
    let largest = vec![0x5a; VALUE_BYTES_MAX];
    let too_large = vec![0x5a; VALUE_BYTES_MAX + 1];
    let batch = Batch(vec![put(A, b"small", b"1"), put(A, b"large", &too_large)]);
    match engine.commit(batch, Durability::Durable) {
        Err(StoreError::ValueTooLarge { space, bytes }) => {
            assert_eq!((space, bytes), (A, VALUE_BYTES_MAX + 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(all(&*engine, A), Rows::new(), "nothing of the batch was written");
    commit(&*engine, (0..40u8).map(|key| put(A, &[key], &largest)));
    assert!(all(&*engine, A).iter().all(|(_, value)| *value == largest), "and it goes on");
}

fn scans_see_whole_batches(subject: impl Subject) {
    let engine = subject.engine();
    let batch = |value: u8| (0..200u8).map(move |key| put(A, &[key], &[value]));
    commit(&*engine, batch(0));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let rows = all(&*engine, A);
                assert_eq!(rows.len(), 200);
                assert!(rows.iter().all(|(_, value)| *value == rows[0].1), "a batch in part");
            }
        }
    });
    for value in 1..=100 {
        commit(&*engine, batch(value));
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("sees whole batches");
}

fn reopening_changes_nothing(mut subject: impl Subject) {
    let rows: Vec<_> = (0..500u16).map(|key| put(A, &key.to_be_bytes(), &[3; 300])).collect();
    commit(&*subject.engine(), rows);
    commit(&*subject.engine(), [delete_range(A, &[0], &[1]), put(B, b"k", b"v")]);
    subject.engine().sync().expect("syncs");
    let before = [all(&*subject.engine(), A), all(&*subject.engine(), B)];
    assert_eq!(before[0].len(), 244);
    for _ in 0..3 {
        subject.reopen();
        assert_eq!([all(&*subject.engine(), A), all(&*subject.engine(), B)], before);
    }
    commit(&*subject.engine(), [delete(B, b"k")]);
    subject.reopen();
    assert_eq!(all(&*subject.engine(), B), Rows::new());
}

fn reclaim_loses_nothing(subject: impl Subject) {
    let engine = subject.engine();
    commit(&*engine, (0..100u8).map(|key| put(A, &[key], &[7; 1000])));
    let before = all(&*engine, A);
    let reclaimed = engine.reclaim().expect("reclaims");
    assert!(reclaimed.before_bytes >= 100_000, "{reclaimed:?}");
    assert!(reclaimed.after_bytes >= 100_000, "{reclaimed:?}");
    assert_eq!(all(&*engine, A), before);
}

type Model = BTreeMap<(u8, Vec<u8>), Bytes>;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Change>, Durability),
    Scan(Space, Vec<u8>, Vec<u8>, bool, usize),
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let space = || (1u8..4).prop_map(Space);
    // Few bytes, so that keys meet; those at the ends, where predecessors are hard to find.
    let byte = || prop_oneof![Just(0u8), Just(1), Just(254), Just(255)];
    let key = move || proptest::collection::vec(byte(), 0..9);
    let content = || proptest::collection::vec(any::<u8>(), 0..200);
    let change = prop_oneof![
        6 => (space(), key(), content()).prop_map(|(s, k, v)| Change::Put(s, k, v.into())),
        2 => (space(), key()).prop_map(|(s, k)| Change::Delete(s, k)),
        1 => (space(), key(), key()).prop_map(|(s, f, t)| Change::DeleteRange(s, f, t)),
    ];
    let durability = prop_oneof![Just(Durability::Durable), Just(Durability::Volatile)];
    let step = prop_oneof![
        8 => (proptest::collection::vec(change, 0..40), durability)
            .prop_map(|(changes, durability)| Step::Commit(changes, durability)),
        4 => (space(), key(), key(), any::<bool>(), 0usize..20)
            .prop_map(|(s, f, t, reverse, limit)| Step::Scan(s, f, t, reverse, limit)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

fn change_model(model: &mut Model, change: &Change) {
    match change {
        Change::Put(space, key, value) => {
            model.insert((space.0, key.clone()), value.clone());
        }
        Change::Delete(space, key) => {
            model.remove(&(space.0, key.clone()));
        }
        Change::DeleteRange(space, from, to) => {
            model.retain(|(s, key), _| *s != space.0 || key < from || key >= to);
        }
    }
}

fn scan_model(model: &Model, space: Space, from: &[u8], to: &[u8]) -> Rows {
    let start = Bound::Included((space.0, from.to_vec()));
    let rows = model.range((start, Bound::Unbounded));
    rows.take_while(|((s, key), _)| *s == space.0 && key[..] < *to)
        .map(|((_, key), value)| (Bytes::copy_from_slice(key), value.clone()))
        .collect()
}

fn it_behaves_like_a_map<S: Subject>(new: fn() -> S) {
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in steps())| {
        let mut subject = new();
        let mut model = Model::new();
        for step in steps {
            take(&mut subject, &mut model, step)?;
        }
        for space in 1..4 {
            let expected = scan_model(&model, Space(space), b"", &[0xff; 16]);
            prop_assert_eq!(all(&*subject.engine(), Space(space)), expected);
        }
    });
}

fn take<S: Subject>(subject: &mut S, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Commit(changes, durability) => {
            changes.iter().for_each(|change| change_model(model, change));
            subject.engine().commit(Batch(changes), durability).expect("commits");
        }
        Step::Scan(space, from, to, reverse, limit) => {
            let mut expected = scan_model(model, space, &from, &to);
            let direction = if reverse { Direction::Backward } else { Direction::Forward };
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            let found = scan(&*subject.engine(), space, &from, &to, direction, limit);
            prop_assert_eq!(found, expected);
        }
        Step::Sync => subject.engine().sync().expect("syncs"),
        Step::Reopen => subject.reopen(),
    }
    Ok(())
}
