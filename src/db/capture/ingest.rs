//! From the binlog stream to the log: assembles groups, seals them and proposes them in order.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{Captured, Group, Groups, IN_FLIGHT_BYTES_MAX};
use crate::{
    db::{
        command::{DbCommand, Transaction},
        gtid::Gtid,
        protocol::{
            client::ReadHalf,
            packet::{PayloadReader, WireError, server_error},
            value::Malformed,
        },
    },
    log::entry::EntryKind,
    replicate::propose::{ProposeError, Proposer, Released},
    types::Term,
};

/// With a heartbeat a second, a server that is silent for so long is gone. Ample, since one event
/// may have 1 GiB.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Groups above this are sealed on a thread of their own.
const SEAL_INLINE_BYTES_MAX: usize = 128 << 10;
/// `00`, `ef`, acknowledgement wanted.
const PREFIX_BYTES: usize = 3;

/// The log's answer to a command.
pub(super) type Answer = oneshot::Receiver<Result<Released, ProposeError>>;

/// A command on its way to the log.
pub(super) struct Flight {
    /// The group; a format has none, and needs no acknowledgement.
    pub group: Option<Landing>,
    /// What became of it.
    pub answered: Answer,
    /// Its share of the bytes on their way, given back when it is dropped.
    pub _room: OwnedSemaphorePermit,
}

/// What acknowledges a group.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    pub gtid: Gtid,
    pub file: Arc<str>,
    pub end: u64,
}

/// What the acknowledger hears.
pub(super) enum Arrival {
    /// The log holds it already, and it was not acknowledged yet.
    Held(Landing),
    /// Something was proposed.
    Flight(Flight),
    /// The stream is over.
    Lost(String),
}

/// Why the stream is over.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the binlog stream: {0}")]
    Stream(#[from] Malformed),
    #[error("the server has been silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("the server ended the binlog stream")]
    EndOfStream,
    #[error("the server no longer treats us as a semi-synchronous replica")]
    NotSemiSync,
    #[error("{next} does not follow {last}")]
    OutOfOrder { last: Gtid, next: Gtid },
    #[error("the log goes on with {held}, the binlog with {found}")]
    NotTheLog { held: Gtid, found: Gtid },
    #[error("it was closed")]
    Closed,
    #[error("a transaction could not be sealed")]
    Seal,
}

pub(super) struct Ingest {
    pub reader: PayloadReader<ReadHalf>,
    pub groups: Groups,
    pub term: Term,
    /// What the log holds behind the place where it connected: that comes first.
    pub held: VecDeque<Gtid>,
    /// The newest transaction that was proposed, or is in the log.
    pub last: Option<Gtid>,
    /// Set when capture resumes: the next group has exactly the next number.
    pub resumed: bool,
    /// The newest format that was proposed, or is in the log.
    pub format: Option<Bytes>,
    pub proposer: Proposer,
    pub arrivals_tx: mpsc::Sender<Arrival>,
    pub room: Arc<Semaphore>,
    /// Cancelled: propose nothing more, but keep reading.
    pub holding: CancellationToken,
    /// Cancelled: end.
    pub close: CancellationToken,
}

impl Ingest {
    pub async fn run(mut self, first: Bytes) {
        let close = self.close.clone();
        let fault = tokio::select! {
            () = close.cancelled() => Fault::Closed,
            fault = self.read_on(first) => fault,
        };
        info!(%fault, term = %self.term, "capture stream ended");
        let _closed = self.arrivals_tx.send(Arrival::Lost(fault.to_string())).await;
    }

    async fn read_on(&mut self, first: Bytes) -> Fault {
        let mut payload = first;
        loop {
            if let Err(fault) = self.take(&payload).await {
                return fault;
            }
            payload = match tokio::time::timeout(SILENCE_MAX, self.reader.read()).await {
                Ok(Ok(payload)) => payload,
                Ok(Err(error)) => return error.into(),
                Err(_) => return Fault::Silent,
            };
        }
    }

    async fn take(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let event = match payload {
            [0, 0xef, _, ..] => &payload[PREFIX_BYTES..],
            [0xff, ..] => return Err(server_error(payload).into()),
            [0xfe, ..] => return Err(Fault::EndOfStream),
            _ => return Err(Fault::NotSemiSync),
        };
        if self.holding.is_cancelled() {
            return Ok(());
        }
        match self.groups.push(event)? {
            None => Ok(()),
            Some(Captured::Format(event)) => self.format(event).await,
            Some(Captured::Group(group)) => self.group(group).await,
        }
    }

    async fn format(&mut self, event: Bytes) -> Result<(), Fault> {
        if self.format.as_ref() == Some(&event) {
            return Ok(());
        }
        self.format = Some(event.clone());
        info!("a new binlog format enters the log");
        self.propose(DbCommand::Format(event), None).await
    }

    async fn group(&mut self, group: Group) -> Result<(), Fault> {
        let gtid = group.gtid;
        let landing = Landing { gtid, file: group.file, end: group.end };
        if let Some(held) = self.held.pop_front() {
            if held != gtid {
                return Err(Fault::NotTheLog { held, found: gtid });
            }
            let arrival = self.arrivals_tx.send(Arrival::Held(landing)).await;
            return arrival.map_err(|_| Fault::Closed);
        }
        if let Some(last) = self.last {
            if gtid.domain != last.domain {
                return Err(Fault::OutOfOrder { last, next: gtid });
            }
            if gtid.sequence <= last.sequence {
                debug!(%gtid, "the log holds it already");
                return Ok(());
            }
            if std::mem::take(&mut self.resumed) && gtid.sequence != last.sequence + 1 {
                return Err(Fault::OutOfOrder { last, next: gtid });
            }
        }
        self.last = Some(gtid);
        let transaction = Transaction { gtid, flags: group.flags, events: group.events };
        self.propose(DbCommand::Transaction(transaction), Some(landing)).await
    }

    async fn propose(&mut self, command: DbCommand, group: Option<Landing>) -> Result<(), Fault> {
        let bytes = match &command {
            DbCommand::Format(event) => event.len(),
            DbCommand::Transaction(transaction) => transaction.events.len(),
        };
        let share = u32::try_from(bytes.clamp(1, IN_FLIGHT_BYTES_MAX)).expect("clamped");
        let room = self.room.clone().acquire_many_owned(share);
        let permit = tokio::select! {
            () = self.holding.cancelled() => return Ok(()),
            permit = room => permit.map_err(|_| Fault::Closed)?,
        };
        let body = seal(command, bytes).await?;
        let answered = tokio::select! {
            () = self.holding.cancelled() => return Ok(()),
            answered = self.proposer.submit(EntryKind::Db, body, Some(self.term.clone())) => answered,
        };
        let flight = Arrival::Flight(Flight { group, answered, _room: permit });
        self.arrivals_tx.send(flight).await.map_err(|_| Fault::Closed)
    }
}

async fn seal(command: DbCommand, bytes: usize) -> Result<Bytes, Fault> {
    if bytes <= SEAL_INLINE_BYTES_MAX {
        return Ok(command.encode().into());
    }
    let sealed = tokio::task::spawn_blocking(move || command.encode().into());
    sealed.await.map_err(|_| Fault::Seal)
}
