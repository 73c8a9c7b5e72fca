//! What the controller asks of capture and of the GTID index.

use futures::future::BoxFuture;

use crate::{db::gtid::Gtid, store::StoreError, types::Term};

/// Capture did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("capture: {0}")]
pub struct CaptureError(pub String);

/// How capture ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureEnd {
    /// Why.
    pub why: String,
    /// Its connection was lost, and nothing that it proposed was refused.
    pub lost: bool,
}

/// Capture of the local database, as the controller drives it.
pub trait CaptureControl: Send + Sync + 'static {
    /// Connects as the database's semi-synchronous replica behind `after` and proposes what it
    /// commits, in `term` only. Returns once it is registered. One that runs is ended first.
    fn start(&mut self, term: Term, after: Option<Gtid>)
    -> BoxFuture<'_, Result<(), CaptureError>>;

    /// Connects again after a loss, in the same term: proposes what the database commits behind the
    /// log's tail, once all that was proposed before is in the log. If it fails, it stays ended.
    fn resume(&mut self, term: Term) -> BoxFuture<'_, Result<(), CaptureError>>;

    /// Acknowledges everything up to `gtid`, which the log holds, although its term is over.
    fn ack_through(&mut self, gtid: Gtid) -> BoxFuture<'_, Result<(), CaptureError>>;

    /// Ends it: nothing is acknowledged any more. One that does not run is fine.
    fn stop(&mut self) -> BoxFuture<'_, ()>;

    /// How it ended by itself, if it did.
    fn ended(&self) -> Option<CaptureEnd>;
}

/// Which transactions the released and applied part of the log holds.
pub trait GtidIndex: Send + Sync + 'static {
    /// Where the cluster's databases stood when it was founded: the log goes on from there. `None`
    /// for empty ones, or while it is not known.
    fn base(&self) -> Option<Gtid>;

    /// The newest one.
    fn tail(&self) -> Result<Option<Gtid>, StoreError>;

    /// Whether it holds this very one (server included).
    fn holds(&self, gtid: Gtid) -> Result<bool, StoreError>;

    /// Whether it holds one with that number, whoever gave it.
    fn uses(&self, domain: u32, sequence: u64) -> Result<bool, StoreError>;
}
