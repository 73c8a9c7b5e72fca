//! Liveness as reachability: everyone is up and connected, and somebody plays the cluster by its own
//! steps until it has one leader, one history and everyone as a member again.

use super::{
    invariant::{Violation, check, promised},
    rules,
    state::{LOG_MAX, Node, Set, State, nodes},
    step::{Depth, Scope, Step, take},
};

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Healed {
    /// One leader that commits, everyone a member, all forks ratified.
    Whole,
    /// Disks were lost, and what is left may not go on by itself.
    NeedsOperator,
}

/// More than any state of the scopes needs.
const ROUNDS_MAX: usize = 12;

struct Healer {
    state: State,
    scope: Scope,
}

/// Heals a copy of the state, and checks it on the way and at the end.
pub fn heal(state: &State, scope: &Scope) -> Result<Healed, Violation> {
    let healing = Scope {
        partitions: false,
        waits: true,
        pauses: false,
        terms_max: u8::MAX,
        entries_max: LOG_MAX as u8,
        ..*scope
    };
    let mut healer = Healer { state: *state, scope: healing };
    for _ in 0..ROUNDS_MAX {
        healer.gather();
        if let Some(leader) = healer.leader() {
            healer.serve(leader);
            if healer.is_whole(leader) {
                return healer.judge(leader, scope).map(|()| Healed::Whole);
            }
        }
        if let Some(violation) = check(&healer.state, scope) {
            return Err(violation);
        }
        if healer.leader().is_none() && !healer.stand() {
            break;
        }
    }
    let returned = |n: &Node| n.incarnation.returns > 0;
    match healer.state.rollbacks > 0 || healer.state.node.iter().any(returned) {
        true => Ok(Healed::NeedsOperator),
        false => Err(Violation::NotHealed),
    }
}

impl Healer {
    fn take(&mut self, step: Step) -> bool {
        self.state.node.iter().all(|n| (n.log.end() as usize) < LOG_MAX)
            && take(&mut self.state, &self.scope, step)
    }

    fn all(&self) -> impl Iterator<Item = u8> + use<> {
        nodes(self.scope.everyone())
    }

    /// Everyone up, connected, on disk, and of one history as far as merging and joining go.
    fn gather(&mut self) {
        for node in self.all() {
            self.take(Step::Restart { node });
            self.take(Step::Reconnect { node });
            self.take(Step::Sync { node });
            self.take(Step::Expire { leader: node });
        }
        for _ in 0..2 {
            for a in self.all() {
                for b in self.all() {
                    self.take(Step::Merge { a, b });
                }
            }
            for node in self.all() {
                for from in self.all() {
                    self.take(Step::Join { node, from, whole: true, sync: true });
                }
            }
        }
    }

    /// A leader whom nobody of its lineage has left.
    fn leader(&self) -> Option<u8> {
        let highest = self.all().map(|n| self.state.at(n).promised.number).max()?;
        self.all().find(|n| {
            let n = self.state.at(*n);
            n.leads && n.promised.number == highest
        })
    }

    fn stand(&mut self) -> bool {
        let reach: Set = self.scope.everyone();
        for waited in [false, true] {
            for candidate in self.all() {
                if self.take(Step::Elect { candidate, reach, waited, vain: false }) {
                    return true;
                }
            }
        }
        self.all().any(|forcer| self.take(Step::Force { forcer, reach }))
    }

    /// A leader's work, as far as it gets; a leader that gets nowhere gives up.
    fn serve(&mut self, leader: u8) {
        for _ in 0..3 * self.scope.nodes {
            let before = self.state;
            for to in self.all() {
                self.take(Step::Snapshot { leader, to });
                self.take(Step::Append { leader, to, whole: true, depth: Depth::Acked });
            }
            for node in self.all() {
                self.take(Step::Sync { node });
            }
            self.take(Step::Commit { leader });
            for to in self.all() {
                self.take(Step::Tell { leader, to, heard: true });
            }
            self.take(Step::Release { leader });
            while self.take(Step::Ratify { leader, forget: false }) {}
            let changed = self.change(leader);
            if !changed && self.state == before {
                break;
            }
        }
        while self.take(Step::Ratify { leader, forget: true }) {}
        if !self.is_whole(leader) {
            self.state.at_mut(leader).follow();
        }
    }

    fn change(&mut self, leader: u8) -> bool {
        let newest = rules::newest_configuration(&self.state.at(leader).log, u8::MAX).1;
        let over = |n: &u8| !newest.names(*n, self.state.at(*n).incarnation);
        let over: Vec<_> = nodes(newest.members).filter(over).collect();
        over.into_iter().any(|node| self.take(Step::Remove { leader, node }))
            || self.all().any(|node| self.take(Step::Add { leader, node }))
    }

    fn is_whole(&self, leader: u8) -> bool {
        let l = self.state.at(leader);
        let newest = rules::newest_configuration(&l.log, u8::MAX).1;
        let end = l.log.end();
        l.committed == end
            && l.released == end
            && !rules::is_forced(&l.log, l.ratified)
            && self.all().all(|n| {
                let other = self.state.at(n);
                other.log == l.log && newest.names(n, other.incarnation)
            })
    }

    fn judge(&self, leader: u8, scope: &Scope) -> Result<(), Violation> {
        if let Some(violation) = check(&self.state, scope) {
            return Err(violation);
        }
        let ok = promised(&self.state);
        let history = self.state.at(leader).operations(u8::MAX);
        let quarantined = self.state.node.iter().fold(0, |set, n| set | n.quarantine);
        if scope.strict && quarantined & (ok.forced | ok.unforced) != 0 {
            return Err(Violation::QuarantinedAfterCrashesOnly);
        }
        if ok.unforced & !history != 0 || ok.forced & !(history | quarantined) != 0 {
            return Err(Violation::HealedWithout);
        }
        match (ok.unforced | ok.forced) & history & quarantined {
            0 => Ok(()),
            _ => Err(Violation::InBoth),
        }
    }
}
