//! Where a replica starts, and what format holds there.

use std::sync::Arc;

use super::{error::FeedError, outbox::Format};
use crate::{
    db::{
        command::DbCommand,
        gtid::Gtid,
        index::{DbIndex, Place},
    },
    log::EntrySource,
    types::Lsn,
};

/// What a replica says it has: nothing, or everything up to a GTID.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Start(pub Vec<Gtid>);

/// Where that is in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Located {
    /// The replica has nothing.
    Beginning,
    /// Behind this transaction.
    Behind(Place),
    /// Beyond what this node has applied: perhaps it lags.
    Ahead,
}

impl Start {
    /// The GTID that the replica ends with; `None` if it has nothing.
    pub fn gtid(&self) -> Result<Option<Gtid>, FeedError> {
        match self.0[..] {
            [] => Ok(None),
            [gtid] => Ok(Some(gtid)),
            _ => Err(FeedError::Start("the cluster log has one GTID domain")),
        }
    }

    /// Finds it.
    pub fn locate(&self, index: &DbIndex) -> Result<Located, FeedError> {
        let (gtid, base) = (self.gtid()?, index.base());
        let Some(gtid) = gtid else {
            // What the founders' databases held is not in the log.
            return base.map_or(Ok(Located::Beginning), |base| Err(FeedError::BeforeBase(base)));
        };
        if base == Some(gtid) {
            return Ok(Located::Beginning);
        }
        match index.place(gtid.domain, gtid.sequence)? {
            Some(place) if place.gtid == gtid => Ok(Located::Behind(place)),
            Some(_) => Err(FeedError::NotInLog(gtid)),
            None if index.next_after(gtid.domain, gtid.sequence)?.is_some() => {
                Err(FeedError::NotInLog(gtid))
            }
            None => Ok(Located::Ahead),
        }
    }
}

/// The newest format before an entry; `None` if the log has none there.
pub fn format_before(
    index: &DbIndex,
    source: &dyn EntrySource,
    lsn: Lsn,
) -> Result<Option<Format>, FeedError> {
    let Some(at) = index.format_before(lsn)? else { return Ok(None) };
    let entry = source.read(at, at, 0)?.into_iter().next().ok_or(FeedError::Trimmed(at))?;
    match decode(at, &entry.body)? {
        DbCommand::Format(event) => format(at, &event).map(Some),
        DbCommand::Transaction(_) => Ok(None),
    }
}

/// The command of a database entry.
pub fn decode(lsn: Lsn, body: &[u8]) -> Result<DbCommand, FeedError> {
    DbCommand::decode(body).map_err(|source| FeedError::Command { lsn, source })
}

/// The format in an entry.
pub fn format(lsn: Lsn, event: &[u8]) -> Result<Format, FeedError> {
    Format::new(event).map_err(|source| FeedError::Events { lsn, source })
}

/// Index and entries, for reads off the async threads.
#[derive(Clone)]
pub struct Reads {
    /// Which GTID is where.
    pub index: DbIndex,
    /// The entries.
    pub source: Arc<dyn EntrySource>,
}

impl Reads {
    /// Runs a read where it may block.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reads) -> Result<T, FeedError> + Send + 'static,
    ) -> Result<T, FeedError> {
        let reads = self.clone();
        let joined = tokio::task::spawn_blocking(move || read(&reads)).await;
        joined.map_err(|_| FeedError::ReadLost)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryEngine;

    #[test]
    fn a_log_that_goes_on_from_a_base_serves_who_has_it() {
        let index = DbIndex::new(Arc::new(MemoryEngine::new()));
        let base: Gtid = "0-1-4".parse().expect("valid");
        let locate = |have: &[Gtid]| Start(have.to_vec()).locate(&index);
        assert!(matches!(locate(&[]), Ok(Located::Beginning)), "nothing is known of a base");
        index.set_base(Some(base));
        assert!(matches!(locate(&[base]), Ok(Located::Beginning)));
        assert!(matches!(locate(&[]), Err(FeedError::BeforeBase(b)) if b == base));
    }
}
