//! From a [`NodeStatus`] to the wire, and from the wire to a [`Change`].

use tonic::Status;

use crate::{
    cluster::{change::Change, membership::Standing},
    db::status::{DbState, DbStatus},
    replicate::{role::Role, transport::auth::ADDRESS_BYTES_MAX},
    server::status::{Liveness, MemberStatus, NodeStatus},
    types::NodeId,
    wire,
};

/// The whole status.
pub fn status(status: &NodeStatus) -> wire::GetStatusResponse {
    let term = status.role.term.as_ref();
    let (last, marks) = (&status.last, &status.marks);
    wire::GetStatusResponse {
        node_id: status.id.to_string(),
        incarnation: status.incarnation.to_string(),
        cluster_id: status.cluster.map(|id| id.to_string()).unwrap_or_default(),
        role: role(status.role.role).into(),
        term_number: term.map_or(0, |term| term.number),
        leader: status.role.leader.as_ref().map(ToString::to_string).unwrap_or_default(),
        handing_over: status.role.handing_over,
        last: Some(wire::Position {
            term_number: last.term.as_ref().map_or(0, |term| term.number),
            term_leader: last.term.as_ref().map(|t| t.leader.to_string()).unwrap_or_default(),
            lsn: last.lsn.0,
        }),
        watermarks: Some(wire::Watermarks {
            appended_lsn: marks.appended.0,
            durable_lsn: marks.durable.0,
            committed_lsn: marks.committed.0,
            released_lsn: marks.released.0,
            applied_lsn: marks.applied.0,
        }),
        servers: servers(status),
        database: status.db.as_ref().map(database),
        notices: status.notices.clone(),
    }
}

/// The members, this node's own role filled in.
pub fn servers(status: &NodeStatus) -> Vec<wire::Server> {
    status.members.iter().map(|member| server(member, status)).collect()
}

fn server(member: &MemberStatus, status: &NodeStatus) -> wire::Server {
    let own = member.id == status.id;
    let part = match (own, member.leads) {
        (true, _) => role(status.role.role),
        (false, true) => wire::Role::Leader,
        (false, false) => wire::Role::Follower,
    };
    wire::Server {
        id: member.id.to_string(),
        address: member.address.clone(),
        role: part.into(),
        liveness: liveness(member.liveness).into(),
        silent_ms: member.silent_ms,
        durable_lsn: member.durable.0,
        applied_lsn: member.applied.0,
        eligible: member.eligible,
        database: member.database.map(|state| database_state(state).into()),
        standing: standing(member.named.as_ref().map(|named| named.standing)).into(),
        never_leader: member.named.as_ref().is_some_and(|named| named.never_leader),
        demoted: member.named.as_ref().is_some_and(|named| named.demoted),
        preferred: member.preferred,
    }
}

fn database(db: &DbStatus) -> wire::Database {
    wire::Database {
        state: database_state(db.state).into(),
        detail: db.detail.clone(),
        advice: db.advice.clone(),
        version: db.version.clone().unwrap_or_default(),
        position: db.position.map(|gtid| gtid.to_string()).unwrap_or_default(),
    }
}

fn role(role: Role) -> wire::Role {
    match role {
        Role::Follower => wire::Role::Follower,
        Role::Candidate => wire::Role::Candidate,
        Role::Leader => wire::Role::Leader,
    }
}

fn standing(standing: Option<Standing>) -> wire::Standing {
    match standing {
        None => wire::Standing::Unspecified,
        Some(Standing::Member) => wire::Standing::Member,
        Some(Standing::Learner) => wire::Standing::Learner,
        Some(Standing::Witness) => wire::Standing::Witness,
    }
}

fn liveness(liveness: Liveness) -> wire::Liveness {
    match liveness {
        Liveness::Alive => wire::Liveness::Alive,
        Liveness::Dead => wire::Liveness::Dead,
    }
}

fn database_state(state: DbState) -> wire::DatabaseState {
    match state {
        DbState::Starting => wire::DatabaseState::Starting,
        DbState::Unreachable => wire::DatabaseState::Unreachable,
        DbState::Misconfigured => wire::DatabaseState::Misconfigured,
        DbState::Following => wire::DatabaseState::Following,
        DbState::Promoting => wire::DatabaseState::Promoting,
        DbState::Leading => wire::DatabaseState::Leading,
        DbState::Demoting => wire::DatabaseState::Demoting,
        DbState::NeedsMigration => wire::DatabaseState::NeedsMigration,
    }
}

/// What a caller wants of the membership.
pub fn change(request: wire::ChangeMembershipRequest) -> Result<Change, Status> {
    use wire::change_membership_request::Change as Wire;
    let id = |text: String| -> Result<NodeId, Status> {
        text.parse().map_err(|e| Status::invalid_argument(format!("node ID {text:?}: {e}")))
    };
    let missing = || Status::invalid_argument("no change is given");
    Ok(match request.change.ok_or_else(missing)? {
        Wire::Add(wire::MemberAddition { id: node, address, never_leader }) => {
            if !address.contains(':') || address.len() > ADDRESS_BYTES_MAX {
                let what =
                    format!("address {address:?}: write HOST:PORT, in {ADDRESS_BYTES_MAX} bytes");
                return Err(Status::invalid_argument(what));
            }
            Change::Add { id: id(node)?, address, never_leader }
        }
        Wire::Remove(node) => Change::Remove(id(node)?),
        Wire::Reset(node) => Change::Reset(id(node)?),
        Wire::Prefer(node) => Change::Prefer(Some(id(node)?)),
        Wire::PreferLowest(_) => Change::Prefer(None),
        Wire::Demote(node) => Change::Demote { id: id(node)?, demoted: true },
        Wire::UndoDemote(node) => Change::Demote { id: id(node)?, demoted: false },
    })
}
