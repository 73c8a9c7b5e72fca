//! The real capture behind the controller's seam.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::seams::{CaptureControl, CaptureEnd, CaptureError, GtidIndex};
use crate::{
    db::{
        capture::{
            Beginning, Capture, CaptureHandle, CaptureSettings, CaptureState, IN_FLIGHT_MAX,
        },
        command::DbCommand,
        gtid::Gtid,
        index::DbIndex,
    },
    log::{EntrySource, entry::EntryKind, watermark::Watermark},
    replicate::propose::Proposer,
    store::StoreError,
    tasks::Tasks,
    types::{Lsn, Term},
};

/// How long what is on its way may take until a lost capture is resumed.
const RESUME_WAIT: Duration = Duration::from_secs(2);
/// How many transactions may be in the log and not acknowledged: those that were on their way.
const HELD_MAX: usize = 2 * IN_FLIGHT_MAX;
/// The body of an entry that says nothing.
const NOTHING: &[u8] = b"-";

/// Capture of the local database: one at a time, each for one term.
pub struct LocalCapture {
    settings: CaptureSettings,
    log: Arc<dyn EntrySource>,
    index: DbIndex,
    applied: Watermark,
    proposer: Proposer,
    tasks: Tasks,
    running: Option<CaptureHandle>,
}

impl LocalCapture {
    /// Nothing is captured yet.
    pub fn new(
        settings: CaptureSettings,
        log: Arc<dyn EntrySource>,
        (index, applied): (DbIndex, Watermark),
        proposer: Proposer,
        tasks: Tasks,
    ) -> Self {
        Self { settings, log, index, applied, proposer, tasks, running: None }
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

    /// Returns when all that was proposed in this term before is released and applied: an entry of
    /// nothing is ordered behind it, as the proposals of a node are ordered as they came.
    async fn await_own_proposals(&self, term: &Term) -> Result<(), CaptureError> {
        let failed = |why: &dyn std::fmt::Display| CaptureError(format!("resume: {why}"));
        let settled = async {
            let nothing = Bytes::from_static(NOTHING);
            let released = self.proposer.propose(EntryKind::Noop, nothing, Some(term.clone()));
            let lsn = released.await.map_err(|e| failed(&e))?.position.lsn;
            self.applied.clone().reached(lsn).await.map_err(|e| failed(&e))
        };
        match tokio::time::timeout(RESUME_WAIT, settled).await {
            Ok(settled) => settled.map(drop),
            Err(_) => Err(failed(&format!("the cluster is silent for {RESUME_WAIT:?}"))),
        }
    }

    /// What the log holds behind a transaction.
    fn held_behind(&self, gtid: Option<Gtid>) -> Result<VecDeque<Gtid>, CaptureError> {
        let failed = |e: StoreError| CaptureError(e.to_string());
        let mut held = VecDeque::new();
        let Some(tail) = self.index.tail().map_err(failed)? else { return Ok(held) };
        let mut last = gtid.map_or(0, |gtid| gtid.sequence);
        while let Some(next) = self.index.next_after(tail.gtid.domain, last).map_err(failed)? {
            last = next.gtid.sequence;
            held.push_back(next.gtid);
            if held.len() > HELD_MAX {
                return Err(CaptureError(format!("resume: over {HELD_MAX} are not acknowledged")));
            }
        }
        Ok(held)
    }

    async fn begin(&mut self, term: Term, beginning: Beginning) -> Result<(), CaptureError> {
        let format = self.format_in_log().map_err(|e| CaptureError(e.to_string()))?;
        let (settings, proposer) = (self.settings.clone(), self.proposer.clone());
        let started = Capture::start(settings, term, beginning, format, proposer, &self.tasks);
        self.running = Some(started.await.map_err(|e| CaptureError(e.to_string()))?);
        Ok(())
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
            self.begin(term, Beginning::Behind(after)).await
        })
    }

    fn resume(&mut self, term: Term) -> BoxFuture<'_, Result<(), CaptureError>> {
        Box::pin(async move {
            let state = self.running.as_ref().map(|running| running.state().borrow().clone());
            let Some(CaptureState::Ended { acked, lost: true, .. }) = state else {
                return Err(CaptureError("resume: it was not lost".into()));
            };
            self.await_own_proposals(&term).await?;
            let held = self.held_behind(acked)?;
            self.begin(term, Beginning::Resumed { acked, held }).await
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

    fn ended(&self) -> Option<CaptureEnd> {
        let running = self.running.as_ref()?;
        let state = running.state().borrow().clone();
        let lost = matches!(state, CaptureState::Ended { lost: true, .. });
        state.over().map(|why| CaptureEnd { why: why.to_owned(), lost })
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
