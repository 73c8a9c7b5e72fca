//! Standing in the order of node IDs: pre-vote, and what is promised to whom.

use std::{collections::BTreeSet, time::Duration};

use super::state::{Following, Replica, State};
use crate::{
    clock::Moment,
    replicate::message::{Message, PreVote, PreVoteReply, Prepare, Promise},
    types::{NodeId, Term},
};

/// So often a node claims to go first without getting a quorum.
const VAIN_ATTEMPTS_MAX: u32 = 3;

/// A node that asks whether it would get promises.
#[derive(Debug)]
pub(super) struct PreCandidate {
    pub number: u64,
    pub granted: BTreeSet<NodeId>,
    pub answered: BTreeSet<NodeId>,
    /// Live nodes of lower IDs: their answers are awaited, since they go first.
    pub awaited: BTreeSet<NodeId>,
    pub started: Moment,
}

impl Replica {
    pub(super) fn tick_follower(&mut self, now: Moment) {
        let suspect_after = self.timing.suspect_after;
        if let State::Follower(Following { heard_at, .. }) = &mut self.state
            && heard_at.is_some_and(|at| now.since(at) > suspect_after)
        {
            *heard_at = None;
            self.leaderless_since = now;
        }
        let State::Follower(Following { heard_at: None, .. }) = &self.state else { return };
        if !self.may_stand() || (self.configuration().is_none() && !self.may_found(now)) {
            return;
        }
        let rank = u32::try_from(self.before_me(now).len()).unwrap_or(u32::MAX);
        if now >= self.leaderless_since + self.timing.stand_step.saturating_mul(rank) {
            self.stand(now);
        }
    }

    /// A cluster is founded by all of its founders, if none of them is in one already.
    fn may_found(&mut self, now: Moment) -> bool {
        if let Some((id, _)) = self.peers.iter().find(|(_, peer)| peer.founded) {
            let what = format!(
                "{id} belongs to a cluster already: this node waits to be added to it, \
                 `wolfctl member add {}=HOST:PORT` on one of its nodes",
                self.id
            );
            self.notice(what);
            return false;
        }
        self.peers.keys().all(|id| self.peer_alive(id, now))
    }

    /// Asks everyone for a pre-vote.
    fn stand(&mut self, now: Moment) {
        let number = self.hard.seen().max(self.number_heard) + 1;
        let mine = BTreeSet::from([self.id.clone()]);
        let awaited = self.before_me(now);
        self.state = State::PreCandidate(PreCandidate {
            number,
            granted: mine.clone(),
            answered: mine,
            awaited,
            started: now,
        });
        self.broadcast(&Message::PreVote(PreVote { number, handover: false }));
        self.pre_vote_won(now);
    }

    pub(super) fn tick_pre_candidate(&mut self, now: Moment) {
        let State::PreCandidate(pre) = &self.state else { return };
        let waited = now.since(pre.started);
        if waited >= self.timing.stand_step {
            // Whoever of lower ID has not answered by now does not hold up the others.
            if let State::PreCandidate(pre) = &mut self.state {
                pre.awaited.clear();
            }
            self.pre_vote_won(now);
        }
        if waited >= self.timing.suspect_after && matches!(self.state, State::PreCandidate(_)) {
            self.stood_in_vain += 1;
            self.follow_nobody(now, Duration::ZERO);
        }
    }

    fn pre_vote_won(&mut self, now: Moment) {
        let State::PreCandidate(pre) = &self.state else { return };
        let number = pre.number;
        if self.is_quorum(|id| pre.granted.contains(id)) && pre.awaited.is_subset(&pre.answered) {
            self.become_candidate(number, false, now);
        }
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, ask: &PreVote, now: Moment) {
        let goes_first = self.goes_before(&self.id, &from)
            && self.may_stand()
            && self.stood_in_vain < VAIN_ATTEMPTS_MAX
            && !self.bound_to_leader(now);
        let granted = ask.number > self.hard.seen()
            && self.counts()
            && !goes_first
            && (ask.handover || !self.bound_to_leader(now))
            && now >= self.quiet_until;
        let reply = PreVoteReply {
            number: ask.number,
            granted,
            seen: self.hard.seen(),
            stands: goes_first,
        };
        self.send(from, Message::PreVoteReply(reply));
        if goes_first && now >= self.quiet_until && matches!(self.state, State::Follower(_)) {
            self.stand(now);
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: NodeId, reply: &PreVoteReply, now: Moment) {
        self.number_heard = self.number_heard.max(reply.seen);
        let counts = self.peer_counts(&from);
        let State::PreCandidate(pre) = &mut self.state else { return };
        if reply.number != pre.number {
            return;
        }
        if reply.stands {
            let wait = self.timing.suspect_after;
            self.follow_nobody(now, wait);
            return;
        }
        if !reply.granted && pre.awaited.contains(&from) {
            // It goes first, and it still has a leader, or has only just started: its turn comes.
            let wait = self.timing.stand_step;
            self.follow_nobody(now, wait);
            return;
        }
        pre.answered.insert(from.clone());
        if reply.granted && counts {
            pre.granted.insert(from);
        }
        self.pre_vote_won(now);
    }

    pub(super) fn on_prepare(&mut self, from: NodeId, ask: Prepare, now: Moment) {
        if ask.term.leader != from {
            return;
        }
        let free = ask.handover || !self.bound_to_leader(now);
        let granted =
            ask.term.number > self.hard.seen() && self.counts() && free && now >= self.quiet_until;
        if granted {
            self.promise(&ask.term, now);
        }
        let promise = Promise {
            term: ask.term,
            granted,
            seen: self.hard.seen(),
            last: self.shape.last(),
            founding: self.founding.as_ref().map(|plan| plan.statement()),
        };
        if granted {
            self.send_when_durable(from, Message::Promise(promise));
        } else {
            self.send(from, Message::Promise(promise));
        }
    }

    /// Rules 1 and 2: from here on no older term changes the log.
    fn promise(&mut self, term: &Term, now: Moment) {
        assert!(term.number > self.hard.seen(), "a term number is promised at most once");
        self.remember(|hard| hard.promised = Some(term.clone()));
        self.follow_nobody(now, self.timing.suspect_after);
    }

    /// Whether a live leader holds this node's lease: itself, or one heard lately.
    fn bound_to_leader(&self, now: Moment) -> bool {
        match &self.state {
            State::Leader(_) => true,
            State::Follower(Following { heard_at: Some(at), .. }) => {
                now.since(*at) < self.timing.lease_granted()
            }
            _ => false,
        }
    }

    /// The leader stops and asks this node to stand, which holds everything.
    pub(super) fn on_handover(&mut self, from: &NodeId, term: &Term, now: Moment) {
        let follows = matches!(&self.state, State::Follower(f) if f.term.as_ref() == Some(term));
        if follows && term.leader == *from && self.may_stand() {
            let number = self.hard.seen().max(self.number_heard) + 1;
            self.become_candidate(number, true, now);
        }
    }
}
