//! Whether a history of one register is linearizable: a search after Wing & Gong, with Lowe's memory
//! of what was tried.
//!
//! A key of the KV is a register. Keys are independent, so a history of several is linearizable if
//! each key's is (Herlihy & Wing); that keeps the search small.

use std::collections::HashSet;

/// What a register holds: a value that no other operation writes; zero for nothing.
pub type Value = u64;

/// What an operation did, as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    /// It read this.
    Read(Value),
    /// It wrote this (zero: it removed the key), whatever was there.
    Wrote(Value),
    /// It replaced the first by the second.
    Replaced(Value, Value),
    /// It would have replaced the first, which was not there.
    Conflicted(Value),
}

/// One operation of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// When it was asked for.
    pub asked: u64,
    /// When it was answered; `None`: never, so it may have happened at any time since, or not.
    pub answered: Option<u64>,
    /// What it did, or, without an answer, was to do.
    pub did: Did,
}

/// What the register holds after the operation, if it can have happened there.
fn step(did: Did, answered: bool, held: Value) -> Option<Value> {
    match did {
        Did::Read(value) => (value == held).then_some(held),
        Did::Wrote(value) => Some(value),
        Did::Replaced(expected, value) if expected == held => Some(value),
        // Without an answer it may as well have been a conflict.
        Did::Replaced(..) => (!answered).then_some(held),
        Did::Conflicted(expected) => (expected != held).then_some(held),
    }
}

/// Whether there is an order of the operations, each between its question and its answer, in which
/// each did what its client saw. The register begins with nothing.
pub fn is_linearizable(history: &[Operation]) -> bool {
    let mut operations = history.to_vec();
    operations.sort_by_key(|operation| operation.asked);
    let mut search = Search { operations, tried: HashSet::new() };
    let done = vec![false; search.operations.len()];
    search.go_on(done, 0)
}

struct Search {
    operations: Vec<Operation>,
    /// What was done, and what was held then, from where nothing was found.
    tried: HashSet<(Vec<bool>, Value)>,
}

impl Search {
    /// A stack, not recursion: histories are long.
    fn go_on(&mut self, done: Vec<bool>, held: Value) -> bool {
        let mut stack = vec![(done, held)];
        while let Some((done, held)) = stack.pop() {
            if self.all_answered(&done) {
                return true;
            }
            if !self.tried.insert((done.clone(), held)) {
                continue;
            }
            for next in self.candidates(&done) {
                let Operation { answered, did, .. } = self.operations[next];
                if let Some(held) = step(did, answered.is_some(), held) {
                    let mut done = done.clone();
                    done[next] = true;
                    stack.push((done, held));
                }
            }
        }
        false
    }

    fn all_answered(&self, done: &[bool]) -> bool {
        self.operations.iter().zip(done).all(|(op, done)| *done || op.answered.is_none())
    }

    /// Those that may come next: asked for before any other open one was answered. The earliest
    /// come last, so that they are tried first.
    fn candidates(&self, done: &[bool]) -> Vec<usize> {
        let open = || self.operations.iter().enumerate().filter(|(at, _)| !done[*at]);
        let first_answer = open().filter_map(|(_, op)| op.answered).min().unwrap_or(u64::MAX);
        let may = open().filter(|(_, op)| op.asked < first_answer);
        may.map(|(at, _)| at).collect::<Vec<_>>().into_iter().rev().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(asked: u64, answered: u64, did: Did) -> Operation {
        Operation { asked, answered: Some(answered), did }
    }

    fn lost(asked: u64, did: Did) -> Operation {
        Operation { asked, answered: None, did }
    }

    #[test]
    fn good_histories_pass() {
        use Did::{Conflicted, Read, Replaced, Wrote};
        let good: [&[Operation]; 7] = [
            &[],
            &[op(0, 1, Read(0)), op(1, 2, Wrote(5)), op(2, 3, Read(5)), op(3, 4, Wrote(0))],
            // While a write is on its way, reads may see either, in that order.
            &[op(0, 9, Wrote(5)), op(1, 2, Read(0)), op(3, 4, Read(5))],
            &[op(0, 9, Replaced(0, 5)), op(0, 9, Conflicted(0)), op(9, 10, Read(5))],
            // A lost write may never happen, or much later.
            &[lost(0, Wrote(5)), op(1, 2, Read(0)), op(8, 9, Read(0))],
            &[lost(0, Wrote(5)), op(1, 2, Read(0)), op(8, 9, Read(5))],
            &[lost(0, Replaced(3, 5)), op(1, 2, Wrote(3)), op(3, 4, Read(3)), op(8, 9, Read(5))],
        ];
        for history in good {
            assert!(is_linearizable(history), "{history:?}");
        }
    }

    #[test]
    fn bad_histories_are_rejected() {
        use Did::{Conflicted, Read, Replaced, Wrote};
        let bad: [(&str, &[Operation]); 7] = [
            ("a stale read", &[op(0, 1, Wrote(5)), op(1, 2, Read(0))]),
            ("time goes back", &[op(0, 9, Wrote(5)), op(1, 2, Read(5)), op(3, 4, Read(0))]),
            ("a value from nowhere", &[op(0, 1, Wrote(5)), op(1, 2, Read(6))]),
            ("two winners", &[op(0, 9, Replaced(0, 5)), op(0, 9, Replaced(0, 6))]),
            ("a conflict with nothing", &[op(0, 1, Wrote(5)), op(1, 2, Conflicted(5))]),
            (
                "a write that happened twice",
                &[op(0, 9, Wrote(5)), op(1, 2, Read(5)), op(3, 4, Wrote(6)), op(5, 6, Read(5))],
            ),
            (
                "a lost acknowledged write",
                &[lost(0, Read(1)), op(0, 1, Wrote(5)), op(3, 4, Read(0))],
            ),
        ];
        for (what, history) in bad {
            assert!(!is_linearizable(history), "{what}: {history:?}");
        }
    }

    #[test]
    fn long_histories_are_searched_in_no_time() {
        let mut history = Vec::new();
        for n in 0..2_000_u64 {
            history.push(op(2 * n, 2 * n + 6, Did::Wrote(n + 1)));
        }
        assert!(is_linearizable(&history));
        history.push(op(3_000, 3_001, Did::Read(77_777)));
        assert!(!is_linearizable(&history));
    }
}
