//! What the controller knows at one moment; plain values, so that decisions can be tested by table.

use super::seams::CaptureEnd;
use crate::{
    db::{gtid::Gtid, mariadb::ReplicaStatus, requirements::Finding},
    replicate::role::RoleView,
    types::{Lsn, Term},
};

/// Everything that a decision is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// The node's part in the cluster.
    pub role: RoleView,
    /// The log, as far as it is released here.
    pub log: LogSeen,
    /// What the controller has made of the database.
    pub part: Part,
    /// The database itself.
    pub db: DbSeen,
    /// Why it must be migrated, if that is recorded.
    pub migration: Option<String>,
    /// How the capture ended by itself, if it did.
    pub capture_ended: Option<CaptureEnd>,
    /// How often it was resumed in this term.
    pub resumes: u32,
    /// The database's process, if there is a way to know.
    pub process_runs: Option<bool>,
    /// Whether the database can be killed and started from here.
    pub can_fence: bool,
    /// The binlog position of which a restart as follower did not rid the database.
    pub outlived_restart: Option<Gtid>,
    /// The last attempt to start it, if that failed and it has not answered since.
    pub failed_start: Option<FailedStart>,
    /// How often the replica threads were started since they last made progress.
    pub replica_starts: u32,
    /// Looks in a row at which the replica was ahead of a log that is current.
    pub replica_ahead_looks: u32,
    /// Failures to reach the database in a row.
    pub failures: u32,
    /// It answered since it was started: one that never did may still be recovering.
    pub answered: bool,
    /// The writes were closed for a hand-over longer ago than it may take.
    pub hand_over_overdue: bool,
}

/// A start of the database that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedStart {
    /// In its own words, where those are known.
    pub why: String,
    /// It was started as follower, and says that it cannot cut off what was not acknowledged. No
    /// other failure shows that.
    pub refuses_to_cut: bool,
    /// It is too early for another try.
    pub rests: bool,
}

/// The log, as far as it is released and applied here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSeen {
    /// Released entries.
    pub released: Lsn,
    /// Applied ones: the GTID index holds these.
    pub applied: Lsn,
    /// All that the leader of this term says is released is applied here, an entry of the term among
    /// it: what is not in the index by now was not decided by any term before, nor shown to this
    /// node in this one.
    pub current: bool,
    /// The newest database transaction in the log (or the base that the cluster started from).
    pub tail: Option<Gtid>,
}

/// What the controller has made of the database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// It follows, or nobody told it yet.
    Follower,
    /// Its writes were opened in this term, and capture runs (or ran).
    Leader {
        /// The term.
        term: Term,
        /// Writes were closed again and everything is released: it can follow.
        closed: bool,
    },
}

/// The database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DbSeen {
    /// It does not answer.
    Down(String),
    /// A version that is not supported.
    Unsupported(String),
    /// Its settings break a promise.
    Misconfigured(Vec<Finding>),
    /// It answers and is fit.
    Up(ServerSeen),
}

/// A server that answers and is fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerSeen {
    /// What its replica threads applied.
    pub replica_at: At,
    /// Where its own binlog ends.
    pub binlog_at: At,
    /// `read_only`.
    pub read_only: bool,
    /// Commits that wait for an acknowledgement.
    pub waiting: u64,
    /// Set as a follower is.
    pub relaxed: bool,
    /// It was restarted since it was given its part.
    pub restarted: bool,
    /// Its replica threads, if it was ever told to follow.
    pub replica: Option<ReplicaStatus>,
    /// They are told to follow the local feed, by `slave_pos`.
    pub follows_feed: bool,
    /// The DDL fence: raised before this run of the server, and its position is before it.
    pub broken_ddl: Option<Gtid>,
}

/// A GTID position of the server, looked up in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// It has none.
    Start,
    /// The log holds it (or the cluster started from it).
    InLog(Gtid),
    /// Its sequence is past the log's newest: perhaps the log here lags, perhaps it is errant.
    Ahead(Gtid),
    /// The log has passed its sequence with another transaction.
    Errant(Gtid),
}

impl At {
    /// The GTID.
    pub fn gtid(self) -> Option<Gtid> {
        match self {
            Self::Start => None,
            Self::InLog(gtid) | Self::Ahead(gtid) | Self::Errant(gtid) => Some(gtid),
        }
    }

    /// Its sequence; 0 for none.
    pub fn sequence(self) -> u64 {
        self.gtid().map_or(0, |gtid| gtid.sequence)
    }
}
