//! A leader at work: appends, commits, tells, releases, changes the configuration, ratifies.

use super::{
    flaws::Flaw,
    rules::{self, Policy, Relation},
    state::{
        Ack, Broken, Configuration, Entry, Incarnation, Kind, Set, Standing, Term, nodes, only,
    },
    step::{Depth, Done, World, require},
};

impl World<'_> {
    pub fn leads(&self, node: u8) -> Done {
        require(self.at(node).up && self.at(node).leads)
    }

    pub fn term(&self, leader: u8) -> Term {
        self.at(leader).promised
    }

    pub fn push(&mut self, leader: u8, kind: Kind) {
        let term = self.term(leader);
        self.at_mut(leader).log.push(Entry { term, kind });
    }

    pub fn propose(&mut self, leader: u8) -> Done {
        self.leads(leader)?;
        self.has_room(leader)?;
        require(self.state.operations < self.scope.operations_max)?;
        let operation = self.state.operations;
        self.state.operations += 1;
        self.push(leader, Kind::Data(operation));
        Some(())
    }

    pub fn sync(&mut self, node: u8) -> Done {
        let n = self.at_mut(node);
        require(n.up && n.durable < n.log.end())?;
        n.sync();
        Some(())
    }

    pub fn append(&mut self, leader: u8, to: u8, whole: bool, depth: Depth) -> Done {
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

    pub fn ack(&mut self, leader: u8, from: u8, matched: u8) {
        let early = self.scope.is(Flaw::AckBeforeDurable);
        let n = self.at(from);
        let durable = if early { matched } else { matched.min(n.durable) };
        let incarnation = n.incarnation;
        let ack = &mut self.at_mut(leader).acks[from as usize];
        let recorded = if ack.incarnation == incarnation { ack.recorded } else { 0 };
        *ack = Ack { durable, recorded, incarnation };
    }

    /// A node that its own newest configuration does not name is no longer active.
    pub fn settle(&mut self, node: u8, by_leader: bool) {
        let member = self.is_member(node);
        let n = self.at_mut(node);
        n.standing = match n.standing {
            Standing::Active if member => Standing::Active,
            Standing::Cold if !by_leader => Standing::Cold,
            _ => Standing::Learning,
        };
    }

    /// Holds the leader's whole log, durably, and stands in its newest configuration: active.
    pub fn admit(&mut self, leader: u8, node: u8) {
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
    pub fn durable_at(&self, leader: u8, node: u8, incarnation: Incarnation) -> u8 {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        match (node == leader, incarnation) {
            (true, life) if life == l.incarnation => l.durable,
            (false, life) if life == ack.incarnation => ack.durable,
            _ => 0,
        }
    }

    pub fn recorded_at(&self, leader: u8, node: u8, incarnation: Incarnation) -> u8 {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        match (node == leader, incarnation) {
            (true, life) if life == l.incarnation => l.recorded,
            (false, life) if life == ack.incarnation => ack.recorded,
            _ => 0,
        }
    }

    pub fn commit(&mut self, leader: u8) -> Done {
        self.leads(leader)?;
        let l = self.at(leader);
        let durable = |n, life| self.durable_at(leader, n, life);
        let excluded = self.tie_breakers_excluded_now(leader);
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

    /// A leader may have come to lead, or to drop its peer, while it could break a tie. It counts anew.
    fn tie_breakers_excluded_now(&self, leader: u8) -> Set {
        let reach = match self.is_isolated(leader) {
            true => only(leader),
            false => self.state.up() & !self.state.isolated,
        };
        let hears = self.hears_of_a_leader(leader, reach);
        match hears && !self.scope.is(Flaw::TieBrokenForGood) {
            true => Set::MAX,
            false => self.tie_breakers_excluded(leader),
        }
    }

    pub fn commit_by_the_live(&self, leader: u8) -> u8 {
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

    pub fn commit_by_the_newest(&self, leader: u8) -> u8 {
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

    pub fn tell(&mut self, leader: u8, to: u8, heard: bool) -> Done {
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

    pub fn release(&mut self, leader: u8) -> Done {
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
                if given.forced && !forced {
                    // Given again, unforced: by these members, whatever those of the fork did.
                    given.keepers = 0;
                }
                given.forced = forced && (given.forced || !given.ok);
                given.ok = true;
                given.keepers |= keepers;
            }
        }
        self.at_mut(leader).released = index;
        Some(())
    }

    pub fn change(&mut self, leader: u8, change: impl Fn(Configuration) -> Configuration) -> Done {
        let l = self.at(leader);
        require(rules::may_change_configuration(&l.log, l.promised, l.committed))?;
        self.has_room(leader)?;
        let newest = rules::newest_configuration(&l.log, u8::MAX).1;
        let next = change(newest);
        require(next != newest)?;
        self.push(leader, Kind::Config(next));
        Some(())
    }

    /// A silent member, or one whose named life is over.
    pub fn remove(&mut self, leader: u8, node: u8) -> Done {
        self.leads(leader)?;
        let c = rules::newest_configuration(&self.at(leader).log, u8::MAX).1;
        let over = !c.names(node, self.at(node).incarnation);
        require(!self.scope.witness_stays || self.scope.witnesses & only(node) == 0)?;
        let silent = self.scope.partitions || self.meet(leader, node).is_none();
        require(node != leader && c.members & only(node) != 0 && (over || silent))?;
        self.change(leader, |c| c.without(node))
    }

    /// A learner that has the whole log.
    pub fn add(&mut self, leader: u8, node: u8) -> Done {
        self.leads(leader)?;
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        let c = rules::newest_configuration(&l.log, u8::MAX).1;
        require(node != leader && c.members & only(node) == 0 && ack.durable == l.log.end())?;
        self.change(leader, |c| c.with(node, ack.incarnation))
    }

    pub fn ratify(&mut self, leader: u8, forget: bool) -> Done {
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

    pub fn has_joined(
        &self,
        leader: u8,
        node: u8,
        named: Incarnation,
        fork: u8,
        forget: bool,
    ) -> bool {
        let l = self.at(leader);
        let ack = l.acks[node as usize];
        let (now, durable) = match node == leader {
            true => (l.incarnation, l.durable),
            false => (ack.incarnation, ack.durable),
        };
        let gone = forget && self.at(node).incarnation.disk != named.disk;
        gone || (rules::has_joined_for(named, now) && durable >= fork)
    }
}
