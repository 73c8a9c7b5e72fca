//! Promises, elections and forks.

use super::{
    flaws::Flaw,
    rules::{self, Policy, Relation, Surroundings},
    state::{Broken, Configuration, Entry, Kind, Set, Standing, Term, nodes, only},
    step::{Done, World, require},
};

impl World<'_> {
    /// A grant binds as long as the leader may still believe in its lease.
    pub fn is_bound(&self, node: u8, candidate: u8) -> bool {
        let granted = self.at(node).granted;
        let leader = self.at(granted.leader);
        let holds = leader.up && leader.leads && leader.leased != 0 && leader.promised == granted;
        holds && granted.leader != candidate && !self.scope.is(Flaw::LeaseIgnored)
    }

    /// The cold-start rule, for one node and those of its lineage that it reaches.
    pub fn is_everyone_there(&self, node: u8, reach: Set) -> bool {
        let n = self.at(node);
        let heard = self.of_lineage(node, reach);
        let free = self.scope.policy == Policy::Majority
            || self.scope.is(Flaw::ColdForbidsForceOnly)
            || self.scope.is(Flaw::OneSurvivor)
            || self.scope.is(Flaw::LowestWithoutQuorum);
        free || rules::is_everyone_there(&n.log, n.committed, |c| self.present(c, heard))
    }

    pub fn has_waited(&self, node: u8, reach: Set, waited: bool) -> bool {
        let n = self.at(node);
        let heard = self.of_lineage(node, reach);
        let present = |c| self.present(c, heard);
        waited && rules::is_quorum_of_each(&n.log, n.committed, present, self.scope.witnesses)
    }

    pub fn may_promise(&self, node: u8, candidate: u8, reach: Set, waited: bool) -> bool {
        let n = self.at(node);
        let there = n.standing != Standing::Active && self.is_everyone_there(node, reach);
        let waited = n.standing != Standing::Active && self.has_waited(node, reach, waited);
        !self.is_bound(node, candidate)
            && rules::may_promise(n.standing, self.is_member(node), there, waited)
    }

    pub fn promisers(&self, candidate: u8, reach: Set, waited: bool) -> Set {
        let same = self.of_lineage(candidate, reach);
        nodes(same)
            .filter(|n| self.may_promise(*n, candidate, reach, waited))
            .fold(0, |set, n| set | only(n))
    }

    /// The most advanced log of the promisers, and the highest commit index among them.
    pub fn best(&self, candidate: u8, promisers: Set) -> Option<(u8, u8)> {
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

    pub fn promise(&mut self, candidate: u8, promisers: Set) -> Done {
        let highest = nodes(promisers).map(|n| self.at(n).promised.number).max()?;
        require(highest < self.scope.terms_max)?;
        let term = Term { number: highest + 1, leader: candidate };
        for n in nodes(promisers) {
            self.at_mut(n).promised = term;
            self.at_mut(n).follow();
        }
        Some(())
    }

    pub fn elect(&mut self, candidate: u8, reach: Set, waited: bool, vain: bool) -> Done {
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

    pub fn may_lead(
        &self,
        candidate: u8,
        best: u8,
        committed: u8,
        promisers: Set,
        reach: Set,
    ) -> bool {
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
    pub fn has_quorum(
        &self,
        candidate: u8,
        best: u8,
        committed: u8,
        with: Set,
        reach: Set,
    ) -> bool {
        let excluded = match self.hears_of_a_leader(candidate, reach & !with) {
            true => Set::MAX,
            false => self.tie_breakers_excluded(candidate),
        };
        let log = &self.at(best).log;
        rules::is_quorum_of_each(log, committed, |c| self.present(c, with), excluded)
    }

    /// Takes the missing entries, durably, and what is known of their commit.
    pub fn adopt(&mut self, candidate: u8, best: u8, committed: u8) {
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

    pub fn lead(&mut self, candidate: u8, kind: Kind) {
        self.push(candidate, kind);
        let n = self.at_mut(candidate);
        n.leads = true;
        n.standing = Standing::Active;
        n.rebuilt = false;
    }

    pub fn force(&mut self, forcer: u8, reach: Set) -> Done {
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

    pub fn surroundings(
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

    pub fn reaches_another_history(&self, forcer: u8, reach: Set) -> bool {
        let n = self.at(forcer);
        let members = rules::members_in_force(&n.log, n.committed);
        nodes(reach & !only(forcer)).any(|m| match self.relation(forcer, m) {
            Relation::SameLineage => false,
            Relation::Joins | Relation::Merges => true,
            Relation::JoinedBy => members & only(m) != 0,
        })
    }
}
