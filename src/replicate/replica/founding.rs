//! The first configuration of a new cluster (DESIGN §2.4): all founders, all empty, all agreed.

use sha2::{Digest, Sha256};

use crate::{
    cluster::membership::{Configuration, Member, Policy, Standing},
    replicate::message::{Founding, Promise},
    types::{ClusterId, Incarnation, NodeId, Position},
};

/// What this node would found: equal on all founders, but for the proposed ID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundingPlan {
    /// The founders, by ID, with their addresses.
    pub members: Vec<(NodeId, String)>,
    /// What an acknowledgement waits for.
    pub policy: Policy,
    /// The cluster's ID, if this node becomes the one that founds it: random.
    pub cluster: ClusterId,
    /// `@@gtid_current_pos` of this node's database, empty for none; `None` if it runs none.
    pub db_position: Option<String>,
    /// This node may vote, but not lead.
    pub never_leader: bool,
}

impl FoundingPlan {
    /// Hash of what all founders must have in common: the IDs and the policy. Addresses may be
    /// spelled differently from node to node.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"wolfscale founding v1");
        hasher.update([match self.policy {
            Policy::Majority => 1,
            Policy::Survivor => 2,
        }]);
        for (id, _) in &self.members {
            hasher.update([u8::try_from(id.as_str().len()).expect("IDs are short")]);
            hasher.update(id.as_str());
        }
        hasher.finalize().into()
    }

    /// What this node says of itself in a promise.
    pub(super) fn statement(&self) -> Founding {
        let (db_position, never_leader) = (self.db_position.clone(), self.never_leader);
        Founding { plan: self.hash(), db_position, never_leader }
    }

    /// Why a promiser does not fit this plan, if so.
    pub(super) fn objection(&self, id: &NodeId, promise: &Promise) -> Option<String> {
        let Some(theirs) = &promise.founding else {
            return Some(format!(
                "{id} already belongs to a cluster, so no new one is founded: if this node should \
                 join that cluster, wait for its leader; else check initial_members"
            ));
        };
        if theirs.plan != self.hash() {
            return Some(format!(
                "{id} has other initial_members or another policy than this node: make the \
                 [cluster] sections equal and restart"
            ));
        }
        if promise.last != Position::default() {
            return Some(format!("{id} is not empty: it holds a log up to {}", promise.last));
        }
        if theirs.db_position != self.db_position {
            let say = |position: &Option<String>| match position.as_deref() {
                None => "runs no database".to_owned(),
                Some("") => "has a database without history".to_owned(),
                Some(at) => format!("has a database at GTID {at}"),
            };
            return Some(format!(
                "{id} {}, this node {}: the founders' databases must hold the same data; copy one \
                 to the others, or empty them, and restart",
                say(&theirs.db_position),
                say(&self.db_position)
            ));
        }
        None
    }

    /// Entry 1, once every founder has agreed; what each is comes from what it said.
    pub(super) fn configuration(
        &self,
        incarnation: impl Fn(&NodeId) -> Incarnation,
        never_leader: impl Fn(&NodeId) -> bool,
    ) -> Configuration {
        let members = self.members.iter().map(|(id, address)| Member {
            id: id.clone(),
            address: address.clone(),
            incarnation: incarnation(id),
            standing: Standing::Member,
            never_leader: never_leader(id),
            demoted: false,
        });
        let min_active = match self.policy {
            Policy::Majority => 2.min(self.members.len()),
            Policy::Survivor => 1,
        };
        Configuration {
            cluster: self.cluster,
            policy: self.policy,
            min_active: u32::try_from(min_active).expect("at most two"),
            members: members.collect(),
            preferred_leader: None,
            base_gtid: self.db_position.clone(),
        }
    }
}
