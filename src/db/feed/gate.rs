//! Who holds DDL back until the replica is ready for it.

use futures::future::BoxFuture;

use crate::{
    db::{
        command::{FLAG_DDL, Transaction},
        gtid::Gtid,
        protocol::event::FLAG_STANDALONE,
    },
    types::Lsn,
};

/// GTID event flag: all of the group's changes are transactional.
const FLAG_TRANSACTIONAL: u8 = 4;

/// Fences DDL: MariaDB's DDL is not atomic with its replica position, so a replica gets it alone.
///
/// The stream stays alive by heartbeats while it waits. Both calls may come again for the same
/// GTID, since a replica may connect again; dropping the future must be harmless.
pub trait FeedGate: Send + Sync + 'static {
    /// Whether the replica with that server ID is fenced. Others get DDL as it comes.
    fn covers(&self, _server_id: u32) -> bool {
        true
    }

    /// Called before a DDL group is sent; everything before it has been. Resolves when the replica
    /// has applied its predecessors and the DDL is recorded. An error ends the connection, and the
    /// replica connects again.
    fn before_ddl(&self, gtid: Gtid, lsn: Lsn) -> BoxFuture<'_, Result<(), String>>;

    /// Called after a DDL group was sent, or when a replica starts behind one. Resolves when the
    /// replica's position has passed it; nothing is sent until then.
    fn after_ddl(&self, gtid: Gtid) -> BoxFuture<'_, Result<(), String>>;
}

/// Holds nothing back.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl FeedGate for OpenGate {
    fn covers(&self, _server_id: u32) -> bool {
        false
    }

    fn before_ddl(&self, _gtid: Gtid, _lsn: Lsn) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn after_ddl(&self, _gtid: Gtid) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// Whether a crash of the replica may leave the group applied without its position saying so, as
/// far as the fence is concerned: DDL, and any other statement outside of transactions.
pub fn needs_fence(transaction: &Transaction) -> bool {
    let standalone = transaction.flags & FLAG_STANDALONE != 0;
    let transactional = transaction.flags & FLAG_TRANSACTIONAL != 0;
    transaction.flags & FLAG_DDL != 0 || (standalone && !transactional)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ddl_and_what_cannot_roll_back_is_fenced() {
        let fenced = |flags| {
            let gtid = Gtid { domain: 0, server: 1, sequence: 1 };
            needs_fence(&Transaction { gtid, flags, events: bytes::Bytes::new() })
        };
        assert!(fenced(FLAG_DDL) && fenced(FLAG_DDL | FLAG_STANDALONE) && fenced(FLAG_STANDALONE));
        assert!(!fenced(0) && !fenced(FLAG_TRANSACTIONAL));
        assert!(!fenced(FLAG_TRANSACTIONAL | FLAG_STANDALONE));
    }
}
