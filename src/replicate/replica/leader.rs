//! Leading: entries to every peer, commits by the own term, stepping down without a quorum.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    Effect,
    members::ReturnWaits,
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
/// A hand-over that takes longer than so many times `suspect_after` is called off.
const HAND_OVER_SUSPECT_TIMES: u32 = 8;
/// How many commands an heir's database may have to apply before it can take writes.
const HEIR_BEHIND_MAX: u64 = 1_000;
/// So many committed entries a node may lack that is taken to have caught up: under load nobody
/// holds all at every moment.
const CAUGHT_UP_WITHIN: u64 = 256;
/// Entries that were not acknowledged for so long are sent again.
const RESEND_AFTER: Duration = Duration::from_secs(1);

/// A node that leads.
#[derive(Debug)]
pub(super) struct Leader {
    pub term: Term,
    /// Since when it leads.
    since: Moment,
    /// The first entry of the term.
    pub start: Lsn,
    pub progress: BTreeMap<NodeId, Progress>,
    pub handing_over: Option<HandOver>,
    pub returns: ReturnWaits,
    /// For each follower, when the last heartbeat was sent that it answered.
    pub contact: BTreeMap<NodeId, Moment>,
}

/// A leader on its way out: it takes no proposals, waits until an heir holds everything, and asks
/// that one to stand.
#[derive(Debug)]
pub(super) struct HandOver {
    since: Moment,
    /// Only this one, or whoever ranks first.
    to: Option<NodeId>,
    asked_at: Option<Moment>,
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
}

impl Replica {
    pub(super) fn lead(&mut self, now: Moment) {
        let State::Candidate(candidate) = &self.state else { return };
        let term = candidate.term.clone();
        let said = candidate.promises.iter().filter_map(|(id, promise)| {
            Some((id.clone(), promise.founding.as_ref()?.never_leader))
        });
        let never_leaders: BTreeMap<NodeId, bool> = said.collect();
        let start = self.shape.last_lsn().next();
        let progress = self.peers.keys().map(|id| (id.clone(), Progress::new(start, now)));
        self.state = State::Leader(Leader {
            term: term.clone(),
            since: now,
            start,
            progress: progress.collect(),
            handing_over: None,
            returns: ReturnWaits::default(),
            contact: self.peers.keys().map(|id| (id.clone(), now)).collect(),
        });
        self.remember(|hard| hard.accepted = Some(term.clone()));
        let (kind, body) = self.first_entry(&never_leaders);
        self.append_own(vec![Draft { term, kind, part: Part::WHOLE, request: None, body }]);
        self.serve_members();
    }

    /// A new cluster starts with its configuration, every other term with nothing.
    fn first_entry(&mut self, never_leaders: &BTreeMap<NodeId, bool>) -> (EntryKind, Bytes) {
        let Some(plan) = self.founding.take() else { return (EntryKind::Noop, Bytes::new()) };
        let life = |id: &NodeId| self.peers.get(id).map_or(self.incarnation, |p| p.incarnation);
        let never_leader = |id: &NodeId| never_leaders.get(id).copied().unwrap_or_default();
        let configuration = plan.configuration(life, never_leader);
        let body = configuration.encode().into();
        self.take_configuration(Lsn(1), configuration);
        (EntryKind::Config, body)
    }

    pub(super) fn tick_leader(&mut self, now: Moment) {
        let State::Leader(leader) = &mut self.state else { return };
        let last = self.shape.last_lsn();
        for progress in leader.progress.values_mut() {
            let waits = progress.next > progress.matched.next() || progress.probing;
            if waits && now.since(progress.moved_at) >= RESEND_AFTER {
                progress.restart(last);
            }
        }
        if !self.in_contact(now) {
            self.follow_nobody(now, Duration::ZERO);
            return;
        }
        self.tick_members(now);
        self.try_hand_over(now);
    }

    /// Whether a quorum has answered heartbeats of this leader that were sent lately.
    fn in_contact(&self, now: Moment) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let lately = |at: &Moment| now.since(*at) <= self.timing.suspect_after;
        self.is_quorum(|id| *id == self.id || leader.contact.get(id).is_some_and(lately))
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

    /// Rule 4. A configuration that commits may let more commit: those before it count no more.
    pub(super) fn advance_commit(&mut self) {
        while let Some(decided) = self.decided() {
            self.set_committed(decided);
        }
    }

    /// The newest entry that a quorum of each configuration in force holds, if that is news.
    fn decided(&self) -> Option<Lsn> {
        let State::Leader(leader) = &self.state else { return None };
        let held = |id: &NodeId| match leader.progress.get(id) {
            Some(progress) => progress.matched,
            None if *id == self.id => self.durable,
            None => Lsn::ZERO,
        };
        let levels = leader.progress.values().map(|progress| progress.matched);
        let news = levels.chain([self.durable]).filter(|level| *level > self.committed);
        news.filter(|level| *level >= leader.start)
            .filter(|level| self.is_quorum(|id| held(id) >= *level))
            .max()
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

    /// Gives the lead to `to`, or to the live node that ranks first among those that hold
    /// everything; proposals are refused from now on. Returns whether there is one to wait for. If
    /// it does not take the lead in time, this node goes on.
    pub fn hand_over(&mut self, to: Option<NodeId>, now: Moment) -> bool {
        let heirs = self.heirs(to.as_ref(), now);
        let State::Leader(leader) = &mut self.state else { return false };
        if heirs.is_empty() {
            return false;
        }
        leader.handing_over.get_or_insert(HandOver { since: now, to, asked_at: None });
        true
    }

    /// Who should lead instead: a member that ranks before this one, fit, steady for
    /// `preempt_after` and caught up; anyone who can, if this one is excluded. The node hands over
    /// to it when its writes are closed.
    pub fn heir(&self, now: Moment) -> Option<NodeId> {
        let State::Leader(leader) = &self.state else { return None };
        if self.committed < leader.start || leader.handing_over.is_some() {
            return None;
        }
        let configuration = self.configuration()?;
        let pinned = configuration.preferred_leader.as_ref();
        let excluded = configuration.member(&self.id).is_none_or(|member| !member.may_lead());
        // If the first is not ready yet, nobody is handed the lead only to hand it on.
        let first = self.heirs(None, now).into_iter().next()?;
        let peer = self.peers.get(&first)?;
        // What was heard of it before this node led says little: it may have lost the lead just
        // now, for want of a database.
        let steady_for = now.since(peer.steady_since.max(leader.since));
        let steady = steady_for >= self.timing.preempt_after;
        let ready = peer.behind <= HEIR_BEHIND_MAX;
        let asked_for = excluded || pinned == Some(&first);
        let due = (asked_for && steady_for >= self.timing.suspect_after)
            || (self.goes_before(&first, &self.id) && steady);
        (due && ready && self.holds_enough(&first)).then_some(first)
    }

    /// Whether a peer holds what is committed, but for what is on its way.
    pub(super) fn holds_enough(&self, id: &NodeId) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let enough = self.committed.0.saturating_sub(CAUGHT_UP_WITHIN);
        leader.progress.get(id).is_some_and(|p| p.matched.0 >= enough.max(1))
    }

    /// Live peers that could lead, in their order; only `to`, if given.
    fn heirs(&self, to: Option<&NodeId>, now: Moment) -> Vec<NodeId> {
        let wanted = |id: &&NodeId| to.is_none_or(|to| to == *id);
        let live = self.peers.keys().filter(wanted).filter(|id| self.could_lead(id, now));
        let mut live: Vec<NodeId> = live.cloned().collect();
        live.sort_by(
            |a, b| if self.goes_before(a, b) { Ordering::Less } else { Ordering::Greater },
        );
        live
    }

    fn try_hand_over(&mut self, now: Moment) {
        let suspect_after = self.timing.suspect_after;
        let State::Leader(leader) = &mut self.state else { return };
        let Some(hand_over) = &leader.handing_over else { return };
        if now.since(hand_over.since) >= suspect_after * HAND_OVER_SUSPECT_TIMES {
            leader.handing_over = None;
            return;
        }
        let asked = hand_over.asked_at.is_some_and(|at| now.since(at) < suspect_after);
        let last = self.shape.last_lsn();
        if asked || self.committed < last {
            return;
        }
        let to = hand_over.to.clone();
        let heirs = self.heirs(to.as_ref(), now);
        let State::Leader(leader) = &mut self.state else { return };
        let holds = |id: &NodeId| leader.progress.get(id).is_some_and(|p| p.matched == last);
        let Some(heir) = heirs.into_iter().find(holds) else { return };
        if let Some(hand_over) = &mut leader.handing_over {
            hand_over.asked_at = Some(now);
        }
        let term = leader.term.clone();
        self.send(heir, Message::Handover { term });
    }

    /// Members that a configuration brings are sent the log too; those that it does not name any
    /// more are not.
    pub(super) fn serve_members(&mut self) {
        let next = self.shape.last_lsn().next();
        let Some((_, configuration)) = self.configurations.last() else { return };
        let State::Leader(leader) = &mut self.state else { return };
        for member in configuration.members.iter().filter(|member| member.id != self.id) {
            let fresh = || Progress::new(next, Moment::default());
            leader.progress.entry(member.id.clone()).or_insert_with(fresh);
        }
        leader.progress.retain(|id, _| configuration.member(id).is_some());
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
