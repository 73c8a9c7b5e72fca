//! The real capture behind the controller's seam.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::seams::{CaptureControl, CaptureError, GtidIndex};
use crate::{
    db::{
        capture::{Capture, CaptureHandle, CaptureSettings},
        command::DbCommand,
        gtid::Gtid,
        index::DbIndex,
    },
    log::EntrySource,
    replicate::propose::Proposer,
    store::StoreError,
    tasks::Tasks,
    types::{Lsn, Term},
};

/// Capture of the local database: one at a time, each for one term.
pub struct LocalCapture {
    settings: CaptureSettings,
    log: Arc<dyn EntrySource>,
    index: DbIndex,
    proposer: Proposer,
    tasks: Tasks,
    running: Option<CaptureHandle>,
}

impl LocalCapture {
    /// Nothing is captured yet.
    pub fn new(
        settings: CaptureSettings,
        log: Arc<dyn EntrySource>,
        index: DbIndex,
        proposer: Proposer,
        tasks: Tasks,
    ) -> Self {
        Self { settings, log, index, proposer, tasks, running: None }
    }

    /// The newest binlog format of the log. One entry holds it whole.
    fn format_in_log(&self) -> Result<Option<Bytes>, StoreError> {
        let Some(lsn) = self.index.format_before(Lsn(u64::MAX))? else { return Ok(None) };
        let entries = self.log.read(lsn, lsn, usize::MAX)?;
        let Some(entry) = entries.first() else { return Ok(None) };
        Ok(match DbCommand::decode(&entry.body)? {
            DbCommand::Format(event) => Some(event),
            DbCommand::Transaction(_) => None,
        })
    }

    async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

impl CaptureControl for LocalCapture {
    fn start(
        &mut self,
        term: Term,
        after: Option<Gtid>,
    ) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async move {
            self.end().await;
            let format = self.format_in_log().map_err(|e| CaptureError(e.to_string()))?;
            let (settings, proposer) = (self.settings.clone(), self.proposer.clone());
            let started =
                Capture::start(settings, term, after, format, proposer, &self.tasks).await;
            self.running = Some(started.map_err(|e| CaptureError(e.to_string()))?);
            Ok(())
        })
    }

    fn ack_through(&mut self, gtid: Gtid) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async move {
            let Some(running) = &self.running else {
                return Err(CaptureError("it does not run".into()));
            };
            running.ack_through(gtid).await.map_err(|e| CaptureError(e.to_string()))
        })
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.end())
    }

    fn ended(&self) -> Option<String> {
        let running = self.running.as_ref()?;
        running.state().borrow().over().map(str::to_owned)
    }
}

impl GtidIndex for DbIndex {
    fn base(&self) -> Option<Gtid> {
        Self::base(self)
    }

    fn tail(&self) -> Result<Option<Gtid>, StoreError> {
        Ok(DbIndex::tail(self)?.map(|place| place.gtid))
    }

    fn holds(&self, gtid: Gtid) -> Result<bool, StoreError> {
        DbIndex::holds(self, gtid)
    }

    fn uses(&self, domain: u32, sequence: u64) -> Result<bool, StoreError> {
        Ok(self.place(domain, sequence)?.is_some())
    }
}
