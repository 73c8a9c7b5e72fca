//! One change of the membership: what the next configuration is. Pure, and checked here once for
//! the leader's own changes and for an operator's.

use std::collections::BTreeSet;

use super::membership::{Configuration, Member, Standing};
use crate::types::{Incarnation, NodeId};

/// A change of the configuration in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Members that were silent for too long no longer count; they become learners.
    Drop(BTreeSet<NodeId>),
    /// A learner that has caught up counts again.
    Return(NodeId),
    /// A node speaks with another life of its store than the one named: it learns anew.
    Reborn {
        /// Which node.
        id: NodeId,
        /// The life that speaks.
        incarnation: Incarnation,
    },
    /// A new node; it learns first.
    Add {
        /// Its ID.
        id: NodeId,
        /// `host:port` of its peers' endpoint.
        address: String,
        /// It may vote, but not lead.
        never_leader: bool,
    },
    /// A node leaves for good.
    Remove(NodeId),
    /// A node's store was replaced: what it once promised and held no longer counts.
    Reset(NodeId),
    /// Leads before lower IDs; `None`: the lowest ID leads again. Undoes its [`Change::Demote`].
    Prefer(Option<NodeId>),
    /// Excludes a node from leading, or undoes that.
    Demote {
        /// Which node.
        id: NodeId,
        /// Excluded.
        demoted: bool,
    },
}

/// Why a change was refused: it did not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such node.
    #[error("{0} is not in the cluster: `wolfctl list servers` shows who is")]
    Unknown(NodeId),
    /// There is one of that ID.
    #[error("{0} is in the cluster already: remove it first, or choose another ID")]
    Exists(NodeId),
    /// It is so already.
    #[error("nothing to change: it is so already")]
    Already,
    /// Nobody would be left to lead.
    #[error("nobody could lead without {0}")]
    NobodyLeads(NodeId),
    /// Too few would be left.
    #[error("{left} members would be left, the policy asks for at least {min}")]
    TooFew {
        /// Members that would count.
        left: usize,
        /// `min_active`.
        min: u32,
    },
    /// Only a member can be preferred.
    #[error("{0} cannot be preferred: it is no member that may lead")]
    CannotLead(NodeId),
}

impl Configuration {
    /// The configuration that follows by `change`.
    pub fn changed(&self, change: &Change) -> Result<Configuration, ChangeError> {
        let mut next = self.clone();
        match change {
            Change::Drop(ids) => {
                for id in ids {
                    let member = next.named(id)?;
                    (member.standing == Standing::Member)
                        .then(|| member.standing = Standing::Learner)
                        .ok_or(ChangeError::Already)?;
                }
                next.enough(self)?;
            }
            Change::Return(id) => next.named(id)?.standing = Standing::Member,
            Change::Reborn { id, incarnation } => {
                let member = next.named(id)?;
                member.incarnation = *incarnation;
                member.standing = Standing::Learner;
            }
            Change::Reset(id) => {
                let member = next.named(id)?;
                member.incarnation = Incarnation(0);
                member.standing = Standing::Learner;
                next.enough(self)?;
            }
            Change::Add { id, address, never_leader } => next.add(id, address, *never_leader)?,
            Change::Remove(id) => {
                next.named(id)?;
                next.members.retain(|member| member.id != *id);
                next.preferred_leader.take_if(|preferred| preferred == id);
                next.enough(self)?;
            }
            Change::Prefer(None) => next.preferred_leader = None,
            Change::Prefer(Some(id)) => {
                let member = next.named(id)?;
                member.demoted = false;
                member
                    .may_lead()
                    .then_some(())
                    .ok_or_else(|| ChangeError::CannotLead(id.clone()))?;
                next.preferred_leader = Some(id.clone());
            }
            Change::Demote { id, demoted } => {
                next.named(id)?.demoted = *demoted;
                next.preferred_leader.take_if(|preferred| *demoted && preferred == id);
            }
        }
        if next == *self {
            return Err(ChangeError::Already);
        }
        next.somebody_leads(change)?;
        Ok(next)
    }

    /// Whether `a` leads rather than `b`, if both can: the pinned one, then the lower ID.
    pub fn goes_before(&self, a: &NodeId, b: &NodeId) -> bool {
        let rank = |id: &NodeId| (self.preferred_leader.as_ref() != Some(id), id.clone());
        rank(a) < rank(b)
    }

    fn named(&mut self, id: &NodeId) -> Result<&mut Member, ChangeError> {
        let found = self.members.iter_mut().find(|member| member.id == *id);
        found.ok_or_else(|| ChangeError::Unknown(id.clone()))
    }

    fn add(&mut self, id: &NodeId, address: &str, never_leader: bool) -> Result<(), ChangeError> {
        if self.member(id).is_some() {
            return Err(ChangeError::Exists(id.clone()));
        }
        self.members.push(Member {
            id: id.clone(),
            address: address.to_owned(),
            incarnation: Incarnation(0),
            standing: Standing::Learner,
            never_leader,
            demoted: false,
        });
        self.members.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }

    /// A change must not leave fewer members than the policy asks for; if there are too few
    /// already, it must not make them fewer.
    fn enough(&self, before: &Configuration) -> Result<(), ChangeError> {
        let (left, min) = (self.voters().count(), self.min_active);
        let fewer = left < before.voters().count();
        if fewer && left < usize::try_from(min).unwrap_or(usize::MAX) {
            return Err(ChangeError::TooFew { left, min });
        }
        Ok(())
    }

    fn somebody_leads(&self, change: &Change) -> Result<(), ChangeError> {
        if self.members.iter().any(Member::may_lead) {
            return Ok(());
        }
        let without = match change {
            Change::Drop(ids) => ids.first(),
            Change::Reborn { id, .. } | Change::Remove(id) | Change::Reset(id) => Some(id),
            Change::Demote { id, .. } => Some(id),
            Change::Return(_) | Change::Add { .. } | Change::Prefer(_) => None,
        };
        without.map_or(Ok(()), |id| Err(ChangeError::NobodyLeads(id.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().expect("valid")
    }

    fn three() -> Configuration {
        Configuration::of_members(&["n1", "n2", "n3"])
    }

    fn silent(ids: &[&str]) -> Change {
        Change::Drop(ids.iter().map(|text| id(text)).collect())
    }

    #[test]
    fn the_silent_learn_and_return_but_never_too_many_go() {
        let two = three().changed(&silent(&["n3"])).expect("two are enough");
        assert_eq!(two.voters().count(), 2);
        assert_eq!(two.member(&id("n3")).map(|m| m.standing), Some(Standing::Learner));
        let few = ChangeError::TooFew { left: 1, min: 2 };
        assert_eq!(two.changed(&silent(&["n2"])), Err(few.clone()));
        assert_eq!(three().changed(&silent(&["n2", "n3"])), Err(few));
        assert_eq!(two.changed(&silent(&["n3"])), Err(ChangeError::Already));
        assert_eq!(two.changed(&Change::Return(id("n3"))), Ok(three()));
        assert_eq!(three().changed(&Change::Return(id("n3"))), Err(ChangeError::Already));
    }

    #[test]
    fn another_life_learns_anew_even_where_members_are_few() {
        let two = three().changed(&silent(&["n3"])).expect("two are enough");
        let reborn = Change::Reborn { id: id("n2"), incarnation: Incarnation(9) };
        let next = two.changed(&reborn).expect("the store is lost in any case");
        let life = next.member(&id("n2")).map(|m| m.incarnation);
        assert_eq!((next.voters().count(), life), (1, Some(Incarnation(9))));
    }

    #[test]
    fn nodes_come_and_go_by_the_operator() {
        let add =
            |name: &str| Change::Add { id: id(name), address: "h:1".into(), never_leader: true };
        let four = three().changed(&add("n0")).expect("new");
        assert_eq!(four.members.first().map(|m| m.id.clone()), Some(id("n0")), "by ID");
        assert_eq!(four.voters().count(), 3, "it learns first");
        assert_eq!(four.changed(&add("n0")), Err(ChangeError::Exists(id("n0"))));
        assert_eq!(four.changed(&Change::Remove(id("n0"))), Ok(three()));
        assert_eq!(three().changed(&Change::Remove(id("n9"))), Err(ChangeError::Unknown(id("n9"))));
        let reset = three().changed(&Change::Reset(id("n3"))).expect("two are left");
        assert_eq!(reset.member(&id("n3")).map(|m| m.incarnation), Some(Incarnation(0)));
    }

    #[test]
    fn who_leads_is_the_pinned_one_then_the_lowest_id() {
        let before = |c: &Configuration, a, b| c.goes_before(&id(a), &id(b));
        let pinned = three().changed(&Change::Prefer(Some(id("n3")))).expect("a member");
        assert!(before(&three(), "n1", "n3") && !before(&three(), "n3", "n1"));
        assert!(before(&pinned, "n3", "n1") && before(&pinned, "n1", "n2"));
        assert_eq!(pinned.changed(&Change::Prefer(None)), Ok(three()));

        let demote = |name: &str, demoted| Change::Demote { id: id(name), demoted };
        let without = pinned.changed(&demote("n3", true)).expect("others can lead");
        assert_eq!(without.preferred_leader, None, "a demoted one is not pinned");
        assert_eq!(without.changed(&demote("n3", false)), Ok(three()));
        assert_eq!(without.changed(&Change::Prefer(Some(id("n3")))), Ok(pinned));
        let one = without.changed(&demote("n2", true)).expect("n1 can lead");
        let nobody = Err(ChangeError::NobodyLeads(id("n1")));
        assert_eq!(one.changed(&demote("n1", true)), nobody);
    }
}
