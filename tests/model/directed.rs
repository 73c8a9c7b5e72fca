//! Counter-examples that walks find too seldom for every run, written out. Each fails with its flaw, and
//! does no harm without it.

use super::{
    flaws::Flaw,
    invariant::Violation,
    scopes::CALM,
    state::Set,
    step::{Depth::Acked, Scope, Step, Step::*},
};

pub struct Directed {
    pub flaw: Flaw,
    pub scope: Scope,
    pub violation: Violation,
    pub steps: &'static [Step],
}

const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;

const fn elect(candidate: u8, reach: Set) -> Step {
    Elect { candidate, reach, waited: false, vain: false }
}

const fn append(leader: u8, to: u8) -> Step {
    Append { leader, to, whole: true, depth: Acked }
}

pub const DIRECTED: [Directed; 3] = [
    // C is to be added to {A,B}, forces from that, and A forgets the growth in a crash. What {A,B} then
    // release has no configuration that leaves C out, and so nothing claims against C's fork.
    Directed {
        flaw: Flaw::ForceFromPendingGrowth,
        scope: Scope { founders: 0b011, ..CALM },
        violation: Violation::UnforcedQuarantined,
        steps: &[
            elect(A, 0b011),
            Sync { node: A },
            append(A, B),
            Commit { leader: A },
            append(A, C),
            Add { leader: A, node: C },
            append(A, C),
            Force { forcer: C, reach: 0b100 },
            Crash { node: A },
            Restart { node: A },
            elect(A, 0b011),
            Propose { leader: A },
            Sync { node: A },
            append(A, B),
            Commit { leader: A },
            Tell { leader: A, to: B, heard: true },
            Release { leader: A },
            Merge { a: A, b: C },
        ],
    },
    // A's disk goes back to when {A,B} had dropped C, and meanwhile the operator forgot A: its old record
    // claims against a fork that is ratified.
    Directed {
        flaw: Flaw::RebuiltClaims,
        scope: Scope { rollbacks_max: 1, ..CALM },
        violation: Violation::Step(super::state::Broken::MergeUndecided),
        steps: &[
            elect(A, 0b011),
            append(A, B),
            Sync { node: A },
            Commit { leader: A },
            Remove { leader: A, node: C },
            append(A, B),
            Sync { node: A },
            Commit { leader: A },
            Force { forcer: C, reach: 0b100 },
            Merge { a: B, b: C },
            Propose { leader: A },
            Sync { node: A },
            Crash { node: A },
            RollBack { node: A, end: 3 },
            append(C, B),
            Commit { leader: C },
            Ratify { leader: C, forget: true },
            Restart { node: A },
            Merge { a: A, b: C },
        ],
    },
    // B copies C's fork entry, C forgets it in a crash and goes on in the old lineage with A. Their
    // configuration holds the forcer, so it does not claim against the fork that B brings.
    Directed {
        flaw: Flaw::ForkSeenBeforeDurable,
        scope: Scope { waits: true, ..CALM },
        violation: Violation::UnforcedQuarantined,
        steps: &[
            Force { forcer: C, reach: 0b100 },
            Join { node: B, from: C, whole: true, sync: true },
            Crash { node: C },
            Restart { node: C },
            Elect { candidate: A, reach: 0b101, waited: true, vain: false },
            Propose { leader: A },
            append(A, C),
            Sync { node: A },
            Commit { leader: A },
            Remove { leader: A, node: B },
            append(A, C),
            Sync { node: A },
            Commit { leader: A },
            Tell { leader: A, to: C, heard: true },
            Release { leader: A },
            Merge { a: A, b: B },
        ],
    },
];
