//! Which term every entry of a log belongs to: all that comparing two logs needs.

use crate::types::{Lsn, Position, Term};

/// The terms of a log, as runs of entries.
///
/// Invariants: runs start at ascending LSNs, their terms ascend strictly, the first starts at LSN
/// 1 (or where the log was trimmed), and every run holds at least one entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    runs: Vec<(Lsn, Term)>,
    last: Lsn,
}

impl Shape {
    /// A log with these runs and this last LSN; `None` if that breaks an invariant.
    pub fn new(runs: Vec<(Lsn, Term)>, last: Lsn) -> Option<Self> {
        let ascending = runs.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1.number < w[1].1.number);
        let holds = runs.last().is_none_or(|(first, _)| *first <= last && *first > Lsn::ZERO);
        (ascending && holds && (runs.is_empty() == (last == Lsn::ZERO)))
            .then_some(Self { runs, last })
    }

    /// The LSN of the last entry; zero if there is none.
    pub fn last_lsn(&self) -> Lsn {
        self.last
    }

    /// The position of the last entry.
    pub fn last(&self) -> Position {
        Position { term: self.runs.last().map(|(_, term)| term.clone()), lsn: self.last }
    }

    /// The first LSN of every run, with its term.
    pub fn runs(&self) -> &[(Lsn, Term)] {
        &self.runs
    }

    /// The term of the entry at `lsn`; `None` if there is no such entry.
    pub fn term_at(&self, lsn: Lsn) -> Option<&Term> {
        if lsn == Lsn::ZERO || lsn > self.last {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= lsn);
        self.runs.get(after.checked_sub(1)?).map(|(_, term)| term)
    }

    /// The position at `lsn`: that of its entry, or the start for zero.
    pub fn position_at(&self, lsn: Lsn) -> Option<Position> {
        match self.term_at(lsn) {
            Some(term) => Some(Position { term: Some(term.clone()), lsn }),
            None => (lsn == Lsn::ZERO).then(Position::default),
        }
    }

    /// Whether this log has exactly that entry (or it is the start).
    pub fn holds(&self, position: &Position) -> bool {
        self.position_at(position.lsn).is_some_and(|own| own == *position)
    }

    /// The newest own position that a log which ends at `theirs` may share: neither longer nor of
    /// a later term.
    pub fn may_share(&self, theirs: &Position) -> Position {
        let Some(term) = &theirs.term else { return Position::default() };
        let mut lsn = self.last.min(theirs.lsn);
        for (first, own) in self.runs.iter().rev() {
            if *first <= lsn {
                if own.number <= term.number {
                    return Position { term: Some(own.clone()), lsn };
                }
                lsn = first.previous();
            }
        }
        Position::default()
    }

    /// Adds an entry of `term` at the end.
    ///
    /// # Panics
    /// If the term is older than the last entry's: such an entry must never get here.
    pub fn push(&mut self, term: &Term) {
        self.last = self.last.next();
        match self.runs.last() {
            Some((_, last)) if last == term => {}
            Some((_, last)) => {
                assert!(last.number < term.number, "entry of {term} after one of {last}");
                self.runs.push((self.last, term.clone()));
            }
            None => self.runs.push((self.last, term.clone())),
        }
    }

    /// Removes the entries from `lsn` on.
    pub fn truncate_from(&mut self, lsn: Lsn) {
        if lsn <= self.last {
            self.last = lsn.previous();
            self.runs.retain(|(first, _)| *first < lsn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(number: u64) -> Term {
        Term { number, leader: "n1".parse().expect("valid") }
    }

    fn at(number: u64, lsn: u64) -> Position {
        Position { term: Some(term(number)), lsn: Lsn(lsn) }
    }

    fn shape(terms: &[u64]) -> Shape {
        let mut shape = Shape::default();
        terms.iter().for_each(|n| shape.push(&term(*n)));
        shape
    }

    #[test]
    fn knows_the_term_of_every_entry() {
        let shape = shape(&[1, 1, 3, 3, 4]);
        assert_eq!(shape.last(), at(4, 5));
        assert_eq!(shape.term_at(Lsn(2)), Some(&term(1)));
        assert_eq!(shape.term_at(Lsn(3)), Some(&term(3)));
        assert_eq!((shape.term_at(Lsn(0)), shape.term_at(Lsn(6))), (None, None));
        assert!(shape.holds(&at(3, 4)) && shape.holds(&Position::default()));
        assert!(!shape.holds(&at(3, 5)) && !shape.holds(&at(4, 6)));
    }

    #[test]
    fn truncation_drops_whole_and_half_runs() {
        let mut s = shape(&[1, 1, 3, 3, 4]);
        s.truncate_from(Lsn(4));
        assert_eq!(s, shape(&[1, 1, 3]));
        s.truncate_from(Lsn(9));
        assert_eq!(s, shape(&[1, 1, 3]));
        s.truncate_from(Lsn(1));
        assert_eq!(s, Shape::default());
    }

    #[test]
    fn hints_never_skip_a_shared_entry() {
        let ours = shape(&[1, 1, 3, 3, 4]);
        assert_eq!(ours.may_share(&at(4, 9)), at(4, 5));
        assert_eq!(ours.may_share(&at(3, 9)), at(3, 4));
        assert_eq!(ours.may_share(&at(2, 9)), at(1, 2));
        assert_eq!(ours.may_share(&at(3, 3)), at(3, 3));
        assert_eq!(ours.may_share(&Position::default()), Position::default());
    }

    #[test]
    fn refuses_runs_that_cannot_be() {
        assert!(Shape::new(vec![(Lsn(1), term(2)), (Lsn(3), term(1))], Lsn(4)).is_none());
        assert!(Shape::new(vec![(Lsn(1), term(1)), (Lsn(5), term(2))], Lsn(4)).is_none());
        assert!(Shape::new(vec![], Lsn(4)).is_none());
        assert!(Shape::new(vec![], Lsn(0)).is_some());
    }
}
