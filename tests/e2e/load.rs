//! Clients that write through failovers, and what they were promised.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::cluster::{Cluster, until};

/// A client gives up on an answer after this; the id's fate is unknown then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two writes, and before another node is tried.
const PAUSE: Duration = Duration::from_millis(5);
/// Before sysbench is started again, if it ended by itself.
const SYSBENCH_PAUSE: Duration = Duration::from_millis(300);
const SYSBENCH_TABLES: [&str; 4] =
    ["--tables=2", "--table-size=300", "--threads=4", "--mysql-ignore-errors=all"];

/// An id whose OK arrived.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub id: i64,
    pub node: usize,
    pub at: Instant,
}

/// Writes ids into `test.ledger`, each once and never again, to whichever node takes them.
pub struct Writer {
    ledger: Arc<Mutex<Vec<Ack>>>,
    tried: Arc<AtomicI64>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts one; its ids begin after `first`.
    pub fn start(cluster: &Cluster, first: i64) -> Self {
        Self::start_among(cluster, first, &(0..cluster.count()).collect::<Vec<_>>())
    }

    /// As [`Writer::start`], to some of the nodes only.
    pub fn start_among(cluster: &Cluster, first: i64, nodes: &[usize]) -> Self {
        let nodes: Vec<_> = nodes.iter().map(|node| (*node, cluster.options(*node))).collect();
        let (ledger, tried) = (Arc::default(), Arc::new(AtomicI64::new(first)));
        let task = tokio::spawn(write(nodes, Arc::clone(&ledger), Arc::clone(&tried)));
        Self { ledger, tried, task }
    }

    /// The acknowledged ids so far.
    pub fn acks(&self) -> Vec<Ack> {
        self.ledger.lock().expect("no writer panics").clone()
    }

    /// The last acknowledged id.
    pub fn last(&self) -> i64 {
        self.acks().last().map_or(0, |ack| ack.id)
    }

    /// The first id that a node other than `node` acknowledged after an instant; waits for it.
    pub async fn first_elsewhere(&self, node: usize, after: Instant) -> Ack {
        let first = || self.acks().into_iter().find(|ack| ack.at > after && ack.node != node);
        until("a write is acknowledged by another node", async || first().is_some()).await;
        first().expect("it was just there")
    }

    /// Waits until so many more ids are acknowledged.
    pub async fn more(&self, count: usize) {
        let wanted = self.acks().len() + count;
        until("writes are acknowledged", async || self.acks().len() >= wanted).await;
    }

    /// Stops; returns what it was promised.
    pub async fn stop(self) -> Ledger {
        self.task.abort();
        let _aborted = self.task.await;
        let acks = self.ledger.lock().expect("no writer panics").clone();
        Ledger { acks, tried: self.tried.load(Ordering::SeqCst) }
    }
}

/// What clients were promised.
pub struct Ledger {
    pub acks: Vec<Ack>,
    /// The last id that was tried.
    pub tried: i64,
}

impl Ledger {
    /// This and one with higher ids together.
    pub fn and(mut self, later: Self) -> Self {
        self.acks.extend(later.acks);
        Self { acks: self.acks, tried: later.tried }
    }

    /// Waits until all nodes hold the same, then holds them to the promises: every acknowledged id
    /// is there, no id is there twice, and none that nobody wrote.
    pub async fn assert_kept(&self, cluster: &Cluster) {
        self.assert_kept_by(cluster, &(0..cluster.count()).collect::<Vec<_>>()).await;
    }

    /// As [`Ledger::assert_kept`], by some of the nodes.
    pub async fn assert_kept_by(&self, cluster: &Cluster, nodes: &[usize]) {
        let checksums = cluster.until_equal(nodes).await;
        println!("equal on all nodes: {}", checksums.join(", "));
        for index in nodes.iter().copied() {
            let counts = counts(cluster, index).await;
            let lost: Vec<_> =
                self.acks.iter().filter(|ack| !counts.contains_key(&ack.id)).collect();
            let id = cluster.id(index);
            assert!(lost.is_empty(), "{id} lost {} acknowledged ids: {lost:?}", lost.len());
            let twice: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
            assert!(twice.is_empty(), "{id} holds ids more than once: {twice:?}");
            let strange: BTreeSet<_> = counts.keys().filter(|id| **id > self.tried).collect();
            assert!(strange.is_empty(), "{id} holds ids that nobody wrote: {strange:?}");
        }
        println!("{} acknowledged of {} tried ids: all kept", self.acks.len(), self.tried);
    }
}

async fn counts(cluster: &Cluster, index: usize) -> BTreeMap<i64, u64> {
    let rows = cluster.rows(index, "SELECT id, COUNT(*) FROM test.ledger GROUP BY id").await;
    let rows = rows.unwrap_or_else(|error| panic!("{}: {error}", cluster.id(index)));
    let parsed = rows.iter().map(|row| {
        let (id, count) = row.split_once('|').expect("two columns");
        (id.parse().expect("an id"), count.parse().expect("a count"))
    });
    parsed.collect()
}

async fn write(
    nodes: Vec<(usize, OptsBuilder)>,
    ledger: Arc<Mutex<Vec<Ack>>>,
    tried: Arc<AtomicI64>,
) {
    for (node, options) in nodes.iter().cycle() {
        if let Some(connection) = connect(options).await {
            write_to(*node, connection, &ledger, &tried).await;
        }
        sleep(PAUSE).await;
    }
}

/// Writes on one connection until it fails.
async fn write_to(node: usize, mut connection: Conn, ledger: &Mutex<Vec<Ack>>, tried: &AtomicI64) {
    loop {
        let id = tried.fetch_add(1, Ordering::SeqCst) + 1;
        let insert = format!("INSERT INTO test.ledger VALUES ({id}, 'n{}')", node + 1);
        let Ok(Ok(())) = timeout(ANSWER_TIMEOUT, connection.query_drop(insert)).await else {
            return;
        };
        let ack = Ack { id, node, at: Instant::now() };
        ledger.lock().expect("no writer panics").push(ack);
        sleep(PAUSE).await;
    }
}

async fn connect(options: &OptsBuilder) -> Option<Conn> {
    timeout(ANSWER_TIMEOUT, Conn::new(options.clone())).await.ok()?.ok()
}

/// sysbench on whichever node it is told to load.
pub struct Sysbench {
    target: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Sysbench {
    /// Makes its tables and starts it.
    pub async fn start(cluster: &Cluster, leader: usize) -> Self {
        let arguments: Vec<_> = (0..cluster.count()).map(|index| cluster.sysbench(index)).collect();
        let prepared = command(&arguments[leader], "prepare").output().await.expect("sysbench");
        let said = String::from_utf8_lossy(&prepared.stdout);
        assert!(prepared.status.success(), "sysbench prepare: {said}");
        let (target, targets) = watch::channel(leader);
        Self { target, task: tokio::spawn(load(arguments, targets)) }
    }

    /// Loads another node from now on.
    pub fn go_to(&self, node: usize) {
        self.target.send_replace(node);
    }

    /// Ends it.
    pub async fn stop(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }
}

async fn load(arguments: Vec<Vec<String>>, mut targets: watch::Receiver<usize>) {
    loop {
        let target = *targets.borrow_and_update();
        let mut child: Child = command(&arguments[target], "run").spawn().expect("start sysbench");
        tokio::select! {
            _ended = child.wait() => sleep(SYSBENCH_PAUSE).await,
            changed = targets.changed() => {
                let _killed = child.kill().await;
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

fn command(place: &[String], action: &str) -> Command {
    let mut command = Command::new("sysbench");
    command.arg("oltp_read_write").args(place).args(SYSBENCH_TABLES).args(["--time=600", action]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}
