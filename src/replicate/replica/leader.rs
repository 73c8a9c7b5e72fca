//! Leading: entries to every peer, commits by the own term, stepping down without a quorum.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Effect,
    state::{Replica, State},
};
use crate::{
    clock::Moment,
    log::{
        Draft,
        entry::{EntryKind, Part},
    },
    replicate::message::{Appended, Message},
    types::{Lsn, NodeId, Position, Term},
};

/// How many entries may be on their way to a peer without its acknowledgement.
const IN_FLIGHT_ENTRIES_MAX: u64 = 1024;
/// Entries that were not acknowledged for so long are sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);

/// A node that leads.
#[derive(Debug)]
pub(super) struct Leader {
    pub term: Term,
    /// The first entry of the term.
    pub start: Lsn,
    pub progress: BTreeMap<NodeId, Progress>,
    /// Since when it hands over to another.
    pub handing_over: Option<Moment>,
    handover_sent: Option<Moment>,
    /// For each follower, when the last heartbeat was sent that it answered.
    contact: BTreeMap<NodeId, Moment>,
}

/// How far a peer's log equals the leader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    /// Equal and durable up to here.
    pub matched: Lsn,
    /// To be sent next.
    pub next: Lsn,
    /// The peer was told that this is committed.
    committed_told: Lsn,
    /// When it last moved, or was sent to while nothing was in flight.
    moved_at: Moment,
    /// The first message of a term, or after a refusal: one message until it is answered.
    probing: bool,
}

impl Leader {
    pub(super) fn contacted(&mut self, id: &NodeId, sent_at: Moment) {
        let at = self.contact.entry(id.clone()).or_default();
        *at = (*at).max(sent_at);
    }

    /// The followers that answered a heartbeat sent then or later.
    pub(super) fn following_since(&self, then: Moment) -> impl Iterator<Item = &NodeId> {
        self.contact.iter().filter(move |(_, at)| **at >= then).map(|(id, _)| id)
    }
}

impl Replica {
    pub(super) fn lead(&mut self, now: Moment) {
        let State::Candidate(candidate) = &self.state else { return };
        let term = candidate.term.clone();
        let start = self.shape.last_lsn().next();
        let progress = self.peers.keys().map(|id| (id.clone(), Progress::new(start, now)));
        self.state = State::Leader(Leader {
            term: term.clone(),
            start,
            progress: progress.collect(),
            handing_over: None,
            handover_sent: None,
            contact: self.peers.keys().map(|id| (id.clone(), now)).collect(),
        });
        self.remember(|hard| hard.accepted = Some(term.clone()));
        let (kind, body) = self.first_entry();
        self.append_own(vec![Draft { term, kind, part: Part::WHOLE, request: None, body }]);
    }

    /// A new cluster starts with its configuration, every other term with nothing.
    fn first_entry(&mut self) -> (EntryKind, Bytes) {
        let Some(plan) = self.founding.take() else { return (EntryKind::Noop, Bytes::new()) };
        let configuration = plan.configuration(|id| match self.peers.get(id) {
            Some(peer) => peer.incarnation,
            None => self.incarnation,
        });
        let body = configuration.encode().into();
        self.take_configuration(Lsn(1), configuration);
        (EntryKind::Config, body)
    }

    pub(super) fn tick_leader(&mut self, now: Moment) {
        let State::Leader(leader) = &mut self.state else { return };
        let suspect_after = self.timing.suspect_after;
        let mut present: BTreeSet<NodeId> = leader
            .contact
            .iter()
            .filter(|(_, at)| now.since(**at) <= suspect_after)
            .map(|(id, _)| id.clone())
            .collect();
        let last = self.shape.last_lsn();
        for progress in leader.progress.values_mut() {
            let waits = progress.next > progress.matched.next() || progress.probing;
            if waits && now.since(progress.moved_at) >= RESEND_AFTER {
                progress.restart(last);
            }
        }
        present.insert(self.id.clone());
        if !self.is_quorum(&present) {
            self.follow_nobody(now, Duration::ZERO);
            return;
        }
        self.try_hand_over(now);
    }

    pub(super) fn on_appended(&mut self, from: &NodeId, answer: Appended, now: Moment) {
        let State::Leader(leader) = &mut self.state else { return };
        if answer.term != leader.term {
            return;
        }
        let Some(progress) = leader.progress.get_mut(from) else { return };
        progress.moved_at = now;
        match answer.result {
            Ok(up_to) => {
                assert!(up_to <= self.shape.last_lsn(), "{from} acknowledged what was never sent");
                progress.probing = false;
                progress.matched = progress.matched.max(up_to);
                progress.next = progress.next.max(progress.matched.next());
                self.advance_commit();
            }
            Err(hint) => {
                let shared = self.shape.may_share(&hint);
                progress.next = shared.lsn.next().max(progress.matched.next());
                progress.probing = false;
            }
        }
    }

    /// A peer that was silent may have missed anything that was on its way; one with another
    /// store may have lost also what it had acknowledged.
    pub(super) fn peer_is_back(&mut self, id: &NodeId, reborn: bool) {
        let last = self.shape.last_lsn();
        if let State::Leader(leader) = &mut self.state
            && let Some(progress) = leader.progress.get_mut(id)
        {
            if reborn {
                progress.matched = Lsn::ZERO;
            }
            progress.restart(last);
        }
    }

    /// What a follower knows to be committed. It forgets that when it restarts, perhaps faster than
    /// its silence would show, and then it is told again.
    pub(super) fn hear_committed(&mut self, from: &NodeId, committed: Lsn) {
        if let State::Leader(leader) = &mut self.state
            && let Some(progress) = leader.progress.get_mut(from)
        {
            progress.committed_told = progress.committed_told.min(committed);
        }
    }

    /// Rule 4.
    pub(super) fn advance_commit(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let start = leader.start;
        let mut matched: BTreeMap<NodeId, Lsn> = leader
            .progress
            .iter()
            .filter(|(id, _)| self.peer_counts(id))
            .map(|(id, progress)| (id.clone(), progress.matched))
            .collect();
        matched.insert(self.id.clone(), self.durable);
        let mut levels: Vec<Lsn> = matched.values().copied().collect();
        levels.sort_unstable_by(|a, b| b.cmp(a));
        let decided = levels.into_iter().find(|level| {
            let holders = matched.iter().filter(|(_, at)| *at >= level);
            self.is_quorum(&holders.map(|(id, _)| id.clone()).collect())
        });
        if let Some(decided) = decided.filter(|lsn| *lsn >= start) {
            self.set_committed(decided);
        }
    }

    /// Sends every peer what it lacks, or the news of what is committed.
    pub(super) fn push_entries(&mut self, now: Moment) {
        let (committed, released) = (self.committed, self.released);
        let last = self.shape.last_lsn();
        let State::Leader(leader) = &mut self.state else { return };
        for (id, progress) in &mut leader.progress {
            let Some((previous, up_to)) = progress.next_message(last, committed) else { continue };
            if progress.next == progress.matched.next() || progress.matched == Lsn::ZERO {
                progress.moved_at = now;
            }
            progress.probing |= progress.matched == Lsn::ZERO;
            progress.next = progress.next.max(up_to.next());
            progress.committed_told = committed.min(up_to.max(progress.matched));
            let previous: Position = self
                .shape
                .position_at(previous)
                .expect("a peer is sent only what follows an entry of this log");
            self.effects.push(Effect::SendEntries {
                to: id.clone(),
                term: leader.term.clone(),
                previous,
                last: up_to,
                committed,
                released,
            });
        }
    }

    /// Gives the lead to the lowest live node that may stand and holds everything; proposals are
    /// refused from now on. Returns whether there is one to wait for.
    pub fn hand_over(&mut self, now: Moment) -> bool {
        let heirs = self.heirs(now);
        let State::Leader(leader) = &mut self.state else { return false };
        if heirs.is_empty() {
            return false;
        }
        leader.handing_over.get_or_insert(now);
        true
    }

    /// Live peers that may lead, lowest first.
    fn heirs(&self, now: Moment) -> Vec<NodeId> {
        let may_lead = |id: &NodeId| {
            self.configuration().and_then(|c| c.member(id)).is_some_and(|m| m.may_lead())
        };
        let live = self.peers.iter().filter(|(id, peer)| {
            peer.eligible && may_lead(id) && self.peer_counts(id) && self.peer_alive(id, now)
        });
        live.map(|(id, _)| id.clone()).collect()
    }

    fn try_hand_over(&mut self, now: Moment) {
        let heirs = self.heirs(now);
        let last = self.shape.last_lsn();
        let (committed, suspect_after) = (self.committed, self.timing.suspect_after);
        let State::Leader(leader) = &mut self.state else { return };
        if leader.handing_over.is_none() || committed < last {
            return;
        }
        if leader.handover_sent.is_some_and(|at| now.since(at) < suspect_after) {
            return;
        }
        let holds = |id: &&NodeId| leader.progress.get(id).is_some_and(|p| p.matched == last);
        let Some(heir) = heirs.iter().find(holds).cloned() else { return };
        let term = leader.term.clone();
        leader.handover_sent = Some(now);
        self.send(heir, Message::Handover { term });
    }
}

impl Progress {
    fn new(next: Lsn, now: Moment) -> Self {
        Self { matched: Lsn::ZERO, next, committed_told: Lsn::ZERO, moved_at: now, probing: false }
    }

    /// Sends again what was not acknowledged; asks where the peer is if nothing ever was.
    fn restart(&mut self, last: Lsn) {
        self.probing = false;
        self.next = if self.matched == Lsn::ZERO { last.next() } else { self.matched.next() };
    }

    /// Which entries to send next: those behind the first LSN up to the second; none of them if
    /// they are equal, to ask where the peer is or to tell what is committed.
    fn next_message(&self, last: Lsn, committed: Lsn) -> Option<(Lsn, Lsn)> {
        if self.probing {
            return None;
        }
        let previous = self.next.previous();
        if self.matched == Lsn::ZERO {
            return Some((previous, Lsn(previous.0 + IN_FLIGHT_ENTRIES_MAX).min(last)));
        }
        let room_to = Lsn(self.matched.0 + IN_FLIGHT_ENTRIES_MAX).min(last);
        if self.next <= room_to {
            return Some((previous, room_to));
        }
        let news = self.committed_told < committed && self.matched > self.committed_told;
        news.then_some((self.matched, self.matched))
    }
}
