//! How long after its OK a row is visible on a follower.
//!
//! A paced writer marks rows with growing ids; a reader asks one follower for the highest id over and
//! over, and so sees every mark once, however many are under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use mysql_async::{Conn, prelude::Queryable};
use tokio::time::{MissedTickBehavior, sleep};

use crate::rig::Place;

/// The table of the marks.
pub const TABLE: &str = "CREATE TABLE test.marks (id BIGINT NOT NULL PRIMARY KEY)";
const HIGHEST: &str = "SELECT COALESCE(MAX(id), 0) FROM test.marks";
const INSERT: &str = "INSERT INTO test.marks VALUES (?)";
/// Between two marks.
const BETWEEN: Duration = Duration::from_millis(20);
/// So long after a mark the reader asks without a pause; later it spares the machine, and its
/// resolution is a pause.
const CLOSE: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_millis(1);
/// A follower that is so far behind has lost.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(180);

/// Samples the lag for so long, then waits until the follower has all marks. Sorted; zero for marks
/// that were visible before their OK.
pub async fn sample(place: &Place, length: Duration) -> Vec<Duration> {
    let mut writer = Conn::new(place.leader.clone()).await.expect("connect the marker");
    let mut reader = Conn::new(place.followers[0].clone()).await.expect("connect the reader");
    let first = highest(&mut writer).await + 1;
    let progress = Arc::new(Progress::new());
    let reading = tokio::spawn({
        let progress = Arc::clone(&progress);
        async move { read(&mut reader, first, &progress).await }
    });
    let acknowledged = write(&mut writer, first, length, &progress).await;
    let seen = reading.await.expect("the reader ends");
    assert_eq!(acknowledged.len(), seen.len(), "every mark was seen");
    let pairs = acknowledged.into_iter().zip(seen);
    let mut lags: Vec<_> = pairs.map(|(ok, seen)| seen.saturating_duration_since(ok)).collect();
    lags.sort_unstable();
    lags
}

/// Waits until all followers have what the leader has.
pub async fn drain(place: &Place) {
    let mut leader = Conn::new(place.leader.clone()).await.expect("connect to the leader");
    let last = highest(&mut leader).await + 1;
    leader.exec_drop(INSERT, (last,)).await.expect("insert the last mark");
    let deadline = Instant::now() + CATCH_UP_TIMEOUT;
    for follower in &place.followers {
        let mut follower = Conn::new(follower.clone()).await.expect("connect to a follower");
        while highest(&mut follower).await < last {
            assert!(Instant::now() < deadline, "a follower does not catch up");
            sleep(PAUSE).await;
        }
    }
}

/// What the reader knows of the writer.
struct Progress {
    began: Instant,
    /// When the newest mark was sent, in microseconds.
    sent_us: AtomicI64,
    last: AtomicI64,
    over: AtomicBool,
}

impl Progress {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            sent_us: AtomicI64::new(0),
            last: AtomicI64::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn now_us(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    fn is_close(&self) -> bool {
        let since = self.now_us() - self.sent_us.load(Ordering::SeqCst);
        Duration::from_micros(since.unsigned_abs()) < CLOSE
    }
}

async fn write(
    writer: &mut Conn,
    first: i64,
    length: Duration,
    progress: &Progress,
) -> Vec<Instant> {
    let insert = writer.prep(INSERT).await.expect("prepare the mark");
    let mut ticks = tokio::time::interval(BETWEEN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (until, mut acknowledged, mut id) = (Instant::now() + length, Vec::new(), first);
    while Instant::now() < until {
        ticks.tick().await;
        progress.last.store(id, Ordering::SeqCst);
        progress.sent_us.store(progress.now_us(), Ordering::SeqCst);
        writer.exec_drop(&insert, (id,)).await.expect("insert a mark");
        acknowledged.push(Instant::now());
        id += 1;
    }
    progress.over.store(true, Ordering::SeqCst);
    acknowledged
}

async fn read(reader: &mut Conn, first: i64, progress: &Progress) -> Vec<Instant> {
    let (mut seen, mut next) = (Vec::new(), first);
    loop {
        let over = progress.over.load(Ordering::SeqCst);
        let visible = highest(reader).await;
        let now = Instant::now();
        for _ in next..=visible {
            seen.push(now);
        }
        next = next.max(visible + 1);
        if over && next > progress.last.load(Ordering::SeqCst) {
            return seen;
        }
        assert!(progress.began.elapsed() < CATCH_UP_TIMEOUT, "the follower does not catch up");
        if !progress.is_close() {
            sleep(PAUSE).await;
        }
    }
}

async fn highest(connection: &mut Conn) -> i64 {
    let found = connection.query_first(HIGHEST).await.expect("read the highest mark");
    found.expect("one row")
}
