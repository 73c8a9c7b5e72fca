//! What became of commands where they were applied: a bounded memory of the newest outcomes, for
//! those on this node who proposed them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use crate::types::Lsn;

/// How many outcomes are kept. Whoever proposed a command asks as soon as it is applied; one that
/// comes too late finds the answer in its session, if the request had one.
pub const OUTCOMES_KEPT_MAX: usize = 16 * 1024;
/// How many bytes of results are kept.
pub const OUTCOME_BYTES_KEPT_MAX: usize = 16 << 20;

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was executed, now or, if this is a retry, at an earlier entry.
    Executed {
        /// The entry at which it was executed.
        lsn: Lsn,
        /// What its state machine returned.
        result: Bytes,
    },
    /// A session command was applied.
    Session(SessionOutcome),
    /// It was not executed, and will not be.
    Refused(Refusal),
}

/// Why a command with a request ID was not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Its session was never opened, was closed, or has expired. Whether an *earlier* attempt of
    /// the same request was executed is not known any more.
    SessionUnknown,
    /// The client said that it has the answer of this request, so the answer is forgotten.
    AnswerForgotten,
    /// The session has too many answers that its client has not confirmed.
    TooManyAnswers,
}

/// What became of a session command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionOutcome {
    /// The session is open.
    Open {
        /// When it expires without a sign of life, in log time: milliseconds since 1970.
        expires_ms: u64,
    },
    /// The session is closed; also if there was none.
    Closed,
    /// There is no such session (any more).
    Unknown,
    /// There are too many sessions.
    TooMany,
}

/// The newest outcomes. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    outcomes: VecDeque<(Lsn, Outcome)>,
    bytes: usize,
}

impl Outcomes {
    /// What became of the command at that LSN, if it is still kept.
    pub fn at(&self, lsn: Lsn) -> Option<Outcome> {
        let kept = self.kept();
        let found = kept.outcomes.binary_search_by_key(&lsn, |(at, _)| *at).ok()?;
        kept.outcomes.get(found).map(|(_, outcome)| outcome.clone())
    }

    /// Keeps outcomes, in the order of their LSNs, and forgets the oldest.
    pub(super) fn keep(&self, new: Vec<(Lsn, Outcome)>) {
        let mut kept = self.kept();
        for (lsn, outcome) in new {
            debug_assert!(kept.outcomes.back().is_none_or(|(last, _)| *last < lsn), "in order");
            kept.bytes += bytes_of(&outcome);
            kept.outcomes.push_back((lsn, outcome));
        }
        while kept.outcomes.len() > OUTCOMES_KEPT_MAX || kept.bytes > OUTCOME_BYTES_KEPT_MAX {
            let Some((_, oldest)) = kept.outcomes.pop_front() else { return };
            kept.bytes -= bytes_of(&oldest);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Executed { result, .. } => result.len(),
        Outcome::Session(_) | Outcome::Refused(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_outcomes_are_kept_and_the_rest_forgotten() {
        let outcomes = Outcomes::default();
        let outcome = |bytes| Outcome::Executed { lsn: Lsn(1), result: vec![1; bytes].into() };
        let count = OUTCOMES_KEPT_MAX as u64 + 10;
        outcomes.keep((1..=count).map(|lsn| (Lsn(2 * lsn), outcome(1))).collect());
        assert_eq!(outcomes.at(Lsn(20)), None, "forgotten");
        assert_eq!(outcomes.at(Lsn(22)), Some(outcome(1)));
        assert_eq!(outcomes.at(Lsn(23)), None, "nobody's");
        assert_eq!(outcomes.at(Lsn(2 * count)), Some(outcome(1)));
        outcomes.keep(vec![(Lsn(2 * count + 1), outcome(OUTCOME_BYTES_KEPT_MAX - 2))]);
        assert_eq!(outcomes.kept().outcomes.len(), 3, "bytes are bounded too");
    }
}
