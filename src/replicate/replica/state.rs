//! The replica's state, its inputs and the order of its effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Effect, Entries, Fitness, FoundingPlan, HardState, Ticket, Write, candidate::Candidate,
    election::PreCandidate, leader::Leader, peers::Peer, read_index::Reads,
};
use crate::{
    clock::Moment,
    cluster::{
        membership::{Configuration, Member},
        quorum,
    },
    config::Timing,
    log::{Draft, Shape},
    replicate::{
        message::{Envelope, Heartbeat, HeartbeatReply, Message},
        role::{ReleasedByLeader, Role, RoleView},
    },
    types::{Incarnation, Lsn, NodeId, Position, Term},
};

/// What a replica starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// This node.
    pub id: NodeId,
    /// Which life of its store.
    pub incarnation: Incarnation,
    /// Whether its log is what it once acknowledged (DESIGN §2.4).
    pub remembers: bool,
    /// The cluster's intervals.
    pub timing: Timing,
    /// The log on disk.
    pub shape: Shape,
    /// The promise on disk.
    pub hard: HardState,
    /// A lower bound of what is committed.
    pub committed: Lsn,
    /// The configurations in the log, oldest first.
    pub configurations: Vec<(Lsn, Configuration)>,
    /// Who to talk to before a configuration is known.
    pub initial_peers: Vec<NodeId>,
    /// What to found if the log is empty; `None` to wait for a leader.
    pub founding: Option<FoundingPlan>,
    /// The node's clock.
    pub now: Moment,
}

/// From how many other nodes messages are taken: members, and those of the cluster that this node
/// has not heard of yet.
const PEERS_MAX: usize = 64;

/// The replica core of one node.
#[derive(Debug)]
pub struct Replica {
    pub(super) id: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) remembers: bool,
    pub(super) timing: Timing,
    pub(super) shape: Shape,
    pub(super) durable: Lsn,
    pub(super) hard: HardState,
    pub(super) committed: Lsn,
    pub(super) released: Lsn,
    pub(super) applied: Lsn,
    pub(super) configurations: Vec<(Lsn, Configuration)>,
    pub(super) founding: Option<FoundingPlan>,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) fitness: Fitness,
    pub(super) state: State,
    /// Since when it listens: who was never heard has been silent since then.
    pub(super) started_at: Moment,
    /// Nothing is promised before this, so that a lease granted before a restart is honoured.
    pub(super) quiet_until: Moment,
    /// Since when there is no leader to follow; a node stands some time after it.
    pub(super) leaderless_since: Moment,
    /// How often it stood since it last had a leader, and got no quorum: after a few times it no
    /// longer claims to go first, lest it hold up those who can reach more nodes.
    pub(super) stood_in_vain: u32,
    /// The highest term number heard of in refusals; binds nothing.
    pub(super) number_heard: u64,
    heartbeat_due: Moment,
    next_ticket: u64,
    writes: VecDeque<Outstanding>,
    gated: VecDeque<(Ticket, NodeId, Message)>,
    open_write: Option<Write>,
    pub(super) effects: Vec<Effect>,
    pub(super) reads: Reads,
    published: RoleView,
    noticed: Option<String>,
}

/// A node's part in the cluster.
#[derive(Debug)]
pub(super) enum State {
    /// Follows, or waits for someone to follow.
    Follower(Following),
    /// Asks whether it would get promises.
    PreCandidate(PreCandidate),
    /// Collects promises, then the log that it will lead with.
    Candidate(Candidate),
    /// Leads.
    Leader(Leader),
}

/// Whom a follower follows.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// The term it follows, once it has heard of one.
    pub term: Option<Term>,
    /// When its leader was last heard; `None` while there is none.
    pub heard_at: Option<Moment>,
    /// Up to here its log is known to equal the leader's.
    pub matched: Lsn,
    /// What the leader last said is released.
    pub released: Option<Lsn>,
}

/// A write that is not yet known to be durable.
#[derive(Debug)]
struct Outstanding {
    ticket: Ticket,
    truncate_from: Option<Lsn>,
    last: Lsn,
}

impl Replica {
    /// A replica that follows nobody yet.
    pub fn new(start: Start) -> Self {
        let quiet_until = start.now + start.timing.lease_granted();
        let ids = match start.configurations.last() {
            Some((_, configuration)) => {
                configuration.members.iter().map(|m| m.id.clone()).collect()
            }
            None => start.initial_peers,
        };
        let others = ids.into_iter().filter(|id| *id != start.id);
        let founding =
            start.founding.filter(|_| start.remembers && start.shape.last_lsn() == Lsn::ZERO);
        let committed = start.committed.min(start.shape.last_lsn());
        // Whose entries are in the log was accepted, whatever else was kept.
        let held = HardState { promised: None, accepted: start.shape.last().term };
        let hard = start.hard.later(held);
        Self {
            peers: others.map(|id| (id, Peer::default())).collect(),
            durable: start.shape.last_lsn(),
            committed,
            released: committed,
            applied: Lsn::ZERO,
            id: start.id,
            incarnation: start.incarnation,
            remembers: start.remembers,
            timing: start.timing,
            shape: start.shape,
            hard,
            configurations: start.configurations,
            founding,
            fitness: Fitness::default(),
            state: State::Follower(Following::default()),
            started_at: start.now,
            quiet_until,
            leaderless_since: quiet_until,
            stood_in_vain: 0,
            number_heard: 0,
            heartbeat_due: start.now,
            next_ticket: 1,
            writes: VecDeque::new(),
            gated: VecDeque::new(),
            open_write: None,
            effects: Vec::new(),
            reads: Reads::default(),
            published: RoleView::nobody(),
            noticed: None,
        }
    }

    /// A message arrived. Its runs of entries were checked by the host: linked, and to this log.
    pub fn step(&mut self, envelope: Envelope, now: Moment) {
        let Envelope { from, incarnation, lineage: _, message } = envelope;
        if !self.peers.contains_key(&from) && self.peers.len() >= PEERS_MAX {
            return;
        }
        let peer = self.peers.entry(from.clone()).or_default();
        let silent = peer.heard_at.is_none_or(|at| now.since(at) > self.timing.suspect_after);
        let reborn = peer.heard_at.is_some() && peer.incarnation != incarnation;
        peer.heard_at = Some(now);
        peer.incarnation = incarnation;
        if silent || reborn {
            peer.steady_since = now;
            self.peer_is_back(&from, reborn);
        }
        match message {
            Message::Heartbeat(m) => self.on_heartbeat(from, m, now),
            Message::HeartbeatReply(m) => self.on_heartbeat_reply(&from, &m, now),
            Message::PreVote(m) => self.on_pre_vote(from, &m, now),
            Message::PreVoteReply(m) => self.on_pre_vote_reply(from, &m, now),
            Message::Prepare(m) => self.on_prepare(from, m, now),
            Message::Promise(m) => self.on_promise(from, m, now),
            Message::Fetch(m) => self.on_fetch(from, m),
            Message::Fetched(m) => self.on_fetched(&from, m, now),
            Message::Append(m) => self.on_append(from, m, now),
            Message::Appended(m) => self.on_appended(&from, m, now),
            Message::Handover { term } => self.on_handover(&from, &term, now),
        }
    }

    /// Time passed. To be called every few milliseconds.
    pub fn tick(&mut self, now: Moment) {
        if now >= self.heartbeat_due {
            self.heartbeat_due = now + self.timing.heartbeat;
            self.send_heartbeats(now);
        }
        match self.state {
            State::Follower(_) => self.tick_follower(now),
            State::PreCandidate(_) => self.tick_pre_candidate(now),
            State::Candidate(_) => self.tick_candidate(now),
            State::Leader(_) => self.tick_leader(now),
        }
    }

    /// The write of that ticket, and all before it, are durable.
    pub fn written(&mut self, ticket: Ticket, now: Moment) {
        while self.writes.front().is_some_and(|write| write.ticket <= ticket) {
            let Some(write) = self.writes.pop_front() else { break };
            let cut = self.writes.iter().filter_map(|w| w.truncate_from).min();
            let kept = cut.map_or(write.last, |from| write.last.min(from.previous()));
            self.durable = self.durable.max(kept);
        }
        while self.gated.front().is_some_and(|(gate, ..)| *gate <= ticket) {
            if let Some((_, to, message)) = self.gated.pop_front() {
                self.effects.push(Effect::Send(to, message));
            }
        }
        match &self.state {
            State::Leader(_) => self.advance_commit(),
            State::Candidate(_) => self.own_promise_durable(ticket, now),
            _ => {}
        }
    }

    /// Orders commands, if this node leads and takes any; the LSN of the first.
    pub fn propose(&mut self, drafts: Vec<Draft>) -> Option<Lsn> {
        let State::Leader(leader) = &self.state else { return None };
        if leader.handing_over.is_some() {
            return None;
        }
        assert!(drafts.iter().all(|d| d.term == leader.term), "a leader orders in its own term");
        let first = self.shape.last_lsn().next();
        self.append_own(drafts);
        Some(first)
    }

    /// Whether this node may lead as far as its database is concerned, and could at once.
    pub fn set_fitness(&mut self, fitness: Fitness) {
        self.fitness = fitness;
    }

    /// The appliers came so far.
    pub fn set_applied(&mut self, applied: Lsn) {
        self.applied = applied;
    }

    /// What the database brings to a new cluster became known.
    pub fn set_founding(&mut self, founding: FoundingPlan) {
        if self.remembers && self.shape.last_lsn() == Lsn::ZERO {
            self.founding = Some(founding);
        }
    }

    /// What the host must do now, in order.
    pub fn take_effects(&mut self, now: Moment) -> Vec<Effect> {
        self.close_write();
        if matches!(self.state, State::Leader(_)) {
            self.push_entries(now);
        }
        let view = self.role_view();
        if view != self.published {
            self.published = view.clone();
            self.effects.push(Effect::Role(view));
        }
        std::mem::take(&mut self.effects)
    }

    /// Leadership as this node sees it.
    pub fn role_view(&self) -> RoleView {
        let term = self.hard.newest().cloned();
        match &self.state {
            State::Leader(leader) => RoleView {
                role: Role::Leader,
                term: Some(leader.term.clone()),
                leader: Some(self.id.clone()),
                term_start: Some(leader.start),
                handing_over: leader.handing_over.is_some(),
            },
            State::Follower(Following { term: Some(term), heard_at: Some(_), .. }) => RoleView {
                role: Role::Follower,
                term: Some(term.clone()),
                leader: Some(term.leader.clone()),
                ..RoleView::nobody()
            },
            State::Follower(_) => RoleView { term, ..RoleView::nobody() },
            _ => RoleView { role: Role::Candidate, term, ..RoleView::nobody() },
        }
    }

    /// How far the log is released, as the leader of this term says; `None` while nobody leads, or
    /// the leader has not said so yet.
    pub fn released_by_leader(&self) -> Option<ReleasedByLeader> {
        let (term, released) = match &self.state {
            State::Leader(leader) => (leader.term.clone(), self.released),
            State::Follower(following) => (following.term.clone()?, following.released?),
            _ => return None,
        };
        Some(ReleasedByLeader { term, released })
    }

    /// The other nodes.
    pub fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// The configuration in force.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configurations.last().map(|(_, configuration)| configuration)
    }

    /// The log's terms.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What the cluster has decided, as this node knows.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// What the outside may see.
    pub fn released(&self) -> Lsn {
        self.released
    }

    /// The last durable entry.
    pub fn durable(&self) -> Position {
        self.shape.position_at(self.durable).unwrap_or_default()
    }

    /// Promise and accepted term.
    pub fn hard_state(&self) -> &HardState {
        &self.hard
    }

    /// Whether this node's promises and acknowledgements count: a configuration in force names this
    /// life of its store. A life that does not remember has a new name, which counts once a leader
    /// has named it, without the former life's vote.
    pub fn counts(&self) -> bool {
        if self.configurations.is_empty() {
            return self.remembers && self.founding.is_some();
        }
        self.counts_in_force(&self.id)
    }

    /// Whether it could lead: fit, allowed to, and its promises count.
    pub fn may_stand(&self) -> bool {
        let named = |configuration| self.is_named_to_lead(configuration, &self.id);
        self.fitness.eligible && self.configuration().map_or_else(|| self.counts(), named)
    }

    /// Whether a node speaks with a life that counts in some configuration in force.
    fn counts_in_force(&self, id: &NodeId) -> bool {
        let mut in_force = quorum::in_force(&self.configurations, self.committed);
        in_force.any(|c| c.member(id).is_some_and(|member| self.is_life(member)))
    }

    fn is_named_to_lead(&self, configuration: &Configuration, id: &NodeId) -> bool {
        configuration.member(id).is_some_and(|m| m.may_lead() && self.is_life(m))
    }

    /// Whether those that are `present` are a quorum of every configuration in force, each under
    /// the life of its store that counts there. Before one is known, all founders are.
    pub(super) fn is_quorum(&self, present: impl Fn(&NodeId) -> bool) -> bool {
        if self.configurations.is_empty() {
            return present(&self.id) && self.peers.keys().all(present);
        }
        let in_force = quorum::in_force(&self.configurations, self.committed);
        quorum::is_quorum(in_force, |member| self.is_life(member) && present(&member.id))
    }

    /// Whether the node speaks with the life of its store that the configuration names.
    pub(super) fn is_life(&self, member: &Member) -> bool {
        let peer = || self.peers.get(&member.id).map(|peer| peer.incarnation);
        let life = if member.id == self.id { Some(self.incarnation) } else { peer() };
        life == Some(member.incarnation)
    }

    /// Whether the peer speaks with a life that counts in some configuration in force.
    pub(super) fn peer_counts(&self, id: &NodeId) -> bool {
        self.configurations.is_empty() || self.counts_in_force(id)
    }

    /// Whether a peer could lead as far as the newest configuration and its last heartbeat say.
    pub(super) fn could_lead(&self, id: &NodeId, now: Moment) -> bool {
        let named = self.configuration().is_none_or(|c| self.is_named_to_lead(c, id));
        let peer = self.peers.get(id);
        named && peer.is_some_and(|peer| peer.eligible) && self.peer_alive(id, now)
    }

    /// Whether `a` leads rather than `b`, if both can.
    pub(super) fn goes_before(&self, a: &NodeId, b: &NodeId) -> bool {
        self.configuration().map_or(a < b, |configuration| configuration.goes_before(a, b))
    }

    pub(super) fn peer_alive(&self, id: &NodeId, now: Moment) -> bool {
        let heard = self.peers.get(id).and_then(|peer| peer.heard_at);
        heard.is_some_and(|at| now.since(at) <= self.timing.suspect_after)
    }

    /// Live nodes that could lead and rank before this one: they go first.
    pub(super) fn before_me(&self, now: Moment) -> BTreeSet<NodeId> {
        let first = self.peers.keys().filter(|id| self.goes_before(id, &self.id));
        first.filter(|id| self.could_lead(id, now)).cloned().collect()
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.effects.push(Effect::Send(to, message));
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let ids: Vec<NodeId> = self.peers.keys().cloned().collect();
        ids.into_iter().for_each(|id| self.send(id, message.clone()));
    }

    /// Sends when everything written so far is durable.
    pub(super) fn send_when_durable(&mut self, to: NodeId, message: Message) {
        let latest = Ticket(self.next_ticket - 1);
        if self.open_write.is_none() && self.writes.is_empty() {
            self.send(to, message);
        } else {
            let gate = self.open_write.as_ref().map_or(latest, |write| write.ticket);
            self.gated.push_back((gate, to, message));
        }
    }

    pub(super) fn append_own(&mut self, drafts: Vec<Draft>) {
        if let Some(Write { entries: Entries::Own(open), .. }) = &mut self.open_write {
            drafts.iter().for_each(|draft| self.shape.push(&draft.term));
            open.extend(drafts);
            return;
        }
        // The write before must be closed while the shape is still what it leaves behind.
        self.entries_write();
        drafts.iter().for_each(|draft| self.shape.push(&draft.term));
        self.entries_write().entries = Entries::Own(drafts);
    }

    pub(super) fn remember(&mut self, change: impl FnOnce(&mut HardState)) -> Ticket {
        change(&mut self.hard);
        let hard = self.hard.clone();
        let write = self.write_mut();
        write.hard = Some(hard);
        write.ticket
    }

    /// A write without entries yet, so that a truncation comes after everything before it.
    pub(super) fn entries_write(&mut self) -> &mut Write {
        if self.open_write.as_ref().is_some_and(|write| write.entries != Entries::None) {
            self.close_write();
        }
        self.write_mut()
    }

    fn write_mut(&mut self) -> &mut Write {
        let next_ticket = &mut self.next_ticket;
        self.open_write.get_or_insert_with(|| {
            let ticket = Ticket(*next_ticket);
            *next_ticket += 1;
            Write { ticket, truncate_from: None, entries: Entries::None, hard: None }
        })
    }

    pub(super) fn close_write(&mut self) {
        if let Some(write) = self.open_write.take() {
            let last = self.shape.last_lsn();
            let (ticket, truncate_from) = (write.ticket, write.truncate_from);
            self.writes.push_back(Outstanding { ticket, truncate_from, last });
            self.effects.push(Effect::Write(write));
        }
    }

    pub(super) fn set_committed(&mut self, to: Lsn) {
        if to > self.committed {
            self.committed = to;
            self.released = to;
            self.effects.push(Effect::Committed(to));
            self.effects.push(Effect::Released(to));
        }
    }

    pub(super) fn fatal(&mut self, what: String) {
        self.effects.push(Effect::Fatal(what));
    }

    pub(super) fn notice(&mut self, what: String) {
        if self.noticed.as_ref() != Some(&what) {
            self.noticed = Some(what.clone());
            self.effects.push(Effect::Notice(what));
        }
    }

    /// Follows nobody; stands again after `wait` at the earliest.
    pub(super) fn follow_nobody(&mut self, now: Moment, wait: std::time::Duration) {
        self.state = State::Follower(Following::default());
        self.leaderless_since = now + wait;
    }

    pub(super) fn send_heartbeats(&mut self, now: Moment) {
        let leads = matches!(self.state, State::Leader(_));
        let heartbeat = Heartbeat {
            term: self.hard.newest().cloned(),
            leads,
            sent_at: now,
            durable: self.durable(),
            committed: self.committed,
            released: self.released,
            applied: self.applied,
            eligible: self.may_stand(),
            cluster: self.configuration().map(|c| c.cluster),
            database: self.fitness.database,
            behind: self.fitness.behind,
        };
        self.broadcast(&Message::Heartbeat(heartbeat));
    }

    fn on_heartbeat(&mut self, from: NodeId, heartbeat: Heartbeat, now: Moment) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.heard(&heartbeat, now);
        }
        self.hear_committed(&from, heartbeat.committed);
        let mut follows = false;
        if let Some(term) = &heartbeat.term {
            self.number_heard = self.number_heard.max(term.number);
            if heartbeat.leads && term.leader == from {
                follows = self.hear_leader(term, now);
                if follows {
                    self.hear_released(heartbeat.released);
                    self.learn_committed(heartbeat.committed);
                }
            }
            self.step_down_before(term.number, now);
        }
        let term = self.hard.newest().cloned();
        let reply = HeartbeatReply { term, sent_at: heartbeat.sent_at, follows };
        self.send(from, Message::HeartbeatReply(reply));
    }

    fn on_heartbeat_reply(&mut self, from: &NodeId, reply: &HeartbeatReply, now: Moment) {
        if let Some(term) = &reply.term {
            self.number_heard = self.number_heard.max(term.number);
            self.step_down_before(term.number, now);
        }
        let counts = self.peer_counts(from);
        if let State::Leader(leader) = &mut self.state
            && reply.follows
            && counts
        {
            leader.contacted(from, reply.sent_at);
        }
    }

    /// Someone promised a later term than this leader's: its entries no longer reach a quorum.
    fn step_down_before(&mut self, number: u64, now: Moment) {
        if let State::Leader(leader) = &self.state
            && number > leader.term.number
        {
            self.follow_nobody(now, std::time::Duration::ZERO);
        }
    }

    /// The position of the last entry.
    pub fn last(&self) -> Position {
        self.shape.last()
    }
}
