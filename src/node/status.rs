//! What the node tells about itself, put together from the replica and the database.

use std::collections::BTreeMap;

use crate::{
    cluster::membership::Configuration,
    db::status::{DbState, DbStatus},
    replicate::driver::ReplicaView,
    server::status::{Liveness, Marks, MemberStatus, NodeStatus},
    types::{Incarnation, Lsn, NodeId},
};

/// What does not change while the node runs.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub addresses: BTreeMap<NodeId, String>,
    pub suspect_after_ms: u64,
    pub notices: Vec<String>,
}

/// The status as of now.
pub(super) fn compose(
    fixed: &Fixed,
    view: &ReplicaView,
    (appended, applied): (Lsn, Lsn),
    db: Option<DbStatus>,
    mut notices: Vec<String>,
) -> NodeStatus {
    notices.splice(0..0, fixed.notices.iter().cloned());
    notices.extend(view.configuration.as_ref().and_then(|c| standing(fixed, view, c)));
    NodeStatus {
        id: fixed.id.clone(),
        incarnation: fixed.incarnation,
        cluster: view.configuration.as_ref().map(|c| c.cluster),
        role: view.role.clone(),
        last: view.last.clone(),
        marks: Marks {
            appended,
            durable: view.durable,
            committed: view.committed,
            released: view.released,
            applied,
        },
        members: members(fixed, view, applied, db.as_ref()),
        db,
        notices,
    }
}

/// What an operator should know of this node's place in the configuration.
fn standing(fixed: &Fixed, view: &ReplicaView, configuration: &Configuration) -> Option<String> {
    let id = &fixed.id;
    if configuration.member(id).is_none() {
        return Some(format!(
            "this node is no member of its cluster any more: stop it, or let it in again by \
             `wolfctl member add {id}=HOST:PORT` on a member"
        ));
    }
    (!view.counts).then(|| {
        format!(
            "this node does not count yet: the configuration names another incarnation of {id} \
             than {}; a leader names this one, once a quorum of the others is there",
            fixed.incarnation
        )
    })
}

fn members(
    fixed: &Fixed,
    view: &ReplicaView,
    applied: Lsn,
    db: Option<&DbStatus>,
) -> Vec<MemberStatus> {
    let leader = view.role.leader.as_ref();
    let configuration = view.configuration.as_ref();
    let named = |id: &NodeId| configuration.and_then(|c| c.member(id)).cloned();
    let preferred =
        |id: &NodeId| configuration.is_some_and(|c| c.preferred_leader.as_ref() == Some(id));
    // Once there is a configuration, who is not in it is no member.
    let listed = |id: &NodeId| configuration.is_none() || named(id).is_some();
    let others = view.peers.iter().filter(|(id, ..)| listed(id));
    let others = others.map(|(id, silent_ms, peer)| MemberStatus {
        id: id.clone(),
        address: address(fixed, view.configuration.as_ref(), id),
        liveness: match silent_ms {
            Some(ms) if *ms <= fixed.suspect_after_ms => Liveness::Alive,
            _ => Liveness::Dead,
        },
        silent_ms: *silent_ms,
        leads: leader == Some(id),
        durable: peer.durable.lsn,
        applied: peer.applied,
        eligible: peer.eligible,
        database: DbState::from_code(peer.database),
        named: named(id),
        preferred: preferred(id),
    });
    let own = MemberStatus {
        id: fixed.id.clone(),
        address: address(fixed, view.configuration.as_ref(), &fixed.id),
        liveness: Liveness::Alive,
        silent_ms: Some(0),
        leads: leader == Some(&fixed.id),
        durable: view.durable,
        applied,
        eligible: view.counts && db.is_none_or(DbStatus::eligible),
        database: db.map(|db| db.state),
        named: named(&fixed.id),
        preferred: preferred(&fixed.id),
    };
    let mut members: Vec<MemberStatus> = others.chain([own]).collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    members
}

fn address(fixed: &Fixed, configuration: Option<&Configuration>, id: &NodeId) -> String {
    let configured = configuration.and_then(|c| c.member(id)).map(|m| m.address.clone());
    fixed.addresses.get(id).cloned().or(configured).unwrap_or_default()
}
