//! The feed's fence around every DDL that goes to the local database (DESIGN §4 "DDL fence").

use futures::future::BoxFuture;

use crate::{
    db::{ddl_gate::DdlGate, feed::FeedGate, gtid::Gtid},
    types::Lsn,
};

/// The local database's gate, as the feed asks it.
pub(super) struct LocalGate(pub DdlGate);

impl FeedGate for LocalGate {
    fn covers(&self, server_id: u32) -> bool {
        self.0.covers(server_id)
    }

    fn before_ddl(&self, gtid: Gtid, lsn: Lsn) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.0.before_ddl(gtid, lsn).await.map_err(|e| e.to_string()) })
    }

    fn after_ddl(&self, gtid: Gtid) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.0.after_ddl(gtid).await.map_err(|e| e.to_string()) })
    }
}
