//! Following: the leader's entries come in, acknowledgements go out when they are durable.

use std::sync::Arc;

use super::{
    Entries,
    state::{Following, Replica, State},
};
use crate::{
    clock::Moment,
    cluster::membership::{Configuration, Fork},
    log::entry::{Entry, EntryKind},
    replicate::message::{Append, Appended, Message},
    store::codec::CodecError,
    types::{Lsn, NodeId, Term},
};

impl Replica {
    /// Someone says that it leads `term`. Returns whether this node follows it now.
    pub(super) fn hear_leader(&mut self, term: &Term, now: Moment) -> bool {
        let following = match &self.state {
            State::Follower(following) => following.term.as_ref(),
            State::Leader(leader) if leader.term.number >= term.number => return false,
            _ => None,
        };
        let newest = following.map_or(0, |t| t.number).max(self.hard.seen());
        if term.number < newest {
            return false;
        }
        let other = self.hard.accepted.iter().chain(following);
        if let Some(other) = other.into_iter().find(|t| t.number == term.number && *t != term) {
            let other = other.clone();
            self.fatal(format!("two leaders of one term: {other} and {term}"));
            return false;
        }
        self.stood_in_vain = 0;
        match &mut self.state {
            State::Follower(following) if following.term.as_ref() == Some(term) => {
                following.heard_at = Some(now);
            }
            _ => {
                let fresh = Following {
                    term: Some(term.clone()),
                    heard_at: Some(now),
                    matched: Lsn::ZERO,
                    released: None,
                };
                self.state = State::Follower(fresh);
            }
        }
        true
    }

    pub(super) fn on_append(&mut self, from: NodeId, append: Append, now: Moment) {
        if append.term.leader != from || !self.hear_leader(&append.term, now) {
            return;
        }
        self.hear_released(append.released);
        let term = append.term;
        if !self.shape.holds(&append.previous) {
            let result = Err(self.shape.may_share(&append.previous));
            self.send(from, Message::Appended(Appended { term, result }));
            return;
        }
        if self.hard.accepted.as_ref() != Some(&term) {
            self.remember(|hard| hard.accepted = Some(term.clone()));
        }
        let count = append.run.entries.len() as u64;
        let up_to = Lsn(append.previous.lsn.0 + count);
        if !self.take_entries(append.run.entries) {
            return;
        }
        if let State::Follower(following) = &mut self.state {
            following.matched = following.matched.max(up_to);
        }
        self.learn_committed(append.committed);
        let acknowledged = Appended { term, result: Ok(up_to) };
        self.send_when_durable(from, Message::Appended(acknowledged));
    }

    /// The leader says what is committed; it holds here as far as the logs are known to be equal.
    pub(super) fn learn_committed(&mut self, committed: Lsn) {
        if let State::Follower(following) = &self.state {
            let matched = following.matched;
            self.set_committed(committed.min(matched));
        }
    }

    /// The leader says what is released, whatever of it is here.
    pub(super) fn hear_released(&mut self, released: Lsn) {
        if let State::Follower(following) = &mut self.state {
            following.released = following.released.max(Some(released));
        }
    }

    /// Takes entries that continue the log at some shared entry: those that are here already are
    /// skipped, at the first difference the rest of this log is removed. False if that was fatal.
    pub(super) fn take_entries(&mut self, entries: Vec<Arc<Entry>>) -> bool {
        let held = |entry: &Arc<Entry>| self.shape.term_at(entry.lsn) == Some(&entry.term);
        let skip = entries.iter().take_while(|entry| held(entry)).count();
        let new: Vec<Arc<Entry>> = entries.into_iter().skip(skip).collect();
        let Some(first) = new.first().map(|entry| entry.lsn) else { return true };
        if first <= self.committed {
            let committed = self.committed;
            self.fatal(format!("entry {first} would be replaced, but {committed} is committed"));
            return false;
        }
        let mut configurations = Vec::new();
        for entry in &new {
            match configuration_in(entry) {
                Ok(found) => configurations.extend(found.map(|c| (entry.lsn, c))),
                Err(what) => {
                    self.fatal(format!("entry {}: {what}", entry.lsn));
                    return false;
                }
            }
        }
        // The write before must be closed while the shape is still what it leaves behind.
        self.entries_write();
        let truncate = first <= self.shape.last_lsn();
        if truncate {
            self.durable = self.durable.min(first.previous());
            self.shape.truncate_from(first);
            self.configurations.retain(|(lsn, _)| *lsn < first);
        }
        new.iter().for_each(|entry| self.shape.push(&entry.term));
        let write = self.entries_write();
        write.truncate_from = truncate.then_some(first);
        write.entries = Entries::Received(new);
        for (lsn, configuration) in configurations {
            self.take_configuration(lsn, configuration);
        }
        true
    }

    /// Membership takes effect when it is appended.
    pub(super) fn take_configuration(&mut self, lsn: Lsn, configuration: Configuration) {
        for member in configuration.members.iter().filter(|m| m.id != self.id) {
            self.peers.entry(member.id.clone()).or_default();
        }
        self.configurations.push((lsn, configuration));
        self.founding = None;
        self.serve_members();
    }
}

/// The configuration that an entry brings, if it is of a kind that does.
pub fn configuration_in(entry: &Entry) -> Result<Option<Configuration>, CodecError> {
    match entry.kind {
        EntryKind::Config => Configuration::decode(&entry.body).map(Some),
        EntryKind::Fork => Fork::decode(&entry.body).map(|fork| Some(fork.configuration)),
        _ => Ok(None),
    }
}
