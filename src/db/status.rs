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

/// Every state with the code by which nodes tell each other, as in `types.proto`.
const CODES: [(DbState, u8); 8] = [
    (DbState::Starting, 1),
    (DbState::Unreachable, 2),
    (DbState::Misconfigured, 3),
    (DbState::Following, 4),
    (DbState::Promoting, 5),
    (DbState::Leading, 6),
    (DbState::Demoting, 7),
    (DbState::NeedsMigration, 8),
];

impl DbState {
    /// Whether a node whose database is so may lead.
    pub fn eligible(self) -> bool {
        matches!(self, Self::Following | Self::Promoting | Self::Leading)
    }

    /// The code of the state; never zero.
    pub fn code(self) -> u8 {
        CODES.iter().find(|(state, _)| *state == self).map_or(0, |(_, code)| *code)
    }

    /// The state of that code; `None` for zero (no database) and for what a newer node may say.
    pub fn from_code(code: u8) -> Option<Self> {
        CODES.iter().find(|(_, known)| *known == code).map(|(state, _)| *state)
    }
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
    /// How many transactions of the log it has not applied yet; those that it committed itself do
    /// not count. Unknown, as before the first contact, is all of them.
    pub behind: u64,
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
            behind: u64::MAX,
        }
    }

    /// Whether this node may lead, as far as its database is concerned.
    pub fn eligible(&self) -> bool {
        self.state.eligible()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_name_states_and_nothing_else() {
        for (state, code) in CODES {
            assert_eq!((state.code(), DbState::from_code(code)), (code, Some(state)));
        }
        assert_eq!(DbState::from_code(0), None, "no database");
        assert_eq!(DbState::from_code(200), None, "of a newer program");
    }
}
