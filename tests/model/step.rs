//! What can happen, one atomic step at a time. `take` checks that a step is possible, does it, and says
//! whether it did; an impossible step leaves the state as it was.

use super::{
    flaws::Flaw,
    rules::{self, Branch, Policy, Relation, Surroundings, Verdict},
    state::{
        Ack, Broken, Configuration, Entry, Incarnation, Kind, NODES_MAX, Node, Set, Standing,
        State, Term, nodes, only,
    },
};

/// How far an append gets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Depth {
    /// Into the follower's memory.
    Buffered,
    /// Onto its disk; the answer is lost.
    Durable,
    /// The leader hears of it.
    Acked,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    Propose {
        leader: u8,
    },
    /// The node's disk catches up with its memory.
    Sync {
        node: u8,
    },
    /// One entry more, or the whole log.
    Append {
        leader: u8,
        to: u8,
        whole: bool,
        depth: Depth,
    },
    Commit {
        leader: u8,
    },
    /// Commit index, released and ratified; `heard`: the leader learns what was recorded.
    Tell {
        leader: u8,
        to: u8,
        heard: bool,
    },
    Release {
        leader: u8,
    },
    Remove {
        leader: u8,
        node: u8,
    },
    Add {
        leader: u8,
        node: u8,
    },
    /// Promises of whoever may give one among `reach`; `vain`: the candidate stops at that.
    Elect {
        candidate: u8,
        reach: Set,
        waited: bool,
        vain: bool,
    },
    Force {
        forcer: u8,
        reach: Set,
    },
    /// A strict prefix of another lineage copies from any holder.
    Join {
        node: u8,
        from: u8,
        whole: bool,
        sync: bool,
    },
    Merge {
        a: u8,
        b: u8,
    },
    /// `forget`: an operator stands in for lives of stores that are gone.
    Ratify {
        leader: u8,
        forget: bool,
    },
    Crash {
        node: u8,
    },
    Restart {
        node: u8,
    },
    /// Stopped for long, and noticed it.
    Pause {
        node: u8,
    },
    /// The log of a stopped node is cut to `end`; 0: its disk is new.
    RollBack {
        node: u8,
        end: u8,
    },
    Isolate {
        node: u8,
    },
    Reconnect {
        node: u8,
    },
    Lease {
        leader: u8,
        reach: Set,
    },
    Expire {
        leader: u8,
    },
    Trim {
        node: u8,
    },
    /// State and the table of terms, to a node that is behind the leader's trimmed log.
    Snapshot {
        leader: u8,
        to: u8,
    },
}

/// What may happen at all, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    pub nodes: u8,
    pub founders: Set,
    pub policy: Policy,
    pub witnesses: Set,
    pub entries_max: u8,
    pub terms_max: u8,
    pub operations_max: u8,
    pub crashes_max: u8,
    pub rollbacks_max: u8,
    /// Any set of nodes may be all that a node reaches. Without it everyone reaches all that run.
    pub partitions: bool,
    pub pauses: bool,
    /// A cold quorum may go on when `cold_start_wait` is over.
    pub waits: bool,
    pub isolations_max: u8,
    pub leases: bool,
    pub trims: bool,
    /// Witnesses are never removed.
    pub witness_stays: bool,
    /// Nothing happens that a node could take for another's death: no OK at all, forced or not, may end
    /// in quarantine.
    pub strict: bool,
    pub flaw: Option<Flaw>,
}

impl Scope {
    pub fn everyone(&self) -> Set {
        (1 << self.nodes) - 1
    }

    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

/// A state and the rules that it moves by.
pub struct World<'a> {
    pub state: &'a mut State,
    pub scope: &'a Scope,
}

/// `Some(())` if the step was possible.
type Done = Option<()>;

fn require(condition: bool) -> Done {
    condition.then_some(())
}

/// Does the step if it is possible.
pub fn take(state: &mut State, scope: &Scope, step: Step) -> bool {
    let kept = state.node.each_ref().map(|n| n.quarantine);
    let taken = World { state, scope }.take(step).is_some();
    if scope.is(Flaw::QuarantineKept) {
        state.node.iter_mut().zip(kept).for_each(|(n, kept)| n.quarantine |= kept);
    }
    taken
}

impl World<'_> {
    fn take(&mut self, step: Step) -> Done {
        match step {
            Step::Propose { leader } => self.propose(leader),
            Step::Sync { node } => self.sync(node),
            Step::Append { leader, to, whole, depth } => self.append(leader, to, whole, depth),
            Step::Commit { leader } => self.commit(leader),
            Step::Tell { leader, to, heard } => self.tell(leader, to, heard),
            Step::Release { leader } => self.release(leader),
            Step::Remove { leader, node } => self.remove(leader, node),
            Step::Add { leader, node } => self.add(leader, node),
            Step::Elect { candidate, reach, waited, vain } => {
                self.elect(candidate, reach, waited, vain)
            }
            Step::Force { forcer, reach } => self.force(forcer, reach),
            Step::Join { node, from, whole, sync } => self.join(node, from, whole, sync),
            Step::Merge { a, b } => self.merge(a, b),
            Step::Ratify { leader, forget } => self.ratify(leader, forget),
            Step::Crash { node } => self.crash(node),
            Step::Restart { node } => self.restart(node),
            Step::Pause { node } => self.pause(node),
            Step::RollBack { node, end } => self.roll_back(node, end),
            Step::Isolate { node } => self.isolate(node),
            Step::Reconnect { node } => self.reconnect(node),
            Step::Lease { leader, reach } => self.lease(leader, reach),
            Step::Expire { leader } => self.expire(leader),
            Step::Trim { node } => self.trim(node),
            Step::Snapshot { leader, to } => self.snapshot(leader, to),
        }
    }

    fn at(&self, node: u8) -> &Node {
        self.state.at(node)
    }

    fn at_mut(&mut self, node: u8) -> &mut Node {
        self.state.at_mut(node)
    }

    // ---- Who reaches whom ---------------------------------------------------------------------------

    fn is_isolated(&self, node: u8) -> bool {
        self.state.isolated & only(node) != 0
    }

    fn meet(&self, a: u8, b: u8) -> Done {
        let both = a != b && self.at(a).up && self.at(b).up;
        require(both && !self.is_isolated(a) && !self.is_isolated(b))
    }

    /// Whether `reach` can be what a node reaches, itself included.
    fn reaches(&self, node: u8, reach: Set) -> Done {
        let most = match self.is_isolated(node) {
            true => only(node),
            false => self.state.up() & !self.state.isolated,
        };
        let chosen = self.scope.partitions && reach & !most == 0;
        require(self.at(node).up && reach & only(node) != 0 && (chosen || reach == most))
    }

    fn relation(&self, own: u8, other: u8) -> Relation {
        let relation = rules::relation(&self.at(own).log, &self.at(other).log);
        match self.scope.is(Flaw::ForceWithoutLineages) {
            true => Relation::SameLineage,
            false => relation,
        }
    }

    fn of_lineage(&self, node: u8, among: Set) -> Set {
        let same = |n: &u8| self.relation(node, *n) == Relation::SameLineage;
        nodes(among).filter(same).fold(0, |set, n| set | only(n))
    }

    /// Those of `among` that are members of `c` under their present incarnation.
    fn present(&self, c: Configuration, among: Set) -> Set {
        let named = |n: &u8| c.names(*n, self.at(*n).incarnation);
        nodes(among & c.members).filter(named).fold(0, |set, n| set | only(n))
    }

    fn is_member(&self, node: u8) -> bool {
        let n = self.at(node);
        rules::newest_configuration(&n.log, u8::MAX).1.names(node, n.incarnation)
    }

    fn has_room(&self, log_of: u8) -> Done {
        require(self.at(log_of).log.end() < self.scope.entries_max)
    }

    /// A peer that leads and still has a quorum, or follows such a one. Under partitions a node may
    /// reach those who lost their leader and not the leader, so that nothing follows from it.
    fn hears_of_a_leader(&self, node: u8, reach: Set) -> bool {
        if self.scope.partitions {
            return false;
        }
        nodes(reach & !only(node)).filter(|n| self.at(*n).leads).any(|leader| {
            let n = self.at(leader);
            let with = self.of_lineage(leader, reach);
            let present = |c| self.present(c, with);
            rules::is_quorum_of_each(&n.log, n.committed, present, self.scope.witnesses)
        })
    }

    /// Who may not be believed to break a tie: without the gateway nobody is.
    fn tie_breakers_excluded(&self, node: u8) -> Set {
        match self.is_isolated(node) && !self.scope.is(Flaw::GatewayIgnored) {
            true => Set::MAX,
            false => self.scope.witnesses,
        }
    }

    // ---- A leader at work ---------------------------------------------------------------------------

    fn leads(&self, node: u8) -> Done {
        require(self.at(node).up && self.at(node).leads)
    }

    fn term(&self, leader: u8) -> Term {
        self.at(leader).promised
    }

    fn push(&mut self, leader: u8, kind: Kind) {
        let term = self.term(leader);
        self.at_mut(leader).log.push(Entry { term, kind });
    }

    fn propose(&mut self, leader: u8) -> Done {
        self.leads(leader)?;
        self.has_room(leader)?;
        require(self.state.operations < self.scope.operations_max)?;
        let operation = self.state.operations;
        self.state.operations += 1;
        self.push(leader, Kind::Data(operation));
        Some(())
    }

    fn sync(&mut self, node: u8) -> Done {
        let n = self.at_mut(node);
        require(n.up && n.durable < n.log.end())?;
        n.sync();
        Some(())
    }

    fn append(&mut self, leader: u8, to: u8, whole: bool, depth: Depth) -> Done {
        self.leads(leader)?;
        self.meet(leader, to)?;
        require(self.relation(to, leader) == Relation::SameLineage)?;
        let term = self.term(leader);
        let promised = self.at(to).promised;
        require(promised == term || promised.number < term.number)?;
        let source = *self.at(leader);
        let common = rules::common(&self.at(to).log, &source.log);
        require(common >= source.trimmed)?;
        let end = if whole { source.log.end() } else { (common + 1).min(source.log.end()) };
        if common < self.at(to).committed.min(source.log.end()) {
            self.state.broken = Some(Broken::CommittedCut);
        }
        self.at_mut(to).receive(&source.log, common, end, term);
        let early = self.scope.is(Flaw::AckBeforeDurable);
        let n = self.at_mut(to);
        if depth == Depth::Durable || (depth == Depth::Acked && !early) {
            n.sync();
        }
        self.settle(to, true);
        self.admit(leader, to);
        if depth == Depth::Acked {
            self.ack(leader, to, end);
        }
        Some(())
    }

    fn ack(&mut self, leader: u8, from: u8, matched: u8) {
        let early = self.scope.is(Flaw::AckBeforeDurable);
        let n = self.at(from);
        let durable = if early { matched } else { matched.min(n.durable) };
        let incarnation = n.incarnation;
        let ack = &mut self.at_mut(leader).acks[from as usize];
        let recorded = if ack.incarnation == incarnation { ack.recorded } else { 0 };
        *ack = Ack { durable, recorded, incarnation };
    }

    /// A node that its own newest configuration does not name is no longer active.
    fn settle(&mut self, node: u8, by_leader: bool) {
        let member = self.is_member(node);
        let n = self.at_mut(node);
        n.standing = match n.standing {
            Standing::Active if member => Standing::Active,
            Standing::Cold if !by_leader => Standing::Cold,
            _ => Standing::Learning,
        };
    }

    /// Holds the leader's whole log, durably, and stands in its newest configuration: active.
    fn admit(&mut self, leader: u8, node: u8) {
        let source = self.at(leader).log;
        let incarnation = self.at(node).incarnation;
        let named = rules::newest_configuration(&source, u8::MAX).1.names(node, incarnation);
        let n = self.at_mut(node);
        if named && n.log == source && n.durable == n.log.end() {
            n.standing = Standing::Active;
            n.rebuilt = false;
        }
    }

    /// What a leader knows to be durable there, in that life of the store.
    fn durable_at(&self, leader: u8, node: u8, incarnation: Incarnation) -> u8 {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        match (node == leader, incarnation) {
            (true, life) if life == l.incarnation => l.durable,
            (false, life) if life == ack.incarnation => ack.durable,
            _ => 0,
        }
    }

    fn recorded_at(&self, leader: u8, node: u8, incarnation: Incarnation) -> u8 {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        match (node == leader, incarnation) {
            (true, life) if life == l.incarnation => l.recorded,
            (false, life) if life == ack.incarnation => ack.recorded,
            _ => 0,
        }
    }

    fn commit(&mut self, leader: u8) -> Done {
        self.leads(leader)?;
        let l = self.at(leader);
        let durable = |n, life| self.durable_at(leader, n, life);
        let excluded = self.tie_breakers_excluded(leader);
        let index = match self.scope.flaw {
            Some(Flaw::LowestWithoutQuorum | Flaw::OneSurvivor) => self.commit_by_the_live(leader),
            Some(Flaw::NewestConfigurationOnly) => self.commit_by_the_newest(leader),
            _ => rules::commit_index(&l.log, l.promised, l.committed, durable, excluded),
        };
        require(index > l.committed)?;
        let n = self.at_mut(leader);
        n.committed = index;
        n.record();
        Some(())
    }

    fn commit_by_the_live(&self, leader: u8) -> u8 {
        let l = self.at(leader);
        let live = match self.scope.partitions {
            true => nodes(self.scope.everyone())
                .filter(|n| l.acks[*n as usize].durable > 0)
                .fold(only(leader), |s, n| s | only(n)),
            false => self.state.up(),
        };
        let held = nodes(live).map(|n| self.durable_at(leader, n, self.at(n).incarnation));
        held.fold(l.log.end(), u8::min)
    }

    fn commit_by_the_newest(&self, leader: u8) -> u8 {
        let l = self.at(leader);
        let c = rules::newest_configuration(&l.log, u8::MAX).1;
        let holds = |lsn: &u8| {
            let there = nodes(c.members)
                .filter(|n| self.durable_at(leader, *n, c.incarnation(*n)) >= *lsn)
                .fold(0, |set, n| set | only(n));
            l.log[*lsn as usize - 1].term == l.promised
                && rules::is_quorum(c, there, self.scope.witnesses)
        };
        (l.committed + 1..=l.log.end()).rev().find(holds).unwrap_or(l.committed)
    }

    fn tell(&mut self, leader: u8, to: u8, heard: bool) -> Done {
        self.leads(leader)?;
        self.meet(leader, to)?;
        require(self.relation(to, leader) == Relation::SameLineage)?;
        require(self.at(to).promised == self.term(leader))?;
        let l = *self.at(leader);
        let matched = rules::common(&self.at(to).log, &l.log);
        let n = self.at_mut(to);
        n.committed = n.committed.max(l.committed.min(matched).min(n.durable));
        n.record();
        if l.ratified <= matched.min(n.durable) {
            n.ratified = n.ratified.max(l.ratified);
            n.cut &= l.ratified == 0 || rules::is_forced(&n.log, n.ratified);
        }
        if n.recorded >= rules::newest_configuration(&l.log, l.committed).0 {
            n.released = n.released.max(l.released.min(n.committed));
        }
        let (recorded, incarnation) = (n.recorded, n.incarnation);
        let ack = &mut self.at_mut(leader).acks[to as usize];
        if heard && ack.incarnation == incarnation {
            ack.recorded = recorded;
        }
        Some(())
    }

    fn release(&mut self, leader: u8) -> Done {
        self.leads(leader)?;
        let l = *self.at(leader);
        let durable = |n, life| self.durable_at(leader, n, life);
        let recorded = |n, life| match self.scope.is(Flaw::ReleaseAheadOfRecord) {
            true => u8::MAX,
            false => self.recorded_at(leader, n, life),
        };
        let policy = match self.scope.is(Flaw::ApplyAtCommitted) {
            true => Policy::Majority,
            false => self.scope.policy,
        };
        let index = rules::release_index(policy, &l.log, l.committed, durable, recorded);
        require(index > l.released)?;
        let (_, c, needed) = rules::release_needs(&l.log, l.committed);
        let pending = rules::newest_configuration(&l.log, u8::MAX).1;
        let alive = |n: &u8| {
            let life = self.at(*n).incarnation;
            (c.names(*n, life) || pending.names(*n, life))
                && (self.scope.policy == Policy::Survivor || durable(*n, life) >= index)
        };
        let needed = needed & !self.scope.witnesses;
        let keepers = nodes(needed).filter(alive).fold(0, |set, n| set | only(n));
        let forced = rules::is_forced(&l.log, l.ratified);
        for entry in &l.log[l.released as usize..index as usize] {
            if let Kind::Data(operation) = entry.kind {
                let given = &mut self.state.given[operation as usize];
                given.forced = forced && (given.forced || !given.ok);
                given.ok = true;
                given.keepers |= keepers;
            }
        }
        self.at_mut(leader).released = index;
        Some(())
    }

    fn change(&mut self, leader: u8, change: impl Fn(Configuration) -> Configuration) -> Done {
        let l = self.at(leader);
        let early = self.scope.is(Flaw::ChangeBeforeOwnCommit)
            && rules::newest_configuration(&l.log, u8::MAX).0 <= l.committed;
        require(early || rules::may_change_configuration(&l.log, l.promised, l.committed))?;
        self.has_room(leader)?;
        let newest = rules::newest_configuration(&l.log, u8::MAX).1;
        let next = change(newest);
        require(next != newest)?;
        self.push(leader, Kind::Config(next));
        Some(())
    }

    /// A silent member, or one whose named life is over.
    fn remove(&mut self, leader: u8, node: u8) -> Done {
        self.leads(leader)?;
        let c = rules::newest_configuration(&self.at(leader).log, u8::MAX).1;
        let over = !c.names(node, self.at(node).incarnation);
        require(!self.scope.witness_stays || self.scope.witnesses & only(node) == 0)?;
        let silent = self.scope.partitions || self.meet(leader, node).is_none();
        require(node != leader && c.members & only(node) != 0 && (over || silent))?;
        self.change(leader, |c| c.without(node))
    }

    /// A learner that has the whole log.
    fn add(&mut self, leader: u8, node: u8) -> Done {
        self.leads(leader)?;
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        let c = rules::newest_configuration(&l.log, u8::MAX).1;
        require(node != leader && c.members & only(node) == 0 && ack.durable == l.log.end())?;
        self.change(leader, |c| c.with(node, ack.incarnation))
    }

    fn ratify(&mut self, leader: u8, forget: bool) -> Done {
        self.leads(leader)?;
        require(!forget || self.state.rollbacks > 0)?;
        let l = self.at(leader);
        let joined = |fork: u8, c: Configuration| {
            let joined = nodes(c.members)
                .filter(|n| self.has_joined(leader, *n, c.incarnation(*n), fork, forget))
                .fold(0, |set, n| set | only(n));
            let enough = rules::is_quorum(c, joined, self.scope.witnesses);
            match self.scope.is(Flaw::RatifiedByQuorum) && enough {
                true => c.members,
                false => joined,
            }
        };
        let fork = rules::ratifiable(&l.log, l.ratified, l.committed, joined)?;
        self.at_mut(leader).ratified = fork;
        Some(())
    }

    fn has_joined(&self, leader: u8, node: u8, named: Incarnation, fork: u8, forget: bool) -> bool {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        let (now, durable) = match node == leader {
            true => (l.incarnation, l.durable),
            false => (ack.incarnation, ack.durable),
        };
        let gone = forget && self.at(node).incarnation.disk != named.disk;
        gone || (rules::has_joined_for(named, now) && durable >= fork)
    }

    // ---- Elections and forks ------------------------------------------------------------------------

    /// A grant binds as long as the leader may still believe in its lease.
    fn is_bound(&self, node: u8, candidate: u8) -> bool {
        let granted = self.at(node).granted;
        let leader = self.at(granted.leader);
        let holds = leader.up && leader.leads && leader.leased != 0 && leader.promised == granted;
        holds && granted.leader != candidate && !self.scope.is(Flaw::LeaseIgnored)
    }

    /// The cold-start rule, for one node and those of its lineage that it reaches.
    fn is_everyone_there(&self, node: u8, reach: Set) -> bool {
        let n = self.at(node);
        let heard = self.of_lineage(node, reach);
        let free = self.scope.policy == Policy::Majority
            || self.scope.is(Flaw::ColdForbidsForceOnly)
            || self.scope.is(Flaw::OneSurvivor)
            || self.scope.is(Flaw::LowestWithoutQuorum);
        free || rules::is_everyone_there(&n.log, n.committed, |c| self.present(c, heard))
    }

    fn has_waited(&self, node: u8, reach: Set, waited: bool) -> bool {
        let n = self.at(node);
        let heard = self.of_lineage(node, reach);
        let present = |c| self.present(c, heard);
        waited && rules::is_quorum_of_each(&n.log, n.committed, present, self.scope.witnesses)
    }

    fn may_promise(&self, node: u8, candidate: u8, reach: Set, waited: bool) -> bool {
        let n = self.at(node);
        let there = n.standing != Standing::Active && self.is_everyone_there(node, reach);
        let waited = n.standing != Standing::Active && self.has_waited(node, reach, waited);
        !self.is_bound(node, candidate)
            && rules::may_promise(n.standing, self.is_member(node), there, waited)
    }

    fn promisers(&self, candidate: u8, reach: Set, waited: bool) -> Set {
        let same = self.of_lineage(candidate, reach);
        nodes(same)
            .filter(|n| self.may_promise(*n, candidate, reach, waited))
            .fold(0, |set, n| set | only(n))
    }

    /// The most advanced log of the promisers, and the highest commit index among them.
    fn best(&self, candidate: u8, promisers: Set) -> Option<(u8, u8)> {
        let mut best = candidate;
        for n in nodes(promisers) {
            if rules::position(&self.at(n).log) > rules::position(&self.at(best).log) {
                best = n;
            }
        }
        let log = &self.at(best).log;
        let committed = nodes(promisers).map(|n| self.at(n).committed).max()?.min(log.end());
        // What was trimmed there comes as state, and a witness has none.
        let common = rules::common(&self.at(candidate).log, log);
        let has_all = common >= self.at(best).trimmed || best == candidate;
        let takes = !self.scope.is(Flaw::CandidateTakesNoSnapshot);
        (has_all || takes && self.scope.witnesses & only(best) == 0).then_some((best, committed))
    }

    fn promise(&mut self, candidate: u8, promisers: Set) -> Done {
        let highest = nodes(promisers).map(|n| self.at(n).promised.number).max()?;
        require(highest < self.scope.terms_max)?;
        let term = Term { number: highest + 1, leader: candidate };
        for n in nodes(promisers) {
            self.at_mut(n).promised = term;
            self.at_mut(n).follow();
        }
        Some(())
    }

    fn elect(&mut self, candidate: u8, reach: Set, waited: bool, vain: bool) -> Done {
        self.reaches(candidate, reach)?;
        require(!waited || self.scope.waits)?;
        let c = self.at(candidate);
        require(self.scope.witnesses & only(candidate) == 0 && !(c.leads && vain))?;
        let may_stand = c.standing == Standing::Active
            || self.is_everyone_there(candidate, reach)
            || self.has_waited(candidate, reach, waited);
        let promisers = self.promisers(candidate, reach, waited);
        require(may_stand && promisers & only(candidate) != 0)?;
        let (best, committed) = self.best(candidate, promisers)?;
        require(self.may_lead(candidate, best, committed, promisers, reach))?;
        if !vain {
            self.has_room(best)?;
        }
        self.promise(candidate, promisers)?;
        if !vain {
            self.adopt(candidate, best, committed);
            self.lead(candidate, Kind::Own);
        }
        Some(())
    }

    fn may_lead(&self, candidate: u8, best: u8, committed: u8, promisers: Set, reach: Set) -> bool {
        let log = &self.at(best).log;
        let newest = rules::newest_configuration(log, u8::MAX).1;
        let present = |c| self.present(c, promisers);
        let lone = nodes(self.state.up() & reach).next() == Some(candidate);
        let quorum = match self.scope.flaw {
            Some(Flaw::LowestWithoutQuorum) => lone,
            Some(Flaw::NewestConfigurationOnly) => {
                rules::is_quorum(newest, present(newest), self.scope.witnesses)
            }
            Some(Flaw::OneSurvivor) if reach == only(candidate) => true,
            _ => self.has_quorum(candidate, best, committed, promisers, reach),
        };
        newest.names(candidate, self.at(candidate).incarnation) && quorum
    }

    /// A quorum of each configuration; by more than half where a tie must not be broken.
    fn has_quorum(&self, candidate: u8, best: u8, committed: u8, with: Set, reach: Set) -> bool {
        let excluded = match self.hears_of_a_leader(candidate, reach & !with) {
            true => Set::MAX,
            false => self.tie_breakers_excluded(candidate),
        };
        let log = &self.at(best).log;
        rules::is_quorum_of_each(log, committed, |c| self.present(c, with), excluded)
    }

    /// Takes the missing entries, durably, and what is known of their commit.
    fn adopt(&mut self, candidate: u8, best: u8, committed: u8) {
        let source = self.at(best).log;
        let known = self.at(best).ratified;
        let trimmed = self.at(best).trimmed;
        let common = rules::common(&self.at(candidate).log, &source);
        if common < self.at(candidate).committed {
            self.state.broken = Some(Broken::CommittedCut);
        }
        let n = self.at_mut(candidate);
        n.log = source;
        n.sync();
        n.trimmed = if common < trimmed { trimmed } else { n.trimmed };
        n.committed = committed;
        n.released = n.released.min(committed);
        n.ratified = n.ratified.max(known);
        n.record();
    }

    fn lead(&mut self, candidate: u8, kind: Kind) {
        self.push(candidate, kind);
        let n = self.at_mut(candidate);
        n.leads = true;
        n.standing = Standing::Active;
        n.rebuilt = false;
    }

    fn force(&mut self, forcer: u8, reach: Set) -> Done {
        self.reaches(forcer, reach)?;
        let own = *self.at(forcer);
        require(own.standing == Standing::Active && self.scope.witnesses & only(forcer) == 0)?;
        let promisers = self.promisers(forcer, reach, false);
        require(promisers & only(forcer) != 0)?;
        let (best, committed) = self.best(forcer, promisers)?;
        let log = self.at(best).log;
        self.has_room(best)?;
        let found = self.surroundings(forcer, best, committed, promisers, reach);
        require(rules::may_force(self.scope.policy, found))?;
        let members = rules::fork_members(&log, committed, |c| self.present(c, promisers));
        let configuration = Configuration::new(members, |n| self.at(n).incarnation);
        self.promise(forcer, promisers)?;
        self.adopt(forcer, best, committed);
        self.lead(forcer, Kind::Fork { forcer, committed, configuration });
        // On disk before anyone sees it: a forcer that forgot its own fork would side with those who
        // are to lose to it.
        if !self.scope.is(Flaw::ForkSeenBeforeDurable) {
            self.at_mut(forcer).sync();
        }
        Some(())
    }

    fn surroundings(
        &self,
        forcer: u8,
        best: u8,
        committed: u8,
        with: Set,
        reach: Set,
    ) -> Surroundings {
        let own = self.at(forcer);
        let log = &self.at(best).log;
        let is_in_every = |log: &[Entry], committed| {
            let newest = rules::newest_configuration(log, u8::MAX).1;
            let every = rules::is_in_every_configuration(log, committed, forcer, own.incarnation);
            let pending = self.scope.is(Flaw::ForceFromPendingGrowth);
            every || (pending && newest.names(forcer, own.incarnation))
        };
        let newest = rules::newest_configuration(log, u8::MAX).1;
        let witnesses = newest.members & self.scope.witnesses;
        let fork = rules::newest_fork(log);
        let named = rules::newest_configuration(log, fork).1;
        let fork_stands = fork <= committed || self.present(named, with) == named.members;
        Surroundings {
            standing: own.standing,
            reaches_gateway: !self.is_isolated(forcer) || self.scope.is(Flaw::GatewayIgnored),
            hears_of_a_leader: self.hears_of_a_leader(forcer, reach),
            holds_promise_of_witness: self.present(newest, with) & witnesses == witnesses
                || self.scope.is(Flaw::WitnessIgnored),
            quorum_is_there: fork_stands && self.has_quorum(forcer, best, committed, with, reach),
            reaches_another_history: self.reaches_another_history(forcer, reach)
                && !self.scope.is(Flaw::ForcePastJoiner),
            in_every_own_configuration: is_in_every(&own.log, own.committed),
            in_every_adopted_configuration: is_in_every(log, committed),
        }
    }

    fn reaches_another_history(&self, forcer: u8, reach: Set) -> bool {
        let n = self.at(forcer);
        let members = rules::members_in_force(&n.log, n.committed);
        nodes(reach & !only(forcer)).any(|m| match self.relation(forcer, m) {
            Relation::SameLineage => false,
            Relation::Joins | Relation::Merges => true,
            Relation::JoinedBy => members & only(m) != 0,
        })
    }

    // ---- Joining and merging ------------------------------------------------------------------------

    fn join(&mut self, node: u8, from: u8, whole: bool, sync: bool) -> Done {
        self.meet(node, from)?;
        require(self.relation(node, from) == Relation::Joins)?;
        let source = *self.at(from);
        let common = self.at(node).log.end();
        require(common >= source.trimmed)?;
        let end = if whole { source.log.end() } else { common + 1 };
        let promised = self.at(node).promised.max(source.log[end as usize - 1].term);
        let n = self.at_mut(node);
        n.receive(&source.log, common, end, promised);
        if sync {
            n.sync();
        }
        self.settle(node, false);
        Some(())
    }

    fn merge(&mut self, a: u8, b: u8) -> Done {
        self.meet(a, b)?;
        require(a < b && self.relation(a, b) == Relation::Merges)?;
        for n in [a, b] {
            self.at_mut(n).sync();
        }
        let (x, y) = (self.at(a), self.at(b));
        let divergence = rules::common(&x.log, &y.log);
        let loser = match self.verdict(x, y) {
            Verdict::First => b,
            Verdict::Second => a,
            Verdict::Ask => {
                self.state.broken = Some(Broken::MergeUndecided);
                return Some(());
            }
        };
        let winner = if loser == a { b } else { a };
        self.quarantine(loser, divergence);
        self.take_over(loser, winner, divergence);
        Some(())
    }

    fn verdict(&self, a: &Node, b: &Node) -> Verdict {
        let size = |n: &Node| rules::newest_configuration(&n.log, u8::MAX).1.members.count_ones();
        let divergence = rules::common(&a.log, &b.log);
        let forked = |n: &Node| rules::first_fork_after(&n.log, divergence).is_some();
        match self.scope.flaw {
            Some(Flaw::UnforcedWins) if forked(a) != forked(b) => match forked(a) {
                true => Verdict::Second,
                false => Verdict::First,
            },
            Some(Flaw::MoreMembersWin) if size(a) != size(b) => match size(a) > size(b) {
                true => Verdict::First,
                false => Verdict::Second,
            },
            _ => rules::merge(self.branch(a), self.branch(b)),
        }
    }

    fn branch<'n>(&self, n: &'n Node) -> Branch<'n> {
        let rebuilt = n.rebuilt && !self.scope.is(Flaw::RebuiltClaims);
        Branch { log: &n.log, recorded: n.recorded, ratified: n.ratified, rebuilt }
    }

    fn quarantine(&mut self, loser: u8, divergence: u8) {
        let n = self.at(loser);
        let suffix = n.operations(u8::MAX) & !n.operations(divergence);
        let trimmed = n.operations(n.trimmed) & !n.operations(divergence);
        if trimmed != 0 {
            self.state.broken = Some(Broken::QuarantineIncomplete);
        }
        let n = self.at_mut(loser);
        n.quarantine |= suffix;
        n.cut(divergence);
        n.follow();
        n.standing = Standing::Cold;
    }

    /// In the same write the loser enters the winner's lineage. Cut off and still in the old one, it
    /// could promise there without what it had acknowledged there.
    fn take_over(&mut self, loser: u8, winner: u8, divergence: u8) {
        let w = *self.at(winner);
        self.forget_itself(loser);
        let Some(fork) = rules::first_fork_after(&w.log, divergence) else { return };
        if self.scope.is(Flaw::LoserJoinsLater) {
            return;
        }
        let end = if divergence < w.trimmed { fork.max(w.trimmed) } else { fork };
        let promised = self.at(loser).promised.max(w.log[end as usize - 1].term);
        let n = self.at_mut(loser);
        n.receive(&w.log, divergence, end, promised);
        n.sync();
        if divergence < w.trimmed {
            n.trimmed = w.trimmed;
        }
    }

    /// The second loss may bring it back to where it was cut off before: its log does not hold what it
    /// acknowledged there, and so it is another incarnation.
    fn forget_itself(&mut self, loser: u8) {
        let keeps = self.scope.is(Flaw::SecondLossKeepsIncarnation);
        let n = self.at_mut(loser);
        if n.cut && !keeps {
            n.incarnation.returns += 1;
            n.rebuilt = true;
            self.state.returns += 1;
        }
        let n = self.at_mut(loser);
        n.cut = !n.cut;
    }

    // ---- Faults and time ----------------------------------------------------------------------------

    fn crash(&mut self, node: u8) -> Done {
        require(self.at(node).up && self.state.crashes < self.scope.crashes_max)?;
        self.state.crashes += 1;
        let n = self.at_mut(node);
        n.log.cut(n.durable);
        n.committed = n.recorded;
        n.released = n.trimmed;
        n.up = false;
        n.standing = Standing::Cold;
        n.follow();
        Some(())
    }

    fn restart(&mut self, node: u8) -> Done {
        require(node < self.scope.nodes && !self.at(node).up)?;
        self.at_mut(node).up = true;
        Some(())
    }

    fn pause(&mut self, node: u8) -> Done {
        let pauses = self.scope.pauses;
        let n = self.at_mut(node);
        require(pauses && n.up && n.standing != Standing::Cold)?;
        n.standing = Standing::Cold;
        n.leased = 0;
        Some(())
    }

    fn roll_back(&mut self, node: u8, end: u8) -> Done {
        let keeps = self.scope.is(Flaw::LostForkCommits);
        let bumps = !self.scope.is(Flaw::RebuiltVotes);
        require(node < self.scope.nodes && self.state.rollbacks < self.scope.rollbacks_max)?;
        let n = self.at(node);
        require(!n.up && end < n.durable && n.incarnation.disk < 8)?;
        self.state.rollbacks += 1;
        let n = self.at_mut(node);
        let end = if end < n.trimmed { 0 } else { end };
        let (committed, recorded) = (n.committed, n.recorded);
        n.cut(end);
        if keeps {
            n.committed = committed.min(end);
            n.recorded = rules::newest_configuration(&n.log, recorded.min(end)).0;
        }
        // An empty log takes all from a leader, records too: nothing of it is stale.
        n.rebuilt = end > 0;
        if bumps {
            n.incarnation = Incarnation { disk: n.incarnation.disk + 1, returns: 0 };
        }
        if end == 0 {
            n.promised = Term::default();
            n.quarantine = 0;
            n.granted = Term::default();
        }
        for given in &mut self.state.given {
            given.keepers &= !only(node);
        }
        Some(())
    }

    fn isolate(&mut self, node: u8) -> Done {
        require(self.state.isolations < self.scope.isolations_max)?;
        require(!self.is_isolated(node) && node < self.scope.nodes)?;
        self.state.isolations += 1;
        self.state.isolated |= only(node);
        Some(())
    }

    fn reconnect(&mut self, node: u8) -> Done {
        require(self.is_isolated(node))?;
        self.state.isolated &= !only(node);
        Some(())
    }

    fn lease(&mut self, leader: u8, reach: Set) -> Done {
        require(self.scope.leases)?;
        self.leads(leader)?;
        self.reaches(leader, reach)?;
        let l = *self.at(leader);
        let with = nodes(self.of_lineage(leader, reach))
            .filter(|n| self.at(*n).promised == l.promised)
            .fold(0, |set, n| set | only(n));
        require(l.log[..l.committed as usize].last().is_some_and(|e| e.term == l.promised))?;
        require(!rules::is_forced(&l.log, l.ratified))?;
        let present = |c| self.present(c, with);
        let excluded = self.tie_breakers_excluded(leader);
        require(rules::is_quorum_of_each(&l.log, l.committed, present, excluded))?;
        for n in 0..NODES_MAX as u8 {
            let chosen = with & only(n) != 0;
            let n = self.at_mut(n);
            if chosen {
                n.granted = l.promised;
            } else if n.granted == l.promised {
                n.granted = Term::default();
            }
        }
        self.at_mut(leader).leased = with;
        Some(())
    }

    fn expire(&mut self, leader: u8) -> Done {
        require(self.at(leader).leased != 0)?;
        self.at_mut(leader).leased = 0;
        Some(())
    }

    fn trim(&mut self, node: u8) -> Done {
        let careless = self.scope.is(Flaw::RebuiltTrims);
        let n = self.at(node);
        let end = match self.scope.is(Flaw::TrimsForks) {
            true => n.released,
            false => rules::trim_index(&n.log, n.released, n.ratified, n.rebuilt && !careless),
        };
        require(self.scope.trims && n.up && end.min(n.durable) > n.trimmed)?;
        let n = self.at_mut(node);
        n.trimmed = end.min(n.durable);
        Some(())
    }

    fn snapshot(&mut self, leader: u8, to: u8) -> Done {
        self.leads(leader)?;
        self.meet(leader, to)?;
        let l = *self.at(leader);
        let n = self.at(to);
        let common = rules::common(&n.log, &l.log);
        require(common < l.trimmed)?;
        let promised = match self.relation(to, leader) {
            Relation::SameLineage => {
                require(n.promised == l.promised || n.promised.number < l.promised.number)?;
                l.promised
            }
            Relation::Joins => n.promised.max(l.log[l.trimmed as usize - 1].term),
            _ => return None,
        };
        if common < n.committed {
            self.state.broken = Some(Broken::CommittedCut);
        }
        let n = self.at_mut(to);
        n.receive(&l.log, common, l.trimmed, promised);
        n.sync();
        n.trimmed = l.trimmed;
        n.rebuilt = false;
        n.committed = n.committed.max(l.trimmed);
        n.released = n.released.max(l.trimmed);
        n.ratified = n.ratified.max(rules::newest_fork(n.log.upto(l.trimmed.min(l.ratified))));
        n.record();
        self.settle(to, true);
        Some(())
    }
}

impl Node {
    /// Takes entries after `common` up to `end`; what contradicts them goes.
    fn receive(&mut self, source: &[Entry], common: u8, end: u8, promised: Term) {
        if end > common {
            self.log.cut(common);
            self.durable = self.durable.min(common);
            for entry in &source[common as usize..end as usize] {
                self.log.push(*entry);
            }
        }
        self.promised = promised;
        self.follow();
    }

    /// All on disk; and what history took after all leaves the quarantine.
    fn sync(&mut self) {
        self.durable = self.log.end();
        self.quarantine &= !self.operations(self.durable);
    }

    /// Puts the newest committed configuration on disk as such, and the log as far as that.
    fn record(&mut self) {
        let (lsn, _) = rules::newest_configuration(&self.log, self.committed);
        self.recorded = self.recorded.max(lsn);
        if self.durable < self.recorded {
            self.sync();
        }
    }

    /// Forgets all after `end`, on disk too.
    fn cut(&mut self, end: u8) {
        self.committed = rules::commit_index_without(&self.log, self.committed, end);
        self.recorded = rules::commit_index_without(&self.log, self.recorded, end);
        self.log.cut(end);
        self.durable = self.durable.min(end);
        self.released = self.released.min(end);
        self.trimmed = self.trimmed.min(end);
        self.recorded = rules::newest_configuration(&self.log, self.recorded).0;
        self.ratified = rules::newest_fork(self.log.upto(self.ratified.min(end)));
    }
}
