//! The same steps for stateright: every state of a small scope, or all up to a stated number of them.
//!
//! The ranking of the nodes breaks all symmetry (who is lowest decides ties, and the lower forcer wins),
//! so none is used.

use stateright::{Model, Property};

use super::{
    heal::heal,
    invariant::check,
    state::{Set, State},
    step::{Depth, Scope, Step, take},
};

/// A scope as stateright sees it.
#[derive(Clone)]
pub struct Search {
    pub scope: Scope,
}

impl Model for Search {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::founded(self.scope.nodes, self.scope.founders)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        let possible = |step: &Step| take(&mut state.clone(), &self.scope, *step);
        actions.extend(steps(&self.scope).filter(possible));
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        (take(&mut next, &self.scope, step) && next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("invariants", |search: &Self, state: &State| {
                check(state, &search.scope).is_none()
            }),
            Property::always("heals", |search: &Self, state: &State| {
                heal(state, &search.scope).is_ok()
            }),
        ]
    }
}

/// All steps that a scope knows, possible or not. A buffered append is a durable one and a crash less,
/// and a vain election only raises terms, so neither is here; the walks have them.
fn steps(scope: &Scope) -> impl Iterator<Item = Step> + use<> {
    let n = scope.nodes;
    let sets = move |of: u8| (1..1 << n as Set).filter(move |set: &Set| set >> of & 1 == 1);
    let waits = if scope.waits { 2 } else { 1 };
    let alone = (0..n).flat_map(|node| {
        let leader = node;
        [
            Step::Propose { leader },
            Step::Sync { node },
            Step::Commit { leader },
            Step::Release { leader },
            Step::Ratify { leader, forget: false },
            Step::Crash { node },
            Step::Restart { node },
            Step::Pause { node },
            Step::Trim { node },
        ]
    });
    let pairs = (0..n).flat_map(move |a| (0..n).map(move |b| (a, b))).flat_map(|(a, b)| {
        [
            Step::Append { leader: a, to: b, whole: true, depth: Depth::Acked },
            Step::Append { leader: a, to: b, whole: true, depth: Depth::Buffered },
            Step::Tell { leader: a, to: b, heard: true },
            Step::Remove { leader: a, node: b },
            Step::Add { leader: a, node: b },
            Step::Join { node: a, from: b, whole: true, sync: true },
            Step::Merge { a, b },
            Step::Snapshot { leader: a, to: b },
        ]
    });
    let elections = (0..n).flat_map(move |candidate| {
        sets(candidate).flat_map(move |reach| {
            let elect = move |waited: u8| Step::Elect {
                candidate,
                reach,
                waited: waited == 1,
                vain: false,
            };
            (0..waits).map(elect).chain([Step::Force { forcer: candidate, reach }])
        })
    });
    alone.chain(pairs).chain(elections)
}
