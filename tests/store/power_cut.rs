//! What a power cut leaves: nothing acknowledged is lost, and no batch is torn.
//!
//! A child process commits batches and acknowledges each on its output. It is killed at an
//! arbitrary moment, the disk's image is copied at once, and the copy is mounted and verified.
//! The same harness with sled's own `flush` must lose data: else it would prove nothing.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    ops::Range,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wolfscale::{
    log::Committer,
    store::{
        Batch, Change, Direction, Durability, Engine, SledEngine, SledOptions, Space, StoreError,
        VALUE_BYTES_MAX,
    },
};

use crate::{
    disk::Disk,
    tools::{self, LOSETUP, MKFS, MOUNT, STRACE},
};

const CUTS: u64 = 12;
/// At most; one that loses data is enough.
const BARE_CUTS: u64 = 10;
const DISK_BYTES: u64 = 512 << 20;
/// Batches older than this are removed again, so that sled reuses its segments.
const KEPT_BATCHES: u64 = 200;
const ROWS: Space = Space(1);
const COUNT: Space = Space(2);
const DEADLINE: Duration = Duration::from_secs(30);

/// Tells the child what to do, and where.
const MODE: &str = "WOLFSCALE_TEST_WRITER";
const DIRECTORY: &str = "WOLFSCALE_TEST_WRITER_DIRECTORY";
const TRACED_COMMITS: u64 = 60;

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    let test = "a_power_cut_loses_nothing_acknowledged";
    if !tools::have(test, &[MKFS, MOUNT, LOSETUP], true) {
        return;
    }
    let mut disk = Disk::new(DISK_BYTES);
    for cut in 1..=CUTS {
        let (acknowledged, after) = cut_power(&disk, "engine", cut, 100..900);
        let count = verify(&after).unwrap_or_else(|e| panic!("cut {cut}: {e:#}"));
        println!("cut {cut}: {acknowledged} acknowledged, {count} left");
        assert!(count >= acknowledged, "cut {cut}: {count} left of {acknowledged}");
        // The next one writes on what this one left.
        disk = after;
    }
}

#[test]
fn the_same_cuts_lose_data_without_our_fdatasync() {
    let test = "the_same_cuts_lose_data_without_our_fdatasync";
    if !tools::have(test, &[MKFS, MOUNT, LOSETUP], true) {
        return;
    }
    // Soon after the start, before the file system commits by itself, which it does in its own time.
    let loses = |cut| {
        let (acknowledged, after) = cut_power(&Disk::new(DISK_BYTES), "bare", cut, 50..350);
        let left = verify(&after);
        println!("cut {cut}: {acknowledged} acknowledged, left: {left:?}");
        left.map_or(true, |count| count < acknowledged)
    };
    assert!((1..=BARE_CUTS).any(loses), "the harness cannot tell a flush from a sync");
}

#[test]
fn each_durable_group_is_one_fdatasync() {
    if !tools::have("each_durable_group_is_one_fdatasync", &[STRACE], false) {
        return;
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let trace = directory.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=fdatasync,sync_file_range", "-o"]).arg(&trace);
    strace.arg(std::env::current_exe().expect("is known"));
    let output = writer(strace, "traced", directory.path()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let groups = said.lines().find_map(|line| line.strip_prefix("groups ")).expect("says so");
    let trace = std::fs::read_to_string(trace).expect("reads");
    let calls = |name: &str| trace.lines().filter(|line| line.contains(name)).count() as u64;
    assert_eq!(groups, TRACED_COMMITS.to_string());
    assert_eq!(calls(" fdatasync("), TRACED_COMMITS, "{trace}");
    assert!(calls(" sync_file_range(") >= TRACED_COMMITS, "sled's flush is this and no more");
}

#[test]
fn a_full_disk_ends_the_engine_and_keeps_what_was_acknowledged() {
    let test = "a_full_disk_ends_the_engine_and_keeps_what_was_acknowledged";
    if !tools::have(test, &[MKFS, MOUNT, LOSETUP], true) {
        return;
    }
    let disk = Disk::new(48 << 20);
    std::fs::write(disk.path().join("other"), vec![1; 8 << 20]).expect("writes");
    let directory = disk.path().join("db");
    let engine = SledEngine::open(&directory, SledOptions::default()).expect("opens");
    let row = |n: u64| {
        let mut batch = Batch::default();
        batch.put(ROWS, n.to_be_bytes(), vec![n as u8; 32 << 10]);
        batch
    };
    let mut acknowledged = 0;
    let error = loop {
        match engine.commit(row(acknowledged + 1), Durability::Durable) {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 10_000, "the disk never gets full");
    };
    assert!(matches!(error, StoreError::WriteFailed { .. }), "{error}");
    let mut small = Batch::default();
    small.put(COUNT, [1], vec![1]);
    let refused = engine.commit(small, Durability::Volatile).expect_err("refuses");
    assert!(refused.to_string().contains("an earlier write failed"), "{refused}");
    engine.sync().expect_err("refuses to sync too");
    drop(engine);
    // sled needs some room to open; the operator makes it.
    let after = disk.after_power_cut();
    std::fs::remove_file(after.path().join("other")).expect("removes");
    let engine = SledEngine::open(after.path().join("db"), SledOptions::default()).expect("opens");
    let end = (acknowledged + 1).to_be_bytes();
    let rows = engine.scan(ROWS, &[], &end, Direction::Forward, usize::MAX).expect("scans");
    assert_eq!(rows.len() as u64, acknowledged);
    engine.commit(row(acknowledged + 1), Durability::Durable).expect("and it goes on");
}

/// Lets a writer work on the disk for a while, then cuts the power. Returns what it acknowledged
/// and what is left.
fn cut_power(disk: &Disk, mode: &str, seed: u64, work_ms: Range<u64>) -> (u64, Disk) {
    let work = Duration::from_millis(ChaCha8Rng::seed_from_u64(seed).random_range(work_ms));
    let mut writer = Writer::start(mode, disk.path());
    let first = writer.acknowledged().expect("starts to write");
    let started = Instant::now();
    let mut last = first;
    while started.elapsed() < work {
        last = writer.acknowledged().expect("writes on");
    }
    writer.child.kill().expect("is killed");
    let after = disk.after_power_cut();
    // What it acknowledged before it died is still in the pipe.
    while let Some(acknowledged) = writer.acknowledged() {
        last = acknowledged;
    }
    (last, after)
}

/// A child process that writes. Killed when dropped.
struct Writer {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Writer {
    fn start(mode: &str, directory: &Path) -> Self {
        let own = Command::new(std::env::current_exe().expect("is known"));
        let mut child = writer(own, mode, directory).spawn().expect("starts");
        let output = BufReader::new(child.stdout.take().expect("is piped")).lines();
        Self { child, output }
    }

    /// The next acknowledgement; `None` once it is dead.
    fn acknowledged(&mut self) -> Option<u64> {
        loop {
            let line = self.output.next()?.ok()?;
            if let Some(number) = line.strip_prefix("acknowledged ") {
                // The last line may be cut.
                return number.strip_suffix('.')?.parse().ok();
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Dead already, as a rule.
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn writer(mut command: Command, mode: &str, directory: &Path) -> Command {
    command
        .args(["power_cut::writer_process", "--exact", "--ignored", "--nocapture"])
        .env(MODE, mode)
        .env(DIRECTORY, directory.join("db"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[test]
#[ignore = "the child process of the tests above"]
fn writer_process() {
    let (Ok(mode), Some(directory)) = (std::env::var(MODE), std::env::var_os(DIRECTORY)) else {
        return;
    };
    let directory = Path::new(&directory);
    match mode.as_str() {
        "engine" => {
            let engine = SledEngine::open(directory, SledOptions::default()).expect("opens");
            let count = read_count(&engine).expect("reads");
            write_for_ever(count, |batch| {
                engine.commit(batch, Durability::Durable).expect("commits");
            });
        }
        "bare" => {
            let db = sled::Config::new().path(directory).segment_size(16 << 20);
            let db = db.flush_every_ms(Some(500)).open().expect("opens");
            write_for_ever(0, |batch| {
                db.apply_batch(bare(batch)).expect("applies");
                db.flush().expect("flushes");
            });
        }
        "traced" => write_traced(directory),
        other => panic!("unknown mode {other}"),
    }
}

fn write_for_ever(mut count: u64, mut commit: impl FnMut(Batch)) {
    loop {
        count += 1;
        commit(batch(count));
        say(&format!("acknowledged {count}."));
    }
}

fn write_traced(directory: &Path) {
    let engine = SledEngine::open(directory, SledOptions::default()).expect("opens");
    let (done_tx, done_rx) = mpsc::channel();
    let done = move |committed| done_tx.send(committed).expect("is waited for");
    let committer = Committer::spawn(Arc::new(engine), "traced", done).expect("spawns");
    for ticket in 1..=TRACED_COMMITS {
        committer.submit(batch(ticket), Durability::Durable, ticket).expect("queues");
        done_rx.recv_timeout(DEADLINE).expect("in time").result.expect("commits");
    }
    say(&format!("groups {}", committer.counts().durable_groups));
}

/// In one write, behind whatever the test harness left on the line.
fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("\n{line}\n").as_bytes()).expect("is read");
}

/// Batch `count`: some rows of some sizes, the removal of old ones, and the count itself.
fn batch(count: u64) -> Batch {
    let mut batch = Batch::default();
    for (index, value) in values(count).into_iter().enumerate() {
        batch.put(ROWS, row_key(count, index), value);
    }
    if count.is_multiple_of(50) && count > KEPT_BATCHES {
        batch.delete_range(ROWS, row_key(0, 0), row_key(count - KEPT_BATCHES, 0));
    }
    batch.put(COUNT, *b"count", count.to_be_bytes().to_vec());
    batch
}

fn row_key(count: u64, index: usize) -> Vec<u8> {
    [&count.to_be_bytes()[..], &[u8::try_from(index).expect("few rows")]].concat()
}

/// The values of a batch: mostly small, at times the largest allowed.
fn values(count: u64) -> Vec<Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(count);
    let rows = random.random_range(1..8);
    let mut value = || {
        let bytes = match random.random_range(0..20) {
            0 => VALUE_BYTES_MAX,
            1..4 => random.random_range(4096..20_000),
            _ => random.random_range(0..1000),
        };
        let mut value = vec![0; bytes];
        random.fill_bytes(&mut value);
        value
    };
    (0..rows).map(|_| value()).collect()
}

fn bare(batch: Batch) -> sled::Batch {
    let mut bare = sled::Batch::default();
    for change in batch.0 {
        // Ranges are left out: they have no part in what is shown.
        if let Change::Put(space, key, value) = change {
            bare.insert([&[space.0], &key[..]].concat(), &value[..]);
        }
    }
    bare
}

fn read_count(engine: &SledEngine) -> Result<u64, StoreError> {
    let count = engine.get(COUNT, b"count")?;
    Ok(count.map_or(0, |count| u64::from_be_bytes(count[..].try_into().expect("eight bytes"))))
}

/// Opens what is left. Returns how many batches are there, all of them whole.
fn verify(disk: &Disk) -> anyhow::Result<u64> {
    let engine = SledEngine::open(disk.path().join("db"), SledOptions::default())?;
    let count = read_count(&engine)?;
    let rows =
        |from, to: &[u8]| engine.scan(ROWS, &row_key(from, 0), to, Direction::Forward, usize::MAX);
    anyhow::ensure!(rows(count + 1, &[0xff; 10])?.is_empty(), "part of batch {}", count + 1);
    for batch in count.saturating_sub(KEPT_BATCHES - 1).max(1)..=count {
        let rows = rows(batch, &row_key(batch + 1, 0))?;
        let found: Vec<_> = rows.iter().map(|(_, value)| value.to_vec()).collect();
        anyhow::ensure!(found == values(batch), "batch {batch} of {count} is torn");
    }
    Ok(count)
}
