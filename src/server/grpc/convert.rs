//! From a [`NodeStatus`] to the wire.

use crate::{
    db::status::{DbState, DbStatus},
    replicate::role::Role,
    server::status::{Liveness, MemberStatus, NodeStatus},
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
