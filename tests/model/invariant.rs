//! What must hold in every state.

use super::{
    flaws::Flaw,
    rules,
    state::{Broken, NODES_MAX, Node, OPERATIONS_MAX, Set, State},
    step::Scope,
};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Violation {
    /// An OK that was given unforced is in the quarantine of a keeper. (A learner that was told nothing
    /// yet may lose to a stale fork, and takes the entry back with the rest.)
    UnforcedQuarantined,
    /// A keeper of an OK no longer holds it, neither in its log nor (if forced) in quarantine.
    Lost,
    /// In a scope without anything that looks like death but is none, a keeper quarantined an OK.
    QuarantinedAfterCrashesOnly,
    /// An operation is in a node's log and in its own quarantine.
    HeldTwice,
    /// Two leaders of one lineage share a term number.
    TwoLeaders,
    /// Two nodes of one lineage differ in what both know to be committed.
    CommittedDiffers,
    /// A leader lacks what an older term of its lineage committed.
    LeaderIncomplete,
    /// A leader would answer a linearizable read by its lease without an unforced OK.
    StaleRead,
    Step(Broken),
    /// With everyone up and connected the cluster does not come back.
    NotHealed,
    /// It came back without an OK that a keeper still should have brought.
    HealedWithout,
    /// An OK is in the healed history and in a quarantine.
    InBoth,
}

pub fn check(state: &State, scope: &Scope) -> Option<Violation> {
    if let Some(broken) = state.broken {
        return Some(Violation::Step(broken));
    }
    promises(state, scope).or_else(|| lineages(state)).or_else(|| reads(state, scope))
}

/// Operations by what was said of them, one bit each.
pub struct Promised {
    pub unforced: u8,
    pub forced: u8,
}

/// OKs that a keeper's disk still stands for.
pub fn promised(state: &State) -> Promised {
    let mut promised = Promised { unforced: 0, forced: 0 };
    for operation in 0..OPERATIONS_MAX.min(state.operations) {
        let given = state.given[operation as usize];
        if given.ok && given.keepers != 0 {
            let set = if given.forced { &mut promised.forced } else { &mut promised.unforced };
            *set |= 1 << operation;
        }
    }
    promised
}

fn promises(state: &State, scope: &Scope) -> Option<Violation> {
    let ok = promised(state);
    for (id, n) in state.node.iter().enumerate() {
        let held = n.operations(n.durable);
        if n.quarantine & ok.unforced & kept_by(state, id) != 0 {
            return Some(Violation::UnforcedQuarantined);
        }
        if scope.strict && n.quarantine & ok.forced & kept_by(state, id) != 0 {
            return Some(Violation::QuarantinedAfterCrashesOnly);
        }
        if held & n.quarantine & (ok.forced | ok.unforced) != 0 {
            return Some(Violation::HeldTwice);
        }
        if kept_by(state, id) & !(held | n.quarantine) != 0 {
            return Some(Violation::Lost);
        }
    }
    None
}

/// Operations whose OK rests on that node's disk among others.
fn kept_by(state: &State, node: usize) -> u8 {
    let given = state.given.iter().enumerate();
    let kept = given.filter(|(_, g)| g.ok && g.keepers >> node & 1 == 1);
    kept.fold(0, |set, (operation, _)| set | 1 << operation)
}

fn lineages(state: &State) -> Option<Violation> {
    let fork = state.node.each_ref().map(|n| rules::newest_fork(&n.log));
    for i in 0..NODES_MAX {
        for j in 0..i {
            let (a, b) = (&state.node[i], &state.node[j]);
            let lineage = |n: &Node, at: u8| n.log.upto(at).last().copied();
            if fork[i] != fork[j] || lineage(a, fork[i]) != lineage(b, fork[j]) {
                continue;
            }
            let common = rules::common(&a.log, &b.log);
            if common < a.committed.min(b.committed) {
                return Some(Violation::CommittedDiffers);
            }
            if a.leads && b.leads && a.promised.number == b.promised.number {
                return Some(Violation::TwoLeaders);
            }
            if lacks(a, b, common) || lacks(b, a, common) {
                return Some(Violation::LeaderIncomplete);
            }
        }
    }
    None
}

/// What a node knows to be committed was so in a term up to the one that it promised last. (An entry's
/// own term may be older than the one that committed it, and says nothing.)
fn lacks(leader: &Node, other: &Node, common: u8) -> bool {
    leader.leads && common < other.committed && other.promised.number <= leader.promised.number
}

/// A leader answers a linearizable read by its lease without an unforced OK.
fn reads(state: &State, scope: &Scope) -> Option<Violation> {
    let unforced = promised(state).unforced;
    let stale = |n: &Node| {
        let marks = (n.committed, n.released, n.ratified);
        let granted_by = match scope.flaw {
            Some(Flaw::LeaseOutlivesConfiguration) => Set::MAX,
            _ => n.leased,
        };
        n.leased != 0
            && unforced & !n.operations(n.released) != 0
            && rules::may_read_by_lease(&n.log, n.promised, marks, granted_by, scope.witnesses)
    };
    state.node.iter().any(|n| n.up && n.leads && stale(n)).then_some(Violation::StaleRead)
}
