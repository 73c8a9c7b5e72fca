//! Five real nodes without databases that are killed one after the other and return, while a client
//! writes: who counts, where it stops, and that each acknowledged put is kept once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use wolfscale::wire::{self, kv_error::Happened};

use crate::nodes::{Nodes, SOON, Sender, details};

const NODES: usize = 5;
/// Five are members again soon, and the lowest ID need not wait long.
const PREEMPT_SOON: &str = "preempt_after = \"1s\"";
/// Puts before and after each step.
const PUTS: usize = 50;
/// Between two puts: what a step costs is seen to this, and the end need not read too much.
const PACE: Duration = Duration::from_millis(10);
/// After so many puts their answers are given up.
const ANSWERS_KEPT: u64 = 100;
/// A member that was silent for so long would have been dropped: more than twice `drop_after`.
const SILENT_LONG_MS: u64 = 2_000;

/// A put whose acknowledgement arrived.
#[derive(Clone, Copy)]
struct Ack {
    number: u64,
    revision: u64,
    /// When it was sent.
    began: Instant,
    /// How long the faster and the slower of the two attempts took.
    took: [Duration; 2],
}

/// A client that puts one key after the other, each twice at a time under one request number, again
/// and again until it is acknowledged.
struct Writer {
    acks: watch::Receiver<Vec<Ack>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    async fn start(nodes: &Nodes) -> Self {
        let sender = Sender::open(nodes, 0).await;
        let (acks_tx, acks) = watch::channel(Vec::new());
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(sender, acks_tx, Arc::clone(&stop)));
        Self { acks, stop, task }
    }

    fn count(&self) -> usize {
        self.acks.borrow().len()
    }

    /// Waits until so many more puts are acknowledged.
    async fn more(&self, puts: usize) {
        let (mut acks, wanted) = (self.acks.clone(), self.count() + puts);
        let written = timeout(SOON, acks.wait_for(|acks| acks.len() >= wanted)).await;
        written.expect("writes go on").expect("the writer lives");
    }

    /// How long the faster, and the slower, attempts of a put took at most of those acknowledged
    /// after `since`.
    fn longest_waits(&self, since: Instant) -> [Duration; 2] {
        let acks = self.acks.borrow();
        let later = || acks.iter().filter(|ack| ack.began + ack.took[1] > since);
        [0, 1].map(|attempt| later().map(|ack| ack.took[attempt]).max().unwrap_or_default())
    }

    /// Stops when the put under way is acknowledged; returns all that are.
    async fn stop(self) -> Vec<Ack> {
        self.stop.store(true, Ordering::SeqCst);
        let repeated = timeout(SOON, self.task).await.expect("ends").expect("joins");
        let acks = self.acks.borrow().clone();
        println!("{} puts acknowledged, {repeated} answers of earlier attempts", acks.len());
        assert!(repeated >= acks.len() as u64, "of two attempts one does nothing: {repeated}");
        acks
    }
}

/// Returns how many answers were those of an earlier attempt.
async fn write(sender: Sender, acks: watch::Sender<Vec<Ack>>, stop: Arc<AtomicBool>) -> u64 {
    let (mut pace, mut repeated) = (interval(PACE), 0);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (number, first) in (1..).zip(0..) {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = key(number);
        let began = Instant::now();
        let attempt = async |first| (sender.put(&key, number, first).await, began.elapsed());
        let ((done, one), (same, two)) = tokio::join!(attempt(first), attempt(first + 1));
        assert_eq!(done.revision, same.revision, "put {number} has two revisions");
        repeated += u64::from(done.repeated) + u64::from(same.repeated);
        let (revision, took) = (done.revision, [one.min(two), one.max(two)]);
        let ack = Ack { number, revision, began, took };
        acks.send_modify(|acks| acks.push(ack));
        if number % ANSWERS_KEPT == 0 {
            sender.answered(number).await;
        }
        pace.tick().await;
    }
    repeated
}

fn key(number: u64) -> String {
    format!("{number:08}")
}

fn told(step: &str, began: Instant, writer: &Writer) {
    let (took, [wait, slower]) = (began.elapsed(), writer.longest_waits(began));
    println!(
        "{step}: {took:.2?} with {PUTS} puts more; a put waited {wait:.0?} at most, {slower:.0?} \
         through the slower of two nodes"
    );
}

/// Each node has each acknowledged put, and nothing else, and each happened once.
async fn assert_kept(nodes: &Nodes, acks: &[Ack]) {
    let checked = join_all((0..NODES).map(|index| assert_kept_by(nodes, index, acks)));
    timeout(SOON * 2, checked).await.expect("every node answers");
}

async fn assert_kept_by(nodes: &Nodes, index: usize, acks: &[Ack]) {
    let mut client = nodes.client(index).await;
    for Ack { number, revision, .. } in acks.iter().copied() {
        let get = wire::KvGetRequest { key: key(number).into(), ..Default::default() };
        let got = client.get(get).await.expect("answers").into_inner();
        let pair = got.pair.unwrap_or_else(|| panic!("n{} lost put {number}", index + 1));
        assert_eq!(pair.value, number.to_string(), "n{}", index + 1);
        assert_eq!((pair.revision, pair.created_revision), (revision, revision), "{number}");
    }
    // Every change that there ever was.
    let watch = wire::KvWatchRequest { from_revision: 1, ..Default::default() };
    let mut stream = client.watch(watch).await.expect("begins").into_inner();
    let end = acks.last().expect("some").revision;
    let mut happened: Vec<(String, u64, u64)> = Vec::new();
    while happened.last().is_none_or(|(_, revision, _)| *revision < end) {
        let message = stream.message().await.expect("goes on").expect("goes on");
        let text = |event: &wire::KvEvent| String::from_utf8(event.key.to_vec()).expect("text");
        let event = |event| (text(event), event.revision, event.previous_revision);
        happened.extend(message.events.iter().map(event));
    }
    let wanted: Vec<_> = acks.iter().map(|ack| (key(ack.number), ack.revision, 0)).collect();
    assert_eq!(happened, wanted, "n{}: every put once, in order", index + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_shrink_to_one_and_grow_again_while_a_client_writes() {
    let mut nodes = Nodes::founded(NODES, PREEMPT_SOON).await;
    nodes.until_count(0, 0..NODES).await;
    let writer = Writer::start(&nodes).await;
    writer.more(PUTS).await;
    for gone in [4, 3, 2] {
        let began = Instant::now();
        nodes.kill(gone);
        nodes.until_count(0, 0..gone).await;
        writer.more(PUTS).await;
        told(&format!("n{} is killed, {gone} count", gone + 1), began, &writer);
    }
    // Below two nobody is dropped: n1 goes on as the half of a pair that has the lowest ID.
    let began = Instant::now();
    nodes.kill(1);
    let long_silent = |servers: &[Value]| {
        let silent_ms = servers[1]["last_seen_ms"].as_u64();
        servers[1]["state"] == "dead" && silent_ms.is_some_and(|ms| ms > SILENT_LONG_MS)
    };
    nodes.until_listed(0, "n2 is silent", long_silent).await;
    nodes.until_count(0, 0..2).await;
    writer.more(PUTS).await;
    told("n2 is killed, n1 is alone", began, &writer);

    for back in 1..NODES {
        let began = Instant::now();
        nodes.start(back);
        let alive = |servers: &[Value]| servers[back]["state"] == "alive";
        nodes.until_listed(0, "it is back", alive).await;
        nodes.until_count(0, 0..=back).await;
        writer.more(PUTS).await;
        told(&format!("n{} returns, {} count", back + 1, back + 1), began, &writer);
    }
    assert_kept(&nodes, &writer.stop().await).await;
}

/// Nothing is acknowledged through these nodes, to the writer neither: they are no quorum.
async fn assert_stopped(nodes: &Nodes, through: &[usize], writer: &Writer) {
    let before = writer.count();
    join_all(through.iter().map(|index| assert_refuses(nodes, *index))).await;
    assert_eq!(writer.count(), before, "a put was acknowledged without a quorum");
}

async fn assert_refuses(nodes: &Nodes, index: usize) {
    let (mut writes, mut reads) = (nodes.client(index).await, nodes.client(index).await);
    let put = wire::KvPutRequest { key: "alone".into(), ..Default::default() };
    let get = wire::KvGetRequest { key: key(1).into(), ..Default::default() };
    let (put, got) = tokio::join!(writes.put(put), reads.get(get));
    let failed = put.expect_err("nobody can commit it");
    assert_eq!(details(&failed).happened(), Happened::No, "n{}: {failed:?}", index + 1);
    got.expect_err("nobody knows whether it is the newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_lose_their_leaders_until_the_rule_stops_the_last_and_lose_no_write() {
    let mut nodes = Nodes::founded(NODES, PREEMPT_SOON).await;
    nodes.until_count(0, 0..NODES).await;
    let writer = Writer::start(&nodes).await;
    writer.more(PUTS).await;
    for leader in 0..3 {
        let began = Instant::now();
        nodes.kill(leader);
        nodes.until_count(leader + 1, leader + 1..NODES).await;
        writer.more(PUTS).await;
        let left = NODES - leader - 1;
        told(&format!("leader n{} is killed, {left} count", leader + 1), began, &writer);
    }
    // Of the pair n4 and n5 the higher ID is left.
    let began = Instant::now();
    nodes.kill(3);
    let dead = |servers: &[Value]| servers[3]["state"] == "dead";
    nodes.until_listed(4, "n4 is dead", dead).await;
    assert_stopped(&nodes, &[4], &writer).await;
    // With those who no longer count it is the larger part of five, and of n3's three.
    (0..3).for_each(|index| nodes.start(index));
    let back = |servers: &[Value]| servers[..3].iter().all(|server| server["state"] == "alive");
    nodes.until_listed(4, "n1, n2 and n3 are back", back).await;
    assert_stopped(&nodes, &[0, 4], &writer).await;
    let stopped = began.elapsed();
    let began = Instant::now();
    nodes.start(3);
    writer.more(1).await;
    println!("n5 stood still for {stopped:.2?}; a put {:.2?} after n4 returned", began.elapsed());
    let began = Instant::now();
    nodes.until_count(0, 0..NODES).await;
    writer.more(PUTS).await;
    told("all count again and n1 leads", began, &writer);
    assert_kept(&nodes, &writer.stop().await).await;
}
