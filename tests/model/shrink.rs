//! Makes a counter-example short: leave steps out, replay, keep what still fails in the same way.

use super::{
    heal::heal,
    invariant::{Violation, check},
    state::State,
    step::{Scope, Step, take},
};

/// A violation, and whether it was seen on the way or only when the cluster was healed.
pub type Found = (Violation, bool);

/// Replays what is possible of `steps`, up to the first violation.
pub fn replay(scope: &Scope, steps: &[Step]) -> (Vec<Step>, Option<Found>) {
    let mut state = State::founded(scope.nodes, scope.founders);
    let mut taken = Vec::with_capacity(steps.len());
    for step in steps {
        if !take(&mut state, scope, *step) {
            continue;
        }
        taken.push(*step);
        if let Some(found) = check(&state, scope) {
            return (taken, Some((found, false)));
        }
    }
    let found = heal(&state, scope).err();
    (taken, found.map(|violation| (violation, true)))
}

/// The shortest that leaving out finds: no step, and no two steps together, can be spared.
pub fn shrink(scope: &Scope, steps: &[Step], found: Found) -> Vec<Step> {
    let mut best = steps.to_vec();
    let mut size = best.len() / 2;
    while size > 0 {
        size = size.min(best.len());
        match without_a_run(scope, &best, size, found) {
            Some(shorter) => best = shorter,
            None => size /= 2,
        }
    }
    while let Some(shorter) = without_two(scope, &best, found) {
        best = shorter;
    }
    best
}

fn fails(scope: &Scope, steps: &[Step], found: Found, below: usize) -> Option<Vec<Step>> {
    let (taken, violation) = replay(scope, steps);
    (violation == Some(found) && taken.len() < below).then_some(taken)
}

fn without_a_run(scope: &Scope, steps: &[Step], size: usize, found: Found) -> Option<Vec<Step>> {
    (0..=steps.len() - size).find_map(|from| {
        let rest = [&steps[..from], &steps[from + size..]].concat();
        fails(scope, &rest, found, steps.len())
    })
}

fn without_two(scope: &Scope, steps: &[Step], found: Found) -> Option<Vec<Step>> {
    let pairs = (0..steps.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    pairs.into_iter().find_map(|(i, j)| {
        let mut rest = steps.to_vec();
        rest.remove(i);
        rest.remove(j);
        fails(scope, &rest, found, steps.len())
    })
}

/// The steps and whom they changed, for whoever has to understand a counter-example.
pub fn explain(scope: &Scope, steps: &[Step]) -> String {
    let mut state = State::founded(scope.nodes, scope.founders);
    let mut text = String::new();
    for (at, step) in steps.iter().enumerate() {
        let before = state;
        let refused = if take(&mut state, scope, *step) { "" } else { " (not possible)" };
        text += &format!("{:3} {step:?}{refused}\n", at + 1);
        let changed = (0..scope.nodes).filter(|n| state.at(*n) != before.at(*n));
        text.extend(changed.map(|n| format!("       {} {:?}\n", (b'A' + n) as char, state.at(n))));
    }
    text
}
