//! Collecting promises, then adopting the most advanced log of a quorum of promisers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Effect, Ticket,
    state::{Replica, State},
};
use crate::{
    clock::Moment,
    replicate::message::{Fetch, Fetched, Message, Prepare, Promise},
    types::{NodeId, Position, Term},
};

/// A node that stands for a term.
#[derive(Debug)]
pub(super) struct Candidate {
    pub term: Term,
    /// Promisers with the ends of their logs; itself once its own promise is durable.
    pub promises: BTreeMap<NodeId, Promise>,
    /// Who has used up the term's number: promises nothing any more.
    refused: BTreeSet<NodeId>,
    own_promise: Ticket,
    adopting: Option<Adopting>,
    /// When it last came closer to leading.
    progress_at: Moment,
}

/// Taking the entries that a quorum of promisers may have committed.
#[derive(Debug)]
struct Adopting {
    from: NodeId,
    target: Position,
}

impl Replica {
    pub(super) fn become_candidate(&mut self, number: u64, handover: bool, now: Moment) {
        let term = Term { number, leader: self.id.clone() };
        assert!(number > self.hard.seen(), "a term number is promised at most once");
        let own_promise = self.remember(|hard| hard.promised = Some(term.clone()));
        let prepare = Message::Prepare(Prepare { term: term.clone(), handover });
        let ids: Vec<NodeId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.send_when_durable(id, prepare.clone());
        }
        self.state = State::Candidate(Candidate {
            term,
            promises: BTreeMap::new(),
            refused: BTreeSet::new(),
            own_promise,
            adopting: None,
            progress_at: now,
        });
    }

    pub(super) fn tick_candidate(&mut self, now: Moment) {
        let State::Candidate(candidate) = &self.state else { return };
        if now.since(candidate.progress_at) >= self.timing.suspect_after {
            self.stood_in_vain += 1;
            self.follow_nobody(now, Duration::ZERO);
        }
    }

    pub(super) fn own_promise_durable(&mut self, ticket: Ticket, now: Moment) {
        let State::Candidate(candidate) = &mut self.state else { return };
        if candidate.own_promise > ticket || candidate.promises.contains_key(&self.id) {
            return;
        }
        let own = Promise {
            term: candidate.term.clone(),
            granted: true,
            seen: candidate.term.number,
            last: self.shape.last(),
            founding: self.founding.as_ref().map(|plan| plan.statement()),
        };
        candidate.promises.insert(self.id.clone(), own);
        self.promises_changed(now);
    }

    pub(super) fn on_promise(&mut self, from: NodeId, promise: Promise, now: Moment) {
        self.number_heard = self.number_heard.max(promise.seen);
        let counts = self.peer_counts(&from);
        let State::Candidate(candidate) = &mut self.state else { return };
        if promise.term != candidate.term || !counts {
            return;
        }
        if promise.granted {
            candidate.promises.insert(from, promise);
            candidate.progress_at = now;
            self.promises_changed(now);
        } else if promise.seen >= candidate.term.number {
            candidate.refused.insert(from);
            self.give_up_without_a_chance(now);
        }
    }

    /// The next attempt takes a higher number. As long as the others can make a quorum this one
    /// goes on: of two that stand with one number, each refused by the other, one must win.
    fn give_up_without_a_chance(&mut self, now: Moment) {
        let State::Candidate(candidate) = &self.state else { return };
        if !self.is_quorum(|id| !candidate.refused.contains(id)) {
            self.follow_nobody(now, self.timing.stand_step);
        }
    }

    fn promises_changed(&mut self, now: Moment) {
        let State::Candidate(candidate) = &self.state else { return };
        let promised = |id: &NodeId| candidate.promises.contains_key(id);
        if candidate.adopting.is_some() || !self.is_quorum(promised) {
            return;
        }
        if self.configuration().is_none() && !self.founders_agree() {
            self.follow_nobody(now, self.timing.suspect_after);
            return;
        }
        self.adopt_best(now);
    }

    /// Before a configuration is known, every founder must be empty and want the same.
    fn founders_agree(&mut self) -> bool {
        let State::Candidate(candidate) = &self.state else { return false };
        let Some(plan) = &self.founding else { return false };
        let objection =
            candidate.promises.iter().find_map(|(id, promise)| plan.objection(id, promise));
        let agree = objection.is_none();
        if let Some(objection) = objection {
            self.notice(objection);
        }
        agree
    }

    /// Rule 3. Any quorum of promisers holds all that is committed.
    fn adopt_best(&mut self, now: Moment) {
        let State::Candidate(candidate) = &mut self.state else { return };
        let best = candidate
            .promises
            .iter()
            .max_by(|a, b| a.1.last.cmp(&b.1.last))
            .map(|(id, promise)| (id.clone(), promise.last.clone()));
        let Some((from, target)) = best else { return };
        if target <= self.shape.last() {
            self.lead(now);
            return;
        }
        candidate.adopting = Some(Adopting { from: from.clone(), target: target.clone() });
        candidate.progress_at = now;
        let after = self.shape.may_share(&target);
        self.fetch(from, after);
    }

    fn fetch(&mut self, from: NodeId, after: Position) {
        let State::Candidate(candidate) = &self.state else { return };
        let term = candidate.term.clone();
        self.send(from, Message::Fetch(Fetch { term, after }));
    }

    pub(super) fn on_fetched(&mut self, from: &NodeId, fetched: Fetched, now: Moment) {
        let State::Candidate(candidate) = &mut self.state else { return };
        let Some(adopting) = &candidate.adopting else { return };
        if fetched.term != candidate.term || adopting.from != *from {
            return;
        }
        let target = adopting.target.clone();
        candidate.progress_at = now;
        match fetched.result {
            Err(hint) => {
                let after = self.shape.may_share(&hint);
                if after < fetched.after {
                    self.fetch(from.clone(), after);
                }
            }
            Ok(run) => {
                if !self.shape.holds(&fetched.after) {
                    return; // the answer to an earlier question, that was answered since
                }
                if !self.take_entries(run.entries) {
                    return;
                }
                let last = self.shape.last();
                if last < target {
                    self.fetch(from.clone(), last);
                } else if let State::Candidate(candidate) = &mut self.state {
                    // What was adopted may bring configurations: their quorums are needed too.
                    candidate.adopting = None;
                    self.promises_changed(now);
                }
            }
        }
    }

    /// Answers only whom it promised: its log is frozen for that term.
    pub(super) fn on_fetch(&mut self, from: NodeId, ask: Fetch) {
        if self.hard.promised.as_ref() != Some(&ask.term) || ask.term.leader != from {
            return;
        }
        if self.shape.holds(&ask.after) {
            self.close_write();
            self.effects.push(Effect::SendFetched { to: from, term: ask.term, after: ask.after });
        } else {
            let hint = self.shape.may_share(&ask.after);
            let fetched = Fetched {
                term: ask.term,
                after: ask.after,
                result: Err(hint),
                last: self.shape.last(),
            };
            self.send(from, Message::Fetched(fetched));
        }
    }
}
