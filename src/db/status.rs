//! What an operator is told about the local database.

use super::gtid::Gtid;

/// The database's part in the cluster, as its controller sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DbState {
    /// The controller has not reached a verdict yet.
    Starting,
    /// It does not answer.
    Unreachable,
    /// Its settings break a promise; the advice says which lines to change.
    Misconfigured,
    /// It applies the cluster's log.
    Following,
    /// It is becoming the leader's database: not writable yet.
    Promoting,
    /// It takes the cluster's writes.
    Leading,
    /// It is losing that part.
    Demoting,
    /// It holds what the cluster does not, or lacks what cannot be fed: it must be rebuilt.
    NeedsMigration,
}

/// The local database, for `status` and for the eligibility of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DbStatus {
    /// Its part.
    pub state: DbState,
    /// Why it is so, in a sentence; empty if there is nothing to say.
    pub detail: String,
    /// What to do, one a row: lines to change where the state is `Misconfigured`.
    pub advice: Vec<String>,
    /// `@@version`, once seen.
    pub version: Option<String>,
    /// The newest cluster GTID that it has applied or committed.
    pub position: Option<Gtid>,
}

impl DbStatus {
    /// Before the first contact.
    pub fn starting() -> Self {
        Self {
            state: DbState::Starting,
            detail: String::new(),
            advice: Vec::new(),
            version: None,
            position: None,
        }
    }

    /// Whether this node may lead, as far as its database is concerned.
    pub fn eligible(&self) -> bool {
        matches!(self.state, DbState::Following | DbState::Promoting | DbState::Leading)
    }
}
