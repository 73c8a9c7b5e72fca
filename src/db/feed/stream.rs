//! The stream: from a start in the log to its live end.

use std::{future::Future, sync::Arc};

use tokio::{
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    time::sleep_until,
};

pub use super::start::Start;
use super::{
    coordinates::Coordinates,
    error::FeedError,
    gate::{FeedGate, needs_fence},
    outbox::{Format, Outbox},
    server::Context,
    session::Presence,
    start::{self, Located, Reads},
};
use crate::{
    apply::{Assembler, Command},
    db::{
        command::{DbCommand, Transaction},
        gtid::Gtid,
        protocol::{event, packet::PayloadReader},
    },
    log::{entry::EntryKind, watermark::Watermark},
    types::Lsn,
};

/// Entries are read in portions of about so many bytes.
const READ_BYTES: usize = 1 << 20;
/// COM_QUIT.
const QUIT: u8 = 1;

/// One replica's stream.
///
/// Invariant: `next` is the first entry that the assembler has not taken.
pub struct Stream<'a> {
    reader: &'a mut PayloadReader<OwnedReadHalf>,
    outbox: Outbox<OwnedWriteHalf>,
    reads: Reads,
    applied: Watermark,
    gate: Option<Arc<dyn FeedGate>>,
    presence: Presence,
    /// Whether it goes on when the log ends.
    waits: bool,
    next: Lsn,
    assembler: Assembler,
    /// The transaction that the replica has; the next one is that.
    has: Option<Gtid>,
    format: Option<Format>,
    last_put: Option<Gtid>,
}

impl<'a> Stream<'a> {
    pub fn new(
        reader: &'a mut PayloadReader<OwnedReadHalf>,
        outbox: Outbox<OwnedWriteHalf>,
        context: &Context,
        presence: Presence,
        waits: bool,
    ) -> Self {
        let gate = context.gate.covers(presence.server_id).then(|| context.gate.clone());
        let reads = Reads { index: context.index.clone(), source: context.source.clone() };
        Self {
            reader,
            outbox,
            reads,
            applied: context.applied.clone(),
            gate,
            presence,
            waits,
            next: Lsn(1),
            assembler: Assembler::default(),
            has: None,
            format: None,
            last_put: None,
        }
    }

    /// Streams until the connection breaks, or to the log's end if it does not wait there.
    pub async fn run(&mut self, start: &Start) -> Result<(), FeedError> {
        let started_at = start.gtid()?;
        self.presence.update(|status| status.started_at = started_at);
        (self.next, self.has) = self.find(start).await?;
        self.open(self.next).await?;
        loop {
            let to = self.applied.at();
            if to < self.next {
                if !self.waits {
                    return self.flush().await;
                }
                self.wait_for(self.next).await?;
                continue;
            }
            let from = self.next;
            let entries =
                self.reads.run(move |reads| Ok(reads.source.read(from, to, READ_BYTES)?)).await?;
            if entries.is_empty() {
                return Err(FeedError::Trimmed(from));
            }
            for entry in entries {
                self.next = entry.lsn.next();
                if let Some(command) = self.assembler.push(&entry) {
                    self.take(command).await?;
                }
            }
        }
    }

    /// Gives the writing side back.
    pub fn into_outbox(self) -> Outbox<OwnedWriteHalf> {
        self.outbox
    }

    /// Finds the start, or waits until the log has come so far.
    async fn find(&mut self, start: &Start) -> Result<(Lsn, Option<Gtid>), FeedError> {
        loop {
            let applied = self.applied.at();
            let wanted = start.clone();
            let located = self.reads.run(move |reads| wanted.locate(&reads.index)).await?;
            match located {
                Located::Beginning => return Ok((Lsn(1), None)),
                // A fenced replica may not have applied it yet: that is seen from what it is.
                Located::Behind(place) if self.gate.is_some() => {
                    return Ok((place.first, Some(place.gtid)));
                }
                Located::Behind(place) => return Ok((place.last.next(), None)),
                Located::Ahead if !self.waits => {
                    return Err(FeedError::Start("the replica is ahead of this node's log"));
                }
                Located::Ahead => {
                    if self.format.is_none() {
                        self.open(applied.next()).await?;
                    }
                    self.wait_for(applied.next()).await?;
                }
            }
        }
    }

    /// Sends file and format of the entry that the stream goes on with, as far as known.
    async fn open(&mut self, lsn: Lsn) -> Result<(), FeedError> {
        let format = self
            .reads
            .run(move |reads| start::format_before(&reads.index, &*reads.source, lsn))
            .await?;
        if format.is_some() {
            self.format = format;
            self.turn_to(Coordinates::of(lsn, lsn)).await?;
        }
        self.flush().await
    }

    async fn turn_to(&mut self, coordinates: Coordinates) -> Result<(), FeedError> {
        self.outbox.rotate(coordinates).await?;
        if let Some(format) = &self.format {
            self.outbox.format(format).await?;
        }
        Ok(())
    }

    async fn take(&mut self, command: Command) -> Result<(), FeedError> {
        if command.kind != EntryKind::Db {
            return Ok(());
        }
        let Command { first, at, body, .. } = command;
        let decoded = start::decode(at.lsn, &body)?;
        drop(body);
        match decoded {
            DbCommand::Format(event) => self.change_format(at.lsn, &event).await,
            DbCommand::Transaction(transaction) => match self.has.take() {
                None => self.send(&transaction, first, at.lsn).await,
                Some(gtid) if gtid == transaction.gtid => self.resume(&transaction).await,
                Some(gtid) => Err(FeedError::NotInLog(gtid)),
            },
        }
    }

    async fn change_format(&mut self, lsn: Lsn, event: &[u8]) -> Result<(), FeedError> {
        let format = start::format(lsn, event)?;
        match self.format.replace(format.clone()) {
            Some(known) if known == format => Ok(()),
            Some(_) => Ok(self.outbox.format(&format).await?),
            None => self.turn_to(Coordinates::of(lsn, lsn)).await,
        }
    }

    /// The replica has the transaction, but perhaps not applied it yet.
    async fn resume(&mut self, transaction: &Transaction) -> Result<(), FeedError> {
        match self.fence(transaction) {
            Some(gate) => self.pass_after(gate, transaction.gtid).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, t: &Transaction, first: Lsn, last: Lsn) -> Result<(), FeedError> {
        let fence = self.fence(t);
        if let Some(gate) = fence.clone() {
            let gtid = t.gtid;
            let passing = async move { gate.before_ddl(gtid, last).await };
            let passed = self.while_alive(passing).await?;
            passed.map_err(|reason| FeedError::Fence { gtid, reason })?;
        }
        self.put(t, first, last).await?;
        match fence {
            Some(gate) => self.pass_after(gate, t.gtid).await,
            None => Ok(()),
        }
    }

    async fn put(&mut self, t: &Transaction, first: Lsn, last: Lsn) -> Result<(), FeedError> {
        let coordinates = Coordinates::of(first, last);
        if coordinates.file() != self.outbox.file() {
            self.turn_to(coordinates).await?;
        }
        let mut offset = 0;
        for event in event::split(&t.events) {
            let event = event.map_err(|source| FeedError::Events { lsn: last, source })?;
            offset += event.len() as u64;
            self.outbox.event(event, coordinates.log_pos(offset)).await?;
        }
        self.last_put = Some(t.gtid);
        Ok(())
    }

    fn fence(&self, transaction: &Transaction) -> Option<Arc<dyn FeedGate>> {
        self.gate.clone().filter(|_| needs_fence(transaction))
    }

    async fn pass_after(&mut self, gate: Arc<dyn FeedGate>, gtid: Gtid) -> Result<(), FeedError> {
        let passed = self.while_alive(async move { gate.after_ddl(gtid).await }).await?;
        passed.map_err(|reason| FeedError::Fence { gtid, reason })
    }

    async fn wait_for(&mut self, lsn: Lsn) -> Result<(), FeedError> {
        let mut applied = self.applied.clone();
        let reached = self.while_alive(async move { applied.reached(lsn).await }).await?;
        reached.map(|_| ()).map_err(|_| FeedError::Stopped)
    }

    /// Sends what is ready and waits for something, with heartbeats, for as long as the replica
    /// is there.
    async fn while_alive<T>(&mut self, work: impl Future<Output = T>) -> Result<T, FeedError> {
        self.flush().await?;
        tokio::pin!(work);
        loop {
            // Without a format the replica could not read a heartbeat.
            let due = self.outbox.heartbeat_at().filter(|_| self.format.is_some());
            let heartbeat = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                said = self.reader.read() => {
                    if said?.first() == Some(&QUIT) {
                        return Err(FeedError::Left);
                    }
                }
                () = heartbeat => {
                    if let Some(format) = &self.format {
                        self.outbox.heartbeat(format).await?;
                    }
                }
            }
        }
    }

    async fn flush(&mut self) -> Result<(), FeedError> {
        self.outbox.flush().await?;
        if let Some(gtid) = self.last_put.take() {
            self.presence.update(|status| status.last_sent = Some(gtid));
        }
        Ok(())
    }
}
