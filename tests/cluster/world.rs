//! A cluster in one thread and one seed: replica, host, log and appliers are the shipped code;
//! the engine, the transport and the clock are simulated.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use wolfscale::{
    apply::{Applier, ApplyError, Command, Outcome, StateCheck, StateMachine, View, check_state},
    clock::Moment,
    cluster::{change::Change, membership::Policy},
    config::Timing,
    kv::{KvMachine, reader::KvReader},
    log::{EntrySource, Log, entry::EntryKind},
    replicate::{
        boot::{Boot, start_replica},
        host::{Host, LogWrite, LogWriter},
        message::{Envelope, Message},
        propose::{Proposal, ProposeError, Released},
        replica::{ChangeRefused, Fitness, FoundingPlan, HardState},
        role::RoleView,
        transport::Transport,
    },
    store::{Direction, Durability, Engine, MemoryEngine, Rows, Space},
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, RequestId},
};

/// Where the test's state machine keeps what it applied.
const TALLY: Space = Space(0x3f);

/// How hostile the world is; zeroes for a calm one.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub drop_per_mille: u32,
    pub duplicate_per_mille: u32,
    pub delay_us: (u64, u64),
    pub fsync_us: (u64, u64),
}

pub const CALM: Weather = Weather {
    drop_per_mille: 0,
    duplicate_per_mille: 0,
    delay_us: (100, 100),
    fsync_us: (200, 200),
};
pub const STORMY: Weather = Weather {
    drop_per_mille: 10,
    duplicate_per_mille: 10,
    delay_us: (50, 20_000),
    fsync_us: (100, 8_000),
};

#[derive(Debug)]
enum Event {
    Tick(usize, u64),
    Deliver(usize, Envelope),
    Written(usize, u64),
}

/// What a node keeps while it is down.
struct Disk {
    log: MemoryEngine,
    state: MemoryEngine,
    hard: HardState,
    watermark: (Lsn, ChainHash),
    incarnation: Incarnation,
}

struct Running {
    host: Host<SimWriter>,
    applier: Applier,
    writes: Arc<Mutex<VecDeque<LogWrite>>>,
    in_flight: VecDeque<LogWrite>,
    life: u64,
}

struct Node {
    id: NodeId,
    disk: Disk,
    running: Option<Running>,
    life: u64,
    clock_offset: u64,
    up_since: u64,
    eligible: bool,
    /// How many commands its database is behind.
    behind: u64,
    /// How many times slower its disk is than the weather says.
    disk_slowness: u64,
    view: RoleView,
    committed_seen: Lsn,
}

impl Node {
    fn fitness(&self) -> Fitness {
        let (eligible, behind) = (self.eligible, self.behind);
        Fitness { eligible, behind, ..Fitness::WITHOUT_DATABASE }
    }
}

/// A command that a client sent, and what it was told.
struct Asked {
    id: u64,
    answer: oneshot::Receiver<Result<Released, ProposeError>>,
}

pub struct World {
    pub seed: u64,
    pub now: u64,
    pub rng: ChaCha8Rng,
    pub weather: Weather,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    outbox: Arc<Mutex<Vec<(usize, NodeId, Envelope)>>>,
    cut: BTreeSet<(usize, usize)>,
    link_fault_at: BTreeMap<(usize, usize), u64>,
    history: BTreeMap<Lsn, ChainHash>,
    asked: Vec<Asked>,
    next_id: u64,
    pub acknowledged: BTreeMap<u64, Lsn>,
    pub proposals: u64,
    pub faults: u64,
    pub elections: u64,
    pub elections_checked: u64,
    pub trace: Vec<String>,
    /// Whether messages other than heartbeats go into the trace.
    pub record_messages: bool,
}

struct SimTransport {
    from: usize,
    outbox: Arc<Mutex<Vec<(usize, NodeId, Envelope)>>>,
}

impl Transport for SimTransport {
    fn send(&self, to: &NodeId, envelope: Envelope) {
        let mut outbox = self.outbox.lock().expect("one thread");
        outbox.push((self.from, to.clone(), envelope));
    }
}

struct SimWriter(Arc<Mutex<VecDeque<LogWrite>>>);

impl LogWriter for SimWriter {
    fn submit(&mut self, write: LogWrite) {
        self.0.lock().expect("one thread").push_back(write);
    }
}

/// Remembers under which LSN every command was applied: twice would show.
struct Tally;

impl StateMachine for Tally {
    fn kind(&self) -> EntryKind {
        EntryKind::Disk
    }

    fn apply(&mut self, command: &Command, state: &mut View<'_>) -> Result<Bytes, ApplyError> {
        let key = [&command.body[..8], &command.at.lsn.0.to_be_bytes()].concat();
        state.put(TALLY, key, Bytes::from((command.body.len() as u64).to_be_bytes().to_vec()));
        Ok(Bytes::new())
    }
}

impl World {
    pub fn new(seed: u64, nodes: usize, weather: Weather) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let nodes = (0..nodes)
            .map(|index| Node {
                id: format!("n{}", index + 1).parse().expect("valid"),
                disk: Disk {
                    log: MemoryEngine::default(),
                    state: MemoryEngine::default(),
                    hard: HardState::default(),
                    watermark: (Lsn::ZERO, ChainHash::default()),
                    incarnation: Incarnation(rng.random()),
                },
                running: None,
                life: 0,
                clock_offset: rng.random_range(0..1_000_000_000_000),
                up_since: 0,
                eligible: true,
                behind: 0,
                disk_slowness: 1,
                view: RoleView::nobody(),
                committed_seen: Lsn::ZERO,
            })
            .collect();
        Self {
            seed,
            now: 0,
            rng,
            weather,
            nodes,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            sequence: 0,
            outbox: Arc::default(),
            cut: BTreeSet::new(),
            link_fault_at: BTreeMap::new(),
            history: BTreeMap::new(),
            asked: Vec::new(),
            next_id: 1,
            acknowledged: BTreeMap::new(),
            proposals: 0,
            faults: 0,
            elections: 0,
            elections_checked: 0,
            trace: Vec::new(),
            record_messages: false,
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn id(&self, index: usize) -> &NodeId {
        &self.nodes[index].id
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.nodes[index].running.is_some()
    }

    /// The node that leads with the highest term, if any claims to.
    pub fn leader(&self) -> Option<usize> {
        let leading = self.nodes.iter().enumerate().filter(|(_, n)| n.running.is_some());
        let leading = leading.filter(|(_, n)| n.view.leads());
        leading.max_by_key(|(_, n)| n.view.term.clone().map(|t| t.number)).map(|(i, _)| i)
    }

    pub fn view(&self, index: usize) -> &RoleView {
        &self.nodes[index].view
    }

    pub fn last_lsn(&self, index: usize) -> Lsn {
        let running = self.nodes[index].running.as_ref();
        running.map_or(Lsn::ZERO, |r| r.host.replica().shape().last_lsn())
    }

    pub fn released(&self, index: usize) -> Lsn {
        self.nodes[index].running.as_ref().map_or(Lsn::ZERO, |r| r.host.replica().released())
    }

    pub fn counts(&self, index: usize) -> bool {
        self.nodes[index].running.as_ref().is_some_and(|r| r.host.replica().counts())
    }

    fn moment(&self, index: usize) -> Moment {
        Moment(self.now + self.nodes[index].clock_offset)
    }

    fn say(&mut self, what: String) {
        let line = format!("{:>9} {what}", self.now / 1000);
        self.trace.push(line);
    }

    pub fn start(&mut self, index: usize) {
        let members: Vec<(NodeId, String)> =
            self.nodes.iter().map(|n| (n.id.clone(), format!("{}:1", n.id))).collect();
        let cluster = ClusterId(self.rng.random());
        let now = self.moment(index);
        let node = &mut self.nodes[index];
        let engine: Arc<dyn Engine> = Arc::new(node.disk.log.clone());
        let (log, recovery) = Log::open(engine.clone()).expect("the log opens");
        assert_eq!(recovery.damaged, None, "no simulated fault damages a log");
        let (lsn, chain) = node.disk.watermark;
        let remembers =
            lsn <= log.shape().last_lsn() && log.chain_at(lsn).expect("readable") == chain;
        if !remembers {
            node.disk.incarnation = Incarnation(node.disk.incarnation.0 ^ 0xdead);
        }
        let founding = FoundingPlan {
            members: members.clone(),
            policy: Policy::Majority,
            cluster,
            db_position: Some(String::new()),
            never_leader: false,
        };
        let boot = Boot {
            id: node.id.clone(),
            incarnation: node.disk.incarnation,
            remembers,
            hard: node.disk.hard.clone(),
            timing: Timing::default(),
            initial_peers: members.iter().map(|(id, _)| id.clone()).collect(),
            founding: Some(founding),
            now,
        };
        let mut replica = start_replica(&*engine, &log, boot).expect("it starts");
        replica.set_fitness(node.fitness());
        let source: Arc<dyn EntrySource> = Arc::new(log.reader());
        if check_state(&*source, &node.disk.state).expect("readable") == StateCheck::Stale {
            node.disk.state = MemoryEngine::default();
        }
        let state: Arc<dyn Engine> = Arc::new(node.disk.state.clone());
        let machines: Vec<Box<dyn StateMachine>> =
            vec![Box::new(Tally), Box::new(KvMachine::default())];
        let applier = Applier::open(source, state, machines).expect("the state opens");
        let writes: Arc<Mutex<VecDeque<LogWrite>>> = Arc::default();
        let transport = SimTransport { from: index, outbox: self.outbox.clone() };
        let host = Host::new(
            (node.id.clone(), node.disk.incarnation),
            replica,
            log,
            SimWriter(writes.clone()),
            Arc::new(transport),
        );
        node.life += 1;
        node.up_since = self.now;
        node.committed_seen = host.replica().committed();
        node.view = RoleView::nobody();
        let life = node.life;
        node.running = Some(Running { host, applier, writes, in_flight: VecDeque::new(), life });
        self.say(format!("n{} starts", index + 1));
        self.schedule(self.now, Event::Tick(index, life));
    }

    /// kill -9, or a power cut: what was not yet durable is lost, but for a prefix of the writes
    /// that were on their way.
    pub fn crash(&mut self, index: usize) {
        let Some(running) = self.nodes[index].running.take() else { return };
        let pending = running.in_flight.len();
        let survive = self.rng.random_range(0..=pending);
        let node = &mut self.nodes[index];
        for write in running.in_flight.into_iter().take(survive) {
            node.disk.watermark = write.cut_to.unwrap_or(node.disk.watermark);
            node.disk.log.commit(write.batch, Durability::Durable).expect("memory");
            node.disk.hard = node.disk.hard.clone().later(write.hard.unwrap_or_default());
        }
        node.disk.state.power_cut();
        node.view = RoleView::nobody();
        self.faults += 1;
        self.say(format!("n{} crashes, {survive} of {pending} writes survive", index + 1));
    }

    /// From now on a node's disk is so many times slower; 1 is as it should be.
    pub fn slow_disk(&mut self, index: usize, slowness: u64) {
        self.nodes[index].disk_slowness = slowness;
        self.faults += u64::from(slowness > 1);
        self.say(format!("n{}'s disk is {slowness} times slower", index + 1));
    }

    /// Copies a node's log store as it is now, to be put back later.
    pub fn copy_log(&self, index: usize) -> MemoryEngine {
        self.nodes[index].disk.log.fork()
    }

    /// Replaces the log store of a node that is down.
    pub fn replace_log(&mut self, index: usize, log: MemoryEngine) {
        assert!(!self.is_up(index), "only while it is down");
        self.nodes[index].disk.log = log;
        self.faults += 1;
    }

    /// How many commands its database has not applied yet.
    pub fn set_behind(&mut self, index: usize, behind: u64) {
        self.nodes[index].behind = behind;
        self.tell_fitness(index);
    }

    pub fn set_eligible(&mut self, index: usize, eligible: bool) {
        self.nodes[index].eligible = eligible;
        self.tell_fitness(index);
    }

    fn tell_fitness(&mut self, index: usize) {
        let fitness = self.nodes[index].fitness();
        if let Some(running) = &mut self.nodes[index].running {
            running.host.replica_mut().set_fitness(fitness);
        }
    }

    pub fn may_stand(&self, index: usize) -> bool {
        self.nodes[index].running.as_ref().is_some_and(|r| r.host.replica().may_stand())
    }

    /// How many nodes count, as a node's newest configuration says.
    pub fn voters(&self, index: usize) -> usize {
        let running = self.nodes[index].running.as_ref();
        let configuration = running.and_then(|r| r.host.replica().configuration());
        configuration.map_or(0, |configuration| configuration.voters().count())
    }

    /// Orders a change of the membership.
    pub fn change(&mut self, index: usize, change: &Change) -> Result<Lsn, ChangeRefused> {
        let running = self.nodes[index].running.as_mut().expect("it runs");
        let ordered = running.host.replica_mut().change(change);
        self.settle(index);
        ordered
    }

    pub fn hand_over(&mut self, index: usize) -> bool {
        let now = self.moment(index);
        let Some(running) = &mut self.nodes[index].running else { return false };
        running.host.replica_mut().hand_over(None, now)
    }

    /// Cuts the link in that direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Splits the cluster in two.
    pub fn partition(&mut self, side: &BTreeSet<usize>) {
        for a in 0..self.len() {
            for b in 0..self.len() {
                if side.contains(&a) != side.contains(&b) {
                    self.cut(a, b);
                }
            }
        }
        self.faults += 1;
        self.say(format!("partition {side:?}"));
    }

    pub fn heal(&mut self) {
        for link in std::mem::take(&mut self.cut) {
            self.link_fault_at.insert(link, self.now);
        }
        self.say("heal".to_owned());
    }

    /// A client asks node `index` for a command of about so many bytes.
    pub fn ask(&mut self, index: usize, bytes: usize) {
        let (id, now) = (self.next_id, self.moment(index));
        let Some(running) = &mut self.nodes[index].running else { return };
        self.next_id += 1;
        self.proposals += 1;
        let mut body = id.to_be_bytes().to_vec();
        body.resize(bytes.max(8), u8::try_from(id % 251).expect("small"));
        let (answer, answered) = oneshot::channel();
        running.host.propose(
            Proposal {
                kind: EntryKind::Disk,
                body: body.into(),
                request: None,
                only_in: None,
                answer,
            },
            now,
        );
        self.asked.push(Asked { id, answer: answered });
        self.settle(index);
    }

    /// A client hands a command to node `index`; `None` if it is down.
    pub fn propose(
        &mut self,
        index: usize,
        kind: EntryKind,
        body: Vec<u8>,
        request: Option<RequestId>,
    ) -> Option<oneshot::Receiver<Result<Released, ProposeError>>> {
        let now = self.moment(index);
        let running = self.nodes[index].running.as_mut()?;
        self.proposals += 1;
        let (answer, answered) = oneshot::channel();
        let body = body.into();
        running.host.propose(Proposal { kind, body, request, only_in: None, answer }, now);
        self.settle(index);
        Some(answered)
    }

    /// A client asks node `index` for a read index; `None` if it is down.
    pub fn read_index(&mut self, index: usize) -> Option<oneshot::Receiver<Option<Lsn>>> {
        let now = self.moment(index);
        let (answer, answered) = oneshot::channel();
        self.nodes[index].running.as_mut()?.host.read_index(answer, now);
        self.settle(index);
        Some(answered)
    }

    /// Which life of the node's process it is; `None` while it is down.
    pub fn life(&self, index: usize) -> Option<u64> {
        self.nodes[index].running.as_ref().map(|running| running.life)
    }

    /// What a node has applied.
    pub fn applied(&self, index: usize) -> Lsn {
        self.nodes[index].running.as_ref().map_or(Lsn::ZERO, |r| r.applier.applied().at())
    }

    /// What became of a command at that LSN, where it was applied.
    pub fn outcome(&self, index: usize, lsn: Lsn) -> Option<Outcome> {
        self.nodes[index].running.as_ref()?.applier.outcomes().at(lsn)
    }

    /// A node's KV.
    pub fn kv(&self, index: usize) -> KvReader {
        KvReader::new(Arc::new(self.nodes[index].disk.state.clone()))
    }

    /// Everything in a node's state store.
    pub fn contents(&self, index: usize) -> Vec<Rows> {
        let state = &self.nodes[index].disk.state;
        let all = [0xff; 64];
        let rows = |space| state.scan(Space(space), &[], &all, Direction::Forward, usize::MAX);
        (0..=u8::MAX).map(|space| rows(space).expect("memory")).collect()
    }

    /// Runs until then.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + u64::try_from(time.as_nanos()).expect("short");
        while let Some(Reverse((at, sequence))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = at;
            let event = self.bodies.remove(&(at, sequence)).expect("queued together");
            self.happen(event);
        }
        self.now = until;
    }

    /// Runs until the condition holds, at most so long; tells whether it does.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let steps = limit.as_millis() / 10;
        for _ in 0..steps {
            if done(self) {
                return true;
            }
            self.run_for(Duration::from_millis(10));
        }
        done(self)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence)));
        self.bodies.insert((at, self.sequence), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(index, life) => {
                let now = self.moment(index);
                let Some(running) = self.alive(index, life) else { return };
                running.host.tick(now);
                // Here nothing must be closed first, as a database must.
                if let Some(heir) = running.host.replica().heir(now) {
                    running.host.replica_mut().hand_over(Some(heir), now);
                }
                self.settle(index);
                self.schedule(self.now + 10_000_000, Event::Tick(index, life));
            }
            Event::Deliver(index, envelope) => {
                let now = self.moment(index);
                let Some(running) = &mut self.nodes[index].running else { return };
                running.host.receive(envelope, now);
                self.settle(index);
            }
            Event::Written(index, life) => {
                let now = self.moment(index);
                let Some(running) = self.alive(index, life) else { return };
                let Some(write) = running.in_flight.pop_front() else { return };
                let node = &mut self.nodes[index];
                node.disk.log.commit(write.batch, Durability::Durable).expect("memory");
                node.disk.hard = node.disk.hard.clone().later(write.hard.unwrap_or_default());
                node.disk.watermark = write.end;
                if let Some(running) = &mut node.running {
                    running.host.written(write.ticket, now);
                }
                self.settle(index);
            }
        }
    }

    fn alive(&mut self, index: usize, life: u64) -> Option<&mut Running> {
        self.nodes[index].running.as_mut().filter(|running| running.life == life)
    }

    /// Takes out what the host wants: messages, writes; applies; checks.
    fn settle(&mut self, index: usize) {
        let now = self.moment(index);
        let Some(running) = &mut self.nodes[index].running else { return };
        running.host.settle(now);
        assert_eq!(running.host.fatal(), None, "seed {}", self.seed);
        let life = running.life;
        let new: Vec<LogWrite> = running.writes.lock().expect("one thread").drain(..).collect();
        let count = new.len();
        running.in_flight.extend(new);
        let marks = running.host.watermarks();
        let ready = marks.released.at().min(marks.durable.at());
        while running.applier.apply_some(ready).expect("applies") < ready {}
        let applied = running.applier.applied().at();
        running.host.replica_mut().set_applied(applied);
        let view = running.host.role().borrow().clone();
        for _ in 0..count {
            // Whichever of these comes first, the oldest write is the one that is done.
            let (min, max) = self.weather.fsync_us;
            let took_us = self.rng.random_range(min..=max) * self.nodes[index].disk_slowness;
            self.schedule(self.now + 1000 * took_us, Event::Written(index, life));
        }
        self.deliver_outbox();
        self.check(index, view);
        self.collect_answers();
    }

    fn deliver_outbox(&mut self) {
        let sent: Vec<_> = self.outbox.lock().expect("one thread").drain(..).collect();
        for (from, to, envelope) in sent {
            if let Some(line) = self.record_messages.then(|| told(&envelope.message)).flatten() {
                self.say(format!("n{} → {to} {line}", from + 1));
            }
            let to = self.nodes.iter().position(|n| n.id == to).expect("a member");
            let lost = self.rng.random_range(0..1000) < self.weather.drop_per_mille;
            if lost || self.cut.contains(&(from, to)) {
                self.link_fault_at.insert((from, to), self.now);
                continue;
            }
            let twice = self.rng.random_range(0..1000) < self.weather.duplicate_per_mille;
            for _ in 0..=usize::from(twice) {
                let (min, max) = self.weather.delay_us;
                let delay = 1000 * self.rng.random_range(min..=max);
                self.schedule(self.now + delay, Event::Deliver(to, envelope.clone()));
            }
        }
    }

    /// One history, and the lowest eligible live ID wins.
    fn check(&mut self, index: usize, view: RoleView) {
        let node = &mut self.nodes[index];
        let Some(running) = &node.running else { return };
        let committed = running.host.replica().committed();
        let from = node.committed_seen.next();
        node.committed_seen = committed;
        let reader = running.host.reader();
        for lsn in from.0..=committed.0 {
            let entry = reader.entry(Lsn(lsn)).expect("readable").expect("committed, so held");
            let known = *self.history.entry(Lsn(lsn)).or_insert(entry.chain);
            assert!(
                known == entry.chain,
                "seed {}: n{} has another history at {lsn}: {entry:?}\n{}",
                self.seed,
                index + 1,
                self.trace.join("\n")
            );
        }
        let was = self.nodes[index].view.clone();
        if was == view {
            return;
        }
        let now_leads = view.leads() && !was.leads();
        let line = format!("n{} {:?} {:?}", index + 1, view.role, view.term);
        self.nodes[index].view = view;
        self.say(line);
        if now_leads {
            self.elections += 1;
            self.check_election(index);
        }
    }

    /// A winner's right is checked where nothing excuses it: a lower node that was up, eligible
    /// and linked without a fault to all others for a while, which were up themselves.
    fn check_election(&mut self, winner: usize) {
        let long_ago = self.now.saturating_sub(3_000_000_000);
        let running = |index: usize| self.nodes[index].running.is_some();
        let steady = |from: usize, to: usize| {
            let faulty = self.link_fault_at.get(&(from, to)).is_some_and(|at| *at >= long_ago);
            !faulty && !self.cut.contains(&(from, to))
        };
        let all_settled = (0..self.len()).all(|n| !running(n) || self.nodes[n].up_since < long_ago);
        if !all_settled {
            return;
        }
        self.elections_checked += 1;
        for lower in (0..winner).filter(|n| running(*n)) {
            let others = (0..self.len()).filter(|n| *n != lower && running(*n));
            let linked = others.into_iter().all(|n| steady(lower, n) && steady(n, lower));
            assert!(
                !(linked && self.may_stand(lower)),
                "seed {}: n{} won while n{} was there\n{}",
                self.seed,
                winner + 1,
                lower + 1,
                self.trace.join("\n")
            );
        }
    }

    fn collect_answers(&mut self) {
        let mut open = Vec::new();
        for mut asked in std::mem::take(&mut self.asked) {
            match asked.answer.try_recv() {
                Ok(Ok(released)) => {
                    let line = format!("acknowledged {} at {}", asked.id, released.position);
                    self.say(line);
                    self.acknowledged.insert(asked.id, released.position.lsn);
                }
                Err(oneshot::error::TryRecvError::Empty) => open.push(asked),
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
        }
        self.asked = open;
    }

    /// What a node's state machine holds.
    pub fn state(&self, index: usize) -> Vec<(Bytes, Bytes)> {
        let state = &self.nodes[index].disk.state;
        state.scan(TALLY, &[], &[0xff; 17], Direction::Forward, usize::MAX).expect("memory")
    }

    /// Every acknowledged command is in every node's state, once; logs and states are equal.
    pub fn check_end(&self) {
        let seed = self.seed;
        let first = self.state(0);
        for index in 1..self.len() {
            assert_eq!(self.last_lsn(index), self.last_lsn(0), "logs differ, seed {seed}");
            assert_eq!(self.state(index), first, "states differ, seed {seed}");
        }
        let mut applied: BTreeMap<u64, Vec<Lsn>> = BTreeMap::new();
        for (key, _) in &first {
            let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
            applied.entry(number(&key[..8])).or_default().push(Lsn(number(&key[8..])));
        }
        for (id, lsns) in &applied {
            assert_eq!(lsns.len(), 1, "command {id} was applied twice, seed {seed}");
        }
        for (id, lsn) in &self.acknowledged {
            assert_eq!(applied.get(id), Some(&vec![*lsn]), "command {id} is lost, seed {seed}");
        }
    }

    /// Whether all nodes are up, follow one leader, and have applied everything.
    pub fn is_settled(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let last = self.last_lsn(leader);
        self.nodes.iter().enumerate().all(|(index, node)| {
            node.running.as_ref().is_some_and(|running| {
                running.applier.applied().at() == last
                    && self.last_lsn(index) == last
                    && node.view.leader == self.nodes[leader].view.leader
            })
        })
    }
}

/// A message as a protocol trace shows it; heartbeats are left out.
fn told(message: &Message) -> Option<String> {
    let yes = |granted: bool| if granted { "granted" } else { "refused" };
    Some(match message {
        Message::Heartbeat(_) | Message::HeartbeatReply(_) => return None,
        Message::PreVote(m) => format!("PreVote {}", m.number),
        Message::PreVoteReply(m) if m.stands => format!("PreVoteReply {} stands itself", m.number),
        Message::PreVoteReply(m) => format!("PreVoteReply {} {}", m.number, yes(m.granted)),
        Message::Prepare(m) if m.handover => format!("Prepare {} handover", m.term),
        Message::Prepare(m) => format!("Prepare {}", m.term),
        Message::Promise(m) => format!("Promise {} {} last={}", m.term, yes(m.granted), m.last),
        Message::Fetch(m) => format!("Fetch {} after={}", m.term, m.after),
        Message::Fetched(m) => match &m.result {
            Ok(run) => {
                format!("Fetched {} after={} entries={}", m.term, m.after, run.entries.len())
            }
            Err(hint) => format!("Fetched {} after={} not here, hint={hint}", m.term, m.after),
        },
        Message::Append(m) => format!(
            "Append {} previous={} entries={} committed={}",
            m.term,
            m.previous,
            m.run.entries.len(),
            m.committed
        ),
        Message::Appended(m) => match &m.result {
            Ok(up_to) => format!("Appended {} up to {up_to}", m.term),
            Err(hint) => format!("Appended {} refused, hint={hint}", m.term),
        },
        Message::Handover { term } => format!("Handover {term}"),
    })
}
