//! Read index: up to where a read must see to be linearizable.
//!
//! The leader notes what is released, and answers once a quorum has followed it in a heartbeat that
//! was sent after the question: no other node can have led before, so nothing was acknowledged
//! elsewhere that the noted index lacks. It needs a committed entry of its own term first, since
//! what earlier leaders acknowledged may not be counted as committed before.

use super::state::{Replica, State};
use crate::{
    clock::Moment,
    types::{Lsn, NodeId},
};

/// Names a question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct ReadTicket(pub u64);

/// The questions that are not answered yet, oldest first.
#[derive(Debug, Default)]
pub(super) struct Reads {
    open: Vec<Question>,
    next: u64,
}

#[derive(Debug)]
struct Question {
    ticket: ReadTicket,
    term: u64,
    index: Lsn,
    asked_at: Moment,
}

impl Replica {
    /// Asks for a read index; [`Replica::take_read_answers`] brings it. `None` if this node does
    /// not lead, or has not yet committed an entry of its term.
    pub fn ask_read_index(&mut self, now: Moment) -> Option<ReadTicket> {
        let State::Leader(leader) = &self.state else { return None };
        if self.committed < leader.start {
            return None;
        }
        let term = leader.term.number;
        let ticket = ReadTicket(self.reads.next);
        self.reads.next += 1;
        self.reads.open.push(Question { ticket, term, index: self.released, asked_at: now });
        self.send_heartbeats(now);
        Some(ticket)
    }

    /// The answers since the last call: an index, or `None` if the lead was lost meanwhile.
    pub fn take_read_answers(&mut self) -> Vec<(ReadTicket, Option<Lsn>)> {
        let mut answers = Vec::new();
        for question in std::mem::take(&mut self.reads.open) {
            match self.confirmed_since(question.term, question.asked_at) {
                Some(true) => answers.push((question.ticket, Some(question.index))),
                Some(false) => self.reads.open.push(question),
                None => answers.push((question.ticket, None)),
            }
        }
        answers
    }

    /// Whether a quorum follows this node in that term by a heartbeat sent then or later; `None`
    /// if it does not lead that term any more.
    fn confirmed_since(&self, term: u64, then: Moment) -> Option<bool> {
        let State::Leader(leader) = &self.state else { return None };
        if leader.term.number != term {
            return None;
        }
        let follows = |id: &NodeId| leader.contact.get(id).is_some_and(|at| *at >= then);
        Some(self.is_quorum(|id| *id == self.id || follows(id)))
    }
}
