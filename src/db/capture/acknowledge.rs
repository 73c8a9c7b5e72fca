//! Acknowledging what is released: in order, cumulative, and nothing else ever.

use std::collections::VecDeque;

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    AckError, CaptureState, IN_FLIGHT_MAX,
    ingest::{Answer, Arrival, Flight, Landing},
};
use crate::{
    db::{
        gtid::Gtid,
        protocol::{
            client::WriteHalf,
            packet::{WireError, write_payload},
        },
    },
    replicate::propose::{ProposeError, Released},
};

/// The first byte of an acknowledgement.
const ACK_MARK: u8 = 0xef;

/// Acknowledge through a transaction although the term is over.
#[derive(Debug)]
pub(super) struct Order {
    pub through: Gtid,
    pub answer: oneshot::Sender<Result<(), AckError>>,
}

/// Owns the connection's writing side.
///
/// Invariants: `waiting` is in the order of the binlog; outside of an order, a group is
/// acknowledged only by its own answer and those of all before it.
pub(super) struct Acknowledger {
    pub writer: WriteHalf,
    pub arrivals_rx: mpsc::Receiver<Arrival>,
    pub orders_rx: mpsc::Receiver<Order>,
    pub state_tx: watch::Sender<CaptureState>,
    pub holding: CancellationToken,
    pub close: CancellationToken,
    pub acked: Option<Gtid>,
    /// What was ordered last.
    pub through: Option<Gtid>,
}

enum Next {
    Arrival(Option<Arrival>),
    Answer(Result<Released, ProposeError>),
    Order(Order),
}

impl Acknowledger {
    pub async fn run(mut self, reading: JoinHandle<()>) {
        let (close, holding) = (self.close.clone(), self.holding.clone());
        let why = tokio::select! {
            () = close.cancelled() => "it was closed".into(),
            why = self.serve() => why,
        };
        let lost = !holding.is_cancelled();
        close.cancel();
        // Its arrivals must not wait for room that nobody makes.
        self.arrivals_rx.close();
        while self.arrivals_rx.try_recv().is_ok() {}
        let _joined = reading.await;
        let Self { writer, state_tx, acked, .. } = self;
        drop(writer);
        info!(why, lost, "capture ended");
        state_tx.send_replace(CaptureState::Ended { acked, why, lost });
    }

    /// Until the connection is lost; returns why.
    async fn serve(&mut self) -> String {
        let mut waiting = VecDeque::new();
        loop {
            let done = match self.next(&mut waiting).await {
                Next::Arrival(Some(Arrival::Flight(flight))) => {
                    waiting.push_back(flight);
                    self.ack_ordered(&mut waiting).await
                }
                // Nothing was proposed yet that could be on its way before it.
                Next::Arrival(Some(Arrival::Held(landing))) => self.ack(landing).await,
                Next::Arrival(Some(Arrival::Lost(why))) => return why,
                Next::Arrival(None) => return "its reader is gone".into(),
                Next::Answer(Ok(_)) => self.ack_released(&mut waiting).await,
                Next::Answer(Err(error)) => {
                    self.hold(error.to_string());
                    Ok(())
                }
                Next::Order(order) => self.obey(order, &mut waiting).await,
            };
            if let Err(error) = done {
                return error.to_string();
            }
        }
    }

    /// Arrivals before orders: an order covers what was proposed before it.
    async fn next(&mut self, waiting: &mut VecDeque<Flight>) -> Next {
        let running = !self.holding.is_cancelled();
        let room = waiting.len() < IN_FLIGHT_MAX;
        let answer = answer_of(waiting.front_mut());
        tokio::select! {
            biased;
            answer = answer, if running => Next::Answer(answer),
            arrival = self.arrivals_rx.recv(), if room || !running => Next::Arrival(arrival),
            Some(order) = self.orders_rx.recv() => Next::Order(order),
        }
    }

    /// The first one's answer has come: takes all that are released in a row, and sends one ACK.
    async fn ack_released(&mut self, waiting: &mut VecDeque<Flight>) -> Result<(), WireError> {
        let mut newest = waiting.pop_front().and_then(|flight| flight.group);
        let mut failed = None;
        while let Some(flight) = waiting.front_mut() {
            match flight.answered.try_recv() {
                Ok(Ok(_)) => {
                    let landed = waiting.pop_front().and_then(|flight| flight.group);
                    newest = landed.or(newest);
                }
                Ok(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                Err(oneshot::error::TryRecvError::Empty) => break,
                Err(oneshot::error::TryRecvError::Closed) => {
                    failed = Some(ProposeError::Indeterminate);
                    break;
                }
            }
        }
        if let Some(landing) = newest {
            self.ack(landing).await?;
        }
        if let Some(error) = failed {
            self.hold(error.to_string());
        }
        Ok(())
    }

    async fn obey(
        &mut self,
        order: Order,
        waiting: &mut VecDeque<Flight>,
    ) -> Result<(), WireError> {
        self.hold("its term is over".into());
        let asked = order.through;
        let captured = waiting.iter().filter_map(|flight| flight.group.as_ref());
        let other = captured
            .map(|group| group.gtid)
            .find(|gtid| gtid.sequence == asked.sequence && *gtid != asked);
        if let Some(captured) = other {
            let _gone = order.answer.send(Err(AckError::Other { asked, captured }));
            return Ok(());
        }
        self.through = Some(asked);
        let done = self.ack_ordered(waiting).await;
        if done.is_ok() {
            let _gone = order.answer.send(Ok(()));
        }
        done
    }

    /// Acknowledges what an order covers; a group may still arrive after the order.
    async fn ack_ordered(&mut self, waiting: &mut VecDeque<Flight>) -> Result<(), WireError> {
        let Some(through) = self.through else { return Ok(()) };
        let mut newest = None;
        while waiting.front().is_some_and(|flight| covered(flight, through)) {
            let landed = waiting.pop_front().and_then(|flight| flight.group);
            newest = landed.or(newest);
        }
        match newest {
            Some(landing) => self.ack(landing).await,
            None => Ok(()),
        }
    }

    /// `ef`, position u64, file name; the packet's sequence number is zero.
    async fn ack(&mut self, landing: Landing) -> Result<(), WireError> {
        let mut payload = vec![ACK_MARK];
        payload.extend_from_slice(&landing.end.to_le_bytes());
        payload.extend_from_slice(landing.file.as_bytes());
        write_payload(&mut self.writer, 0, &payload).await?;
        self.acked = Some(landing.gtid);
        let now = self.acked;
        self.state_tx.send_modify(|state| match state {
            CaptureState::Running { acked } | CaptureState::Holding { acked, .. } => *acked = now,
            CaptureState::Ended { .. } => {}
        });
        Ok(())
    }

    fn hold(&mut self, why: String) {
        if self.holding.is_cancelled() {
            return;
        }
        self.holding.cancel();
        info!(why, "the capture's epoch is over");
        self.state_tx.send_replace(CaptureState::Holding { acked: self.acked, why });
    }
}

fn covered(flight: &Flight, through: Gtid) -> bool {
    flight.group.as_ref().is_none_or(|group| group.gtid.sequence <= through.sequence)
}

async fn answer_of(flight: Option<&mut Flight>) -> Result<Released, ProposeError> {
    match flight {
        Some(flight) => wait(&mut flight.answered).await,
        None => std::future::pending().await,
    }
}

async fn wait(answered: &mut Answer) -> Result<Released, ProposeError> {
    answered.await.unwrap_or(Err(ProposeError::Indeterminate))
}
