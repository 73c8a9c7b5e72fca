//! What the admin API can make a node do.

use std::path::PathBuf;

use crate::{cluster::change::Change, types::Lsn};

/// What is wrong with the database's settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnosis {
    /// One line each; empty if all is well.
    pub findings: Vec<String>,
    /// What configuring would change, as a unified diff.
    pub diff: String,
}

/// What configuring the database changes, or has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configured {
    /// The change, as a unified diff; empty if there is none.
    pub diff: String,
    /// Whether it was written.
    pub written: bool,
    /// The option file.
    pub path: PathBuf,
    /// The server must be restarted before it takes effect.
    pub restart_needed: bool,
}

/// A database that was taken back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TakenBack {
    /// Why it had to be rebuilt.
    pub reason: String,
    /// The GTID that it goes on from; empty for the beginning of the log.
    pub position: String,
}

/// Why an action is not known to be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Rejected: the node runs no database.
    #[error("this node runs no database: its configuration has no [db] section")]
    NoDatabase,
    /// Rejected: it did not happen, and will not before something else is done.
    #[error("{0}")]
    NotReady(String),
    /// Rejected: it did not happen.
    #[error("{0}")]
    Rejected(String),
    /// Indeterminate: it may have happened in part.
    #[error("{0}")]
    Indeterminate(String),
}

/// Why the membership is not known to be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeFailed {
    /// Rejected: it did not happen, here or now. Try again, or the leader.
    #[error("{0}")]
    Elsewhere(String),
    /// Rejected: it makes no sense, or breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// Indeterminate: it may have happened.
    #[error("{0}")]
    Indeterminate(String),
}

/// Changes the membership; the node is one, a test's double another.
#[tonic::async_trait]
pub trait Membership: Send + Sync + 'static {
    /// Orders a change and waits until the cluster has it; tells where it stands in the log.
    async fn change(&self, change: Change) -> Result<Lsn, ChangeFailed>;
}

/// Carries out the actions of the admin API; the node is one, a test's double another.
#[tonic::async_trait]
pub trait AdminBackend: Send + Sync + 'static {
    /// Compares the database's settings with what it needs; changes nothing.
    async fn diagnose_database(&self) -> Result<Diagnosis, BackendError>;
    /// Writes the database's option file, or with `dry_run` only shows the change.
    async fn configure_database(&self, dry_run: bool) -> Result<Configured, BackendError>;
    /// Lets a database follow again that had to be rebuilt, if it is seen to be.
    async fn take_database_back(&self) -> Result<TakenBack, BackendError>;
}

/// Of a node without a database.
#[derive(Debug, Clone, Copy)]
pub struct NoDatabase;

#[tonic::async_trait]
impl AdminBackend for NoDatabase {
    async fn diagnose_database(&self) -> Result<Diagnosis, BackendError> {
        Err(BackendError::NoDatabase)
    }

    async fn configure_database(&self, _dry_run: bool) -> Result<Configured, BackendError> {
        Err(BackendError::NoDatabase)
    }

    async fn take_database_back(&self) -> Result<TakenBack, BackendError> {
        Err(BackendError::NoDatabase)
    }
}
