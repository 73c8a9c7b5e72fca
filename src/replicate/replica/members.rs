//! The leader's care for the membership: who is silent no longer counts, who has caught up does.
//!
//! One change at a time, and only after an entry of the leader's own term is committed: so a
//! configuration in a log implies that the one before it is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::state::{Replica, State};
use crate::{
    clock::Moment,
    cluster::{
        change::{Change, ChangeError},
        membership::{Member, Standing},
    },
    log::{
        Draft,
        entry::{EntryKind, Part},
    },
    types::{Incarnation, Lsn, NodeId},
};

/// A member that was dropped again and again waits at most so long before it counts again.
const RETURN_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a change was not ordered: it did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefused {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader,
    /// One change at a time, and none before the leader's term has committed something.
    #[error("another change of the membership is under way; try again in a moment")]
    UnderWay,
    /// It makes no sense, or breaks a rule.
    #[error(transparent)]
    Invalid(#[from] ChangeError),
}

/// How long each learner must be steady before it counts again. The first time hardly at all, since
/// until then the cluster cannot lose another; longer each time that it is dropped again.
#[derive(Debug, Default)]
pub(super) struct ReturnWaits(BTreeMap<NodeId, Duration>);

impl ReturnWaits {
    fn of(&self, id: &NodeId, least: Duration) -> Duration {
        self.0.get(id).copied().unwrap_or_default().max(least)
    }

    fn dropped(&mut self, id: &NodeId, first: Duration) {
        let next = self.0.get(id).map_or(Duration::ZERO, |wait| (*wait * 2).max(first));
        self.0.insert(id.clone(), next.min(RETURN_WAIT_MAX));
    }
}

impl Replica {
    /// Orders a change of the membership; returns where it stands in the log.
    pub fn change(&mut self, change: &Change) -> Result<Lsn, ChangeRefused> {
        let State::Leader(leader) = &self.state else { return Err(ChangeRefused::NotLeader) };
        let term = leader.term.clone();
        if !self.may_change() {
            return Err(ChangeRefused::UnderWay);
        }
        let in_force = self.configuration().ok_or(ChangeRefused::UnderWay)?;
        let next = in_force.changed(change)?;
        let body: Bytes = next.encode().into();
        let lsn = self.shape.last_lsn().next();
        let kind = EntryKind::Config;
        self.append_own(vec![Draft { term, kind, part: Part::WHOLE, request: None, body }]);
        self.take_configuration(lsn, next);
        Ok(lsn)
    }

    /// The leader's own changes.
    pub(super) fn tick_members(&mut self, now: Moment) {
        if !self.may_change() {
            return;
        }
        let Some(change) = self.due_change(now) else { return };
        // Refused where too few would be left: then it stays as it is.
        if self.change(&change).is_ok()
            && let (State::Leader(leader), Change::Drop(ids)) = (&mut self.state, &change)
        {
            ids.iter().for_each(|id| leader.returns.dropped(id, self.timing.drop_after));
        }
    }

    fn may_change(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let settled = self.configurations.last().is_some_and(|(lsn, _)| *lsn <= self.committed);
        settled && self.committed >= leader.start && leader.handing_over.is_none()
    }

    fn due_change(&self, now: Moment) -> Option<Change> {
        let members = || self.configuration().into_iter().flat_map(|c| &c.members);
        let others = || members().filter(|member| member.id != self.id);
        if let Some((id, incarnation)) = others().find_map(|member| self.reborn(member, now)) {
            return Some(Change::Reborn { id, incarnation });
        }
        let silent = others().filter(|member| self.is_silent(member, now));
        let silent: BTreeSet<NodeId> = silent.map(|member| member.id.clone()).collect();
        if !silent.is_empty() {
            return Some(Change::Drop(silent));
        }
        let returns = others().find(|member| self.has_caught_up(member, now))?;
        Some(Change::Return(returns.id.clone()))
    }

    /// The life of its store with which a member speaks, if it is not the one that is named. Only
    /// when it has spoken so for a while: a last word of its former life may arrive late.
    fn reborn(&self, member: &Member, now: Moment) -> Option<(NodeId, Incarnation)> {
        let peer = self.peers.get(&member.id)?;
        let steady = now.since(peer.steady_since) >= self.timing.suspect_after;
        let other = !self.is_life(member) && steady && self.peer_alive(&member.id, now);
        other.then(|| (member.id.clone(), peer.incarnation))
    }

    /// Whether a member was not heard for too long, by this node, whoever led meanwhile.
    fn is_silent(&self, member: &Member, now: Moment) -> bool {
        let heard_at = self.peers.get(&member.id).and_then(|peer| peer.heard_at);
        member.standing == Standing::Member
            && now.since(heard_at.unwrap_or(self.started_at)) > self.timing.drop_after
    }

    /// Whether a learner holds what is committed, and was steady for as long as it must.
    fn has_caught_up(&self, member: &Member, now: Moment) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let Some(peer) = self.peers.get(&member.id) else { return false };
        let wait = leader.returns.of(&member.id, self.timing.heartbeat * 2);
        member.standing == Standing::Learner
            && self.holds_enough(&member.id)
            && self.is_life(member)
            && self.peer_alive(&member.id, now)
            && now.since(peer.steady_since) >= wait
    }
}
