//! What can happen, one atomic step at a time. `take` checks that a step is possible, does it, and says
//! whether it did; an impossible step leaves the state as it was.

use super::{
    flaws::Flaw,
    rules::{self, Policy, Relation},
    state::{Configuration, Node, Set, State, nodes, only},
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

    pub fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

/// A state and the rules that it moves by.
pub struct World<'a> {
    pub state: &'a mut State,
    pub scope: &'a Scope,
}

/// `Some(())` if the step was possible.
pub type Done = Option<()>;

pub fn require(condition: bool) -> Done {
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

    pub fn at(&self, node: u8) -> &Node {
        self.state.at(node)
    }

    pub fn at_mut(&mut self, node: u8) -> &mut Node {
        self.state.at_mut(node)
    }

    // ---- Who reaches whom ---------------------------------------------------------------------------

    pub fn is_isolated(&self, node: u8) -> bool {
        self.state.isolated & only(node) != 0
    }

    pub fn meet(&self, a: u8, b: u8) -> Done {
        let both = a != b && self.at(a).up && self.at(b).up;
        require(both && !self.is_isolated(a) && !self.is_isolated(b))
    }

    /// Whether `reach` can be what a node reaches, itself included.
    pub fn reaches(&self, node: u8, reach: Set) -> Done {
        let most = match self.is_isolated(node) {
            true => only(node),
            false => self.state.up() & !self.state.isolated,
        };
        let chosen = self.scope.partitions && reach & !most == 0;
        require(self.at(node).up && reach & only(node) != 0 && (chosen || reach == most))
    }

    pub fn relation(&self, own: u8, other: u8) -> Relation {
        let relation = rules::relation(&self.at(own).log, &self.at(other).log);
        match self.scope.is(Flaw::ForceWithoutLineages) {
            true => Relation::SameLineage,
            false => relation,
        }
    }

    pub fn of_lineage(&self, node: u8, among: Set) -> Set {
        let same = |n: &u8| self.relation(node, *n) == Relation::SameLineage;
        nodes(among).filter(same).fold(0, |set, n| set | only(n))
    }

    /// Those of `among` that are members of `c` under their present incarnation.
    pub fn present(&self, c: Configuration, among: Set) -> Set {
        let named = |n: &u8| c.names(*n, self.at(*n).incarnation);
        nodes(among & c.members).filter(named).fold(0, |set, n| set | only(n))
    }

    pub fn is_member(&self, node: u8) -> bool {
        let n = self.at(node);
        rules::newest_configuration(&n.log, u8::MAX).1.names(node, n.incarnation)
    }

    pub fn has_room(&self, log_of: u8) -> Done {
        require(self.at(log_of).log.end() < self.scope.entries_max)
    }

    /// A peer that leads and still has a quorum, or follows such a one. Under partitions a node may
    /// reach those who lost their leader and not the leader, so that nothing follows from it.
    pub fn hears_of_a_leader(&self, node: u8, reach: Set) -> bool {
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
    pub fn tie_breakers_excluded(&self, node: u8) -> Set {
        match self.is_isolated(node) && !self.scope.is(Flaw::GatewayIgnored) {
            true => Set::MAX,
            false => self.scope.witnesses,
        }
    }
}
