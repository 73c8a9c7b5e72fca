//! What befalls nodes; and leases, trimming and snapshots.

use super::{
    flaws::Flaw,
    rules::{self, Relation},
    state::{Broken, Incarnation, NODES_MAX, Set, Standing, Term, nodes, only},
    step::{Done, World, require},
};

impl World<'_> {
    pub fn crash(&mut self, node: u8) -> Done {
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

    pub fn restart(&mut self, node: u8) -> Done {
        require(node < self.scope.nodes && !self.at(node).up)?;
        self.at_mut(node).up = true;
        Some(())
    }

    pub fn pause(&mut self, node: u8) -> Done {
        let pauses = self.scope.pauses;
        let n = self.at_mut(node);
        require(pauses && n.up && n.standing != Standing::Cold)?;
        n.standing = Standing::Cold;
        n.leased = 0;
        Some(())
    }

    pub fn roll_back(&mut self, node: u8, end: u8) -> Done {
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

    pub fn isolate(&mut self, node: u8) -> Done {
        require(self.state.isolations < self.scope.isolations_max)?;
        require(!self.is_isolated(node) && node < self.scope.nodes)?;
        self.state.isolations += 1;
        self.state.isolated |= only(node);
        Some(())
    }

    pub fn reconnect(&mut self, node: u8) -> Done {
        require(self.is_isolated(node))?;
        self.state.isolated &= !only(node);
        Some(())
    }

    pub fn lease(&mut self, leader: u8, reach: Set) -> Done {
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

    pub fn expire(&mut self, leader: u8) -> Done {
        require(self.at(leader).leased != 0)?;
        self.at_mut(leader).leased = 0;
        Some(())
    }

    pub fn trim(&mut self, node: u8) -> Done {
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

    pub fn snapshot(&mut self, leader: u8, to: u8) -> Done {
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
        if self.relation(to, leader) == Relation::Joins {
            self.begin_anew_if_cut(to);
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
