//! What a cluster is, as the model sees it: nodes with logs, what their disks hold, what they remember
//! only while they run, and beside them what no node knows: which OKs were given.

use std::ops::Deref;

/// A set of nodes, one bit each.
pub type Set = u8;
/// The most nodes of a cluster.
pub const NODES_MAX: usize = 4;
/// The room of a log. Scopes stay far below it, so that healing has room left.
pub const LOG_MAX: usize = 24;
/// The most operations that clients propose; a set of them has one bit each.
pub const OPERATIONS_MAX: u8 = 8;

/// The nodes of a set, lowest ID first.
pub fn nodes(set: Set) -> impl Iterator<Item = u8> {
    (0..NODES_MAX as u8).filter(move |n| set >> n & 1 == 1)
}

/// The set of one.
pub fn only(node: u8) -> Set {
    1 << node
}

/// Number first, so that the order is the one in which terms replace each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term {
    pub number: u8,
    pub leader: u8,
}

/// One life of a node's memory. It ends when its disk loses something (`disk`), and when a node that lost
/// a merge enters another lineage: it may be one where it acknowledged what it no longer holds (`returns`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation {
    pub disk: u8,
    pub returns: u8,
}

/// The members, each with the incarnation that counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Configuration {
    pub members: Set,
    incarnations: [Incarnation; NODES_MAX],
}

impl Configuration {
    pub fn new(members: Set, incarnation: impl Fn(u8) -> Incarnation) -> Self {
        nodes(members).fold(Self::default(), |c, node| c.with(node, incarnation(node)))
    }

    pub fn with(mut self, node: u8, incarnation: Incarnation) -> Self {
        self.members |= only(node);
        self.incarnations[node as usize] = incarnation;
        self
    }

    pub fn without(mut self, node: u8) -> Self {
        self.members &= !only(node);
        self.incarnations[node as usize] = Incarnation::default();
        self
    }

    pub fn incarnation(&self, node: u8) -> Incarnation {
        self.incarnations[node as usize]
    }

    /// Whether it names that life of that node.
    pub fn names(&self, node: u8, incarnation: Incarnation) -> bool {
        self.members & only(node) != 0 && self.incarnation(node) == incarnation
    }
}

/// What an entry says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The first entry of a reign.
    Own,
    /// A client's operation.
    Data(u8),
    Config(Configuration),
    /// A forced take-over; `committed` is the highest commit index that was known among the promisers.
    Fork {
        forcer: u8,
        committed: u8,
        configuration: Configuration,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub term: Term,
    pub kind: Kind,
}

impl Entry {
    /// The configuration that it sets, fork entries included.
    pub fn configuration(&self) -> Option<Configuration> {
        match self.kind {
            Kind::Config(c) | Kind::Fork { configuration: c, .. } => Some(c),
            Kind::Own | Kind::Data(_) => None,
        }
    }

    pub fn is_fork(&self) -> bool {
        matches!(self.kind, Kind::Fork { .. })
    }
}

/// Entries from LSN 1; the entry of an LSN stands at `lsn - 1`.
#[derive(Clone, Copy)]
pub struct Log {
    entries: [Entry; LOG_MAX],
    len: u8,
}

impl Log {
    pub fn new() -> Self {
        let nothing = Entry { term: Term::default(), kind: Kind::Own };
        Self { entries: [nothing; LOG_MAX], len: 0 }
    }

    /// The LSN of its last entry; 0 if it is empty.
    pub fn end(&self) -> u8 {
        self.len
    }

    pub fn push(&mut self, entry: Entry) {
        self.entries[self.len as usize] = entry;
        self.len += 1;
    }

    pub fn cut(&mut self, end: u8) {
        self.len = self.len.min(end);
    }

    /// Its first `end` entries.
    pub fn upto(&self, end: u8) -> &[Entry] {
        &self.entries[..end.min(self.len) as usize]
    }
}

impl Deref for Log {
    type Target = [Entry];
    fn deref(&self) -> &[Entry] {
        &self.entries[..self.len as usize]
    }
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Log {}

impl std::hash::Hash for Log {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, e) in self.iter().enumerate() {
            write!(f, " {}:{}{}", at + 1, e.term.number, (b'A' + e.term.leader) as char)?;
            match e.kind {
                Kind::Own => write!(f, "·own")?,
                Kind::Data(op) => write!(f, "·x{op}")?,
                Kind::Config(c) => write!(f, "·{}", letters(c.members))?,
                Kind::Fork { committed, configuration, .. } => {
                    write!(f, "·FORK@{committed}{}", letters(configuration.members))?;
                }
            }
        }
        Ok(())
    }
}

/// `{A,C}` for a trace.
pub fn letters(set: Set) -> String {
    let names: Vec<_> = nodes(set).map(|n| ((b'A' + n) as char).to_string()).collect();
    format!("{{{}}}", names.join(","))
}

/// How a node takes part since it started.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Standing {
    /// Started, or paused, or lost a merge: no leader has re-admitted it yet.
    #[default]
    Cold,
    /// Receives a leader's log, but does not hold it all or is no member.
    Learning,
    /// Has held its leader's whole log while it stood in the newest configuration.
    Active,
}

/// What a leader knows of a node from its answers; it may be old, never untrue when it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ack {
    /// Durable there, and equal to the leader's log.
    pub durable: u8,
    /// The newest configuration that it has durably recorded as committed.
    pub recorded: u8,
    /// The life of the store that answered.
    pub incarnation: Incarnation,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Node {
    // On disk.
    pub log: Log,
    /// So much of the log outlives a crash.
    pub durable: u8,
    pub promised: Term,
    pub incarnation: Incarnation,
    /// The newest configuration or fork that it recorded as committed.
    pub recorded: u8,
    /// The newest fork of its lineage that it knows to be ratified; 0: none.
    pub ratified: u8,
    /// Its log is shorter than what it once made durable, and no leader has re-admitted it.
    pub rebuilt: bool,
    /// It lost a merge, and with that entries which it may have acknowledged in a lineage that it left.
    /// Where it goes next may be there, and so it begins another incarnation.
    pub cut: bool,
    /// Entries up to here are no longer held as entries, only as state.
    pub trimmed: u8,
    /// Operations in its quarantine tree.
    pub quarantine: u8,
    /// The term to whose leader it granted the last lease. A start waits out a lease, so it stays.
    pub granted: Term,
    // In memory.
    pub up: bool,
    pub standing: Standing,
    pub leads: bool,
    pub committed: u8,
    pub released: u8,
    /// As leader: who granted its lease. It holds as long as they are a quorum of what is in force.
    pub leased: Set,
    /// As leader: what the others answered.
    pub acks: [Ack; NODES_MAX],
}

/// What no node knows: that a client got an OK, and on whose disks the promise rests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Given {
    pub ok: bool,
    pub forced: bool,
    /// Members that were active at that moment and have kept their disks since.
    pub keepers: Set,
}

/// A rule that a single step broke; the invariants report it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Broken {
    /// A leader of the same lineage cut off what a follower knew to be committed.
    CommittedCut,
    /// A suffix went to quarantine of which entries were trimmed before.
    QuarantineIncomplete,
    /// Nothing decides which of two branches wins, though nobody forgot a node.
    MergeUndecided,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub node: [Node; NODES_MAX],
    /// Nodes that reach neither the gateway nor any peer.
    pub isolated: Set,
    pub operations: u8,
    pub given: [Given; OPERATIONS_MAX as usize],
    pub broken: Option<Broken>,
    /// Counters that a scope bounds.
    pub crashes: u8,
    pub rollbacks: u8,
    pub isolations: u8,
}

/// One line for a trace.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flag = |set: bool, name| if set { name } else { "" };
        write!(
            f,
            "{}{}{:?}{}{} promised {}{} durable {} committed {} recorded {} released {} ratified {} \
             trimmed {} incarnation {}.{} quarantine {:#b} |{:?}",
            flag(!self.up, "down "),
            flag(self.leads, "leads "),
            self.standing,
            flag(self.rebuilt, " rebuilt"),
            flag(self.cut, " cut"),
            self.promised.number,
            (b'A' + self.promised.leader) as char,
            self.durable,
            self.committed,
            self.recorded,
            self.released,
            self.ratified,
            self.trimmed,
            self.incarnation.disk,
            self.incarnation.returns,
            self.quarantine,
            self.log
        )
    }
}

impl Node {
    fn founded(log: Log) -> Self {
        Self {
            durable: log.end(),
            recorded: log.end(),
            committed: log.end(),
            released: log.end(),
            log,
            promised: Term::default(),
            incarnation: Incarnation::default(),
            ratified: 0,
            rebuilt: false,
            cut: false,
            trimmed: 0,
            quarantine: 0,
            granted: Term::default(),
            up: true,
            standing: Standing::Active,
            leads: false,
            leased: 0,
            acks: [Ack::default(); NODES_MAX],
        }
    }

    /// Operations of its log up to `end`, one bit each.
    pub fn operations(&self, end: u8) -> u8 {
        self.log.upto(end).iter().fold(0, |set, e| match e.kind {
            Kind::Data(op) => set | 1 << op,
            _ => set,
        })
    }

    /// Back to a follower that leads nothing.
    pub fn follow(&mut self) {
        self.leads = false;
        self.leased = 0;
        self.acks = [Ack::default(); NODES_MAX];
    }
}

impl State {
    /// A founded cluster: entry 1 names the founders, and they have it. The others run and are empty.
    pub fn founded(count: u8, founders: Set) -> Self {
        let mut log = Log::new();
        let kind = Kind::Config(Configuration::new(founders, |_| Incarnation::default()));
        log.push(Entry { term: Term::default(), kind });
        let mut node = [Node::founded(log); NODES_MAX];
        for (id, n) in node.iter_mut().enumerate().filter(|(id, _)| founders >> id & 1 == 0) {
            *n = Node::founded(Log::new());
            n.standing = Standing::Cold;
            n.up = id < usize::from(count);
        }
        Self {
            node,
            isolated: 0,
            operations: 0,
            given: [Given::default(); OPERATIONS_MAX as usize],
            broken: None,
            crashes: 0,
            rollbacks: 0,
            isolations: 0,
        }
    }

    pub fn at(&self, node: u8) -> &Node {
        &self.node[node as usize]
    }

    pub fn at_mut(&mut self, node: u8) -> &mut Node {
        &mut self.node[node as usize]
    }

    /// Nodes that run.
    pub fn up(&self) -> Set {
        (0..NODES_MAX as u8).filter(|n| self.at(*n).up).fold(0, |set, n| set | only(n))
    }
}
