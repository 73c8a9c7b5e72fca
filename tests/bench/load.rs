//! The load: clients that each commit one small row after the other, by prepared statements.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, prelude::Queryable};
use tokio::{sync::Barrier, task::JoinSet, time::MissedTickBehavior};

/// The table that the load fills.
pub const TABLE: &str = "CREATE TABLE test.load_rows (\
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, client INT NOT NULL, sequence BIGINT NOT NULL, \
    filler VARCHAR(100) NOT NULL)";
const INSERT: &str = "INSERT INTO test.load_rows (client, sequence, filler) VALUES (?, ?, ?)";
/// With the numbers and the row's overhead about 100 bytes.
const FILLER_BYTES: usize = 72;
/// Not measured, so that connections, caches and groups have their usual form.
const WARM_UP: Duration = Duration::from_millis(500);

/// How fast the clients go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Each as fast as its answers come.
    Full,
    /// So many transactions per second, all clients together.
    PerSecond(u32),
}

/// What the clients saw.
#[derive(Debug)]
pub struct Load {
    /// From each request to its OK, sorted.
    pub latencies: Vec<Duration>,
    /// Transactions per second.
    pub tps: f64,
}

/// Runs `clients` for so long.
pub async fn run(options: &Opts, clients: usize, pace: Pace, length: Duration) -> Load {
    let barrier = Arc::new(Barrier::new(clients));
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let client = Client {
            options: options.clone(),
            number: i32::try_from(client).expect("few clients"),
            between: between(pace, clients),
            length,
        };
        tasks.spawn(client.run(Arc::clone(&barrier), Arc::clone(&over)));
    }
    let mut latencies: Vec<Duration> = tasks.join_all().await.concat();
    latencies.sort_unstable();
    let tps = latencies.len() as f64 / length.as_secs_f64();
    Load { latencies, tps }
}

fn between(pace: Pace, clients: usize) -> Option<Duration> {
    match pace {
        Pace::Full => None,
        Pace::PerSecond(rate) => Some(Duration::from_secs_f64(clients as f64 / f64::from(rate))),
    }
}

struct Client {
    options: Opts,
    number: i32,
    between: Option<Duration>,
    length: Duration,
}

impl Client {
    /// The latencies of what began and ended within the measured time.
    async fn run(self, barrier: Arc<Barrier>, over: Arc<AtomicBool>) -> Vec<Duration> {
        let mut connection = Conn::new(self.options.clone()).await.expect("connect the load");
        let insert = connection.prep(INSERT).await.expect("prepare the load");
        let filler = "x".repeat(FILLER_BYTES);
        barrier.wait().await;
        let from = Instant::now() + WARM_UP;
        let until = from + self.length;
        let mut ticks = self.between.map(|between| {
            let mut ticks = tokio::time::interval(between);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks
        });
        let (mut latencies, mut sequence) = (Vec::new(), 0_i64);
        while !over.load(Ordering::Relaxed) {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            sequence += 1;
            let began = Instant::now();
            let row = (self.number, sequence, &filler);
            connection.exec_drop(&insert, row).await.expect("insert a row of the load");
            let ended = Instant::now();
            if began >= from && ended <= until {
                latencies.push(ended - began);
            }
            if ended >= until {
                over.store(true, Ordering::Relaxed);
            }
        }
        connection.disconnect().await.expect("disconnect the load");
        latencies
    }
}

/// The value below which so much of the whole lies; zero of nothing.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
