//! What is particular to the engine on sled: its snapshots, and what it says of damage.

use std::fs;

use wolfscale::store::{
    Batch, Direction, Durability, Engine, Rows, SledEngine, SledOptions, Space, StoreError,
};

const SPACE: Space = Space(7);

fn open(path: &std::path::Path) -> Result<SledEngine, StoreError> {
    SledEngine::open(path, SledOptions::default())
}

fn fill(engine: &SledEngine, keys: std::ops::Range<u32>) {
    let mut batch = Batch::default();
    keys.for_each(|key| batch.put(SPACE, key.to_be_bytes(), vec![key as u8; 2000]));
    engine.commit(batch, Durability::Durable).expect("commits");
}

fn rows(engine: &SledEngine) -> Rows {
    engine.scan(SPACE, b"", &[0xff; 8], Direction::Forward, usize::MAX).expect("scans")
}

#[test]
fn a_snapshot_is_a_database_of_its_own() {
    let dir = tempfile::tempdir().expect("tempdir");
    let engine = open(&dir.path().join("db")).expect("opens");
    fill(&engine, 0..2000);
    let before = rows(&engine);
    let to = dir.path().join("copy");
    engine.snapshot(&to).expect("copies");
    fill(&engine, 2000..2010);
    let copy = open(&to).expect("opens");
    assert_eq!(rows(&copy), before);
    fill(&copy, 5000..5001);
    assert_eq!(rows(&engine).len(), 2010, "the two are apart");
    drop(copy);

    let error = engine.snapshot(&to).expect_err("it would mix with what is there");
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn damage_is_an_error_and_not_a_panic() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let engine = open(&path).expect("opens");
    fill(&engine, 0..100);
    drop(engine);
    let conf = fs::read(path.join("conf")).expect("reads");
    for damage in ["no configuration of sled's", "segment_size: 512\nuse_compression: false\n...."]
    {
        fs::write(path.join("conf"), damage).expect("writes");
        let error = open(&path).expect_err("it is damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }
    fs::write(path.join("conf"), conf).expect("writes");
    assert_eq!(rows(&open(&path).expect("opens")).len(), 100);
}

/// sled drops a damaged tail without a word, which is why the log's length is kept elsewhere too
/// (`cluster::identity`). What it does give must be right.
#[test]
fn a_damaged_file_never_gives_wrong_rows() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let engine = open(&path).expect("opens");
    fill(&engine, 0..100);
    drop(engine);
    let good = fs::read(path.join("db")).expect("reads");
    let written = good.iter().rposition(|byte| *byte != 0).expect("has content");
    for step in 1..10 {
        let mut bad = good.clone();
        let at = written * step / 10;
        bad[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0xa5);
        let copy = dir.path().join(format!("copy-{step}"));
        fs::create_dir(&copy).expect("creates");
        fs::copy(path.join("conf"), copy.join("conf")).expect("copies");
        fs::write(copy.join("db"), bad).expect("writes");
        let found = open(&copy)
            .and_then(|engine| engine.scan(SPACE, b"", &[0xff; 8], Direction::Forward, usize::MAX));
        match found {
            Ok(rows) => {
                assert!(rows.len() < 100, "the damage was in what rows need");
                assert!(rows.iter().all(|(key, value)| value[..] == [key[3]; 2000]));
            }
            Err(StoreError::Damaged { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn no_blob_files_are_made() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let engine = open(&path).expect("opens");
    for round in 0..20u8 {
        let mut batch = Batch::default();
        for key in 0..64u8 {
            batch.put(SPACE, [key], vec![round; wolfscale::store::VALUE_BYTES_MAX]);
        }
        engine.commit(batch, Durability::Durable).expect("commits");
    }
    assert_eq!(fs::read_dir(path.join("blobs")).expect("is there").count(), 0);
}
