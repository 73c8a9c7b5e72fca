//! The machine under the figures: whose CPU time was used, whether it is quiet, how fast it syncs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::load::percentile;

/// Under this label stands the process that measures.
pub const CLIENTS: &str = "clients";
/// The kernel counts processor time in these, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const QUIET_SAMPLE: Duration = Duration::from_secs(1);
const BLOCK_BYTES: usize = 4096;
const BLOCKS: u64 = 4096;

/// Whose processes have which label: the process holds the text in its command line.
#[derive(Clone, Debug)]
pub struct Mark {
    pub label: &'static str,
    /// The command line begins so.
    pub begins: &'static str,
    pub holds: String,
}

/// Processor time used so far.
pub struct Reading {
    at: Instant,
    all: f64,
    marked: BTreeMap<&'static str, f64>,
}

/// Processor time used between two readings, in processors.
#[derive(Clone, Debug)]
pub struct Usage {
    pub marked: BTreeMap<&'static str, f64>,
    /// By processes that have no part in the sample.
    pub others: f64,
    /// The load average at the end.
    pub load: f64,
}

/// Reads what was used so far.
pub fn read(marks: &[Mark]) -> Reading {
    let mut marked = BTreeMap::from([(CLIENTS, used(std::process::id()))]);
    for (pid, line) in processes() {
        let mark = marks.iter().find(|m| line.starts_with(m.begins) && line.contains(&m.holds));
        if let Some(mark) = mark {
            *marked.entry(mark.label).or_default() += used(pid);
        }
    }
    Reading { at: Instant::now(), all: used_by_all(), marked }
}

impl Reading {
    /// What was used since.
    pub fn until_now(&self, marks: &[Mark]) -> Usage {
        let now = read(marks);
        let seconds = (now.at - self.at).as_secs_f64();
        let before = |label| self.marked.get(label).copied().unwrap_or_default();
        let marked: BTreeMap<_, _> = now
            .marked
            .iter()
            .map(|(label, ticks)| (*label, (ticks - before(*label)).max(0.0) / seconds))
            .collect();
        let all = (now.all - self.all) / seconds;
        let others = (all - marked.values().sum::<f64>()).max(0.0);
        Usage { marked, others, load: load_average() }
    }
}

/// Waits until others use less than `limit` processors, at most for `bound`.
pub async fn until_quiet(marks: &[Mark], limit: f64, bound: Duration) {
    let deadline = Instant::now() + bound;
    loop {
        let reading = read(marks);
        sleep(QUIET_SAMPLE).await;
        if reading.until_now(marks).others < limit || Instant::now() > deadline {
            return;
        }
    }
}

/// The load average of the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// How long fdatasync of an overwritten block of a preallocated file takes: sorted.
pub fn sync_times(length: Duration) -> Vec<Duration> {
    let directory = tempfile::tempdir_in("/var/tmp").expect("directory");
    let file = File::create(directory.path().join("blocks")).expect("create a file");
    let block = [7; BLOCK_BYTES];
    for index in 0..BLOCKS {
        file.write_all_at(&block, index * BLOCK_BYTES as u64).expect("fill the file");
    }
    file.sync_all().expect("sync the file");
    let (until, mut times) = (Instant::now() + length, Vec::new());
    for index in (0..BLOCKS).cycle() {
        let began = Instant::now();
        if began > until {
            break;
        }
        file.write_all_at(&block, index * BLOCK_BYTES as u64).expect("overwrite a block");
        file.sync_data().expect("sync the file's data");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    assert!(percentile(&times, 0.5) > Duration::ZERO, "a sync takes time");
    times
}

/// In seconds, without interrupts: those are counted with whoever was interrupted, or not at all.
fn used_by_all() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let first = text.lines().next().expect("a first line");
    let ticks: Vec<f64> = first.split_whitespace().skip(1).flat_map(str::parse).collect();
    let [user, nice, system] = ticks[..3] else { panic!("/proc/stat begins with {first}") };
    (user + nice + system) / TICKS_PER_SECOND
}

fn used(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or_default() + ticks(12).unwrap_or_default()) / TICKS_PER_SECOND
}

fn processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").expect("read /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
    .collect()
}
