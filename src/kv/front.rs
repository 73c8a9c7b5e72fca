//! The KV's front on one node: commands to the log and their results back, and how fresh a read is.
//!
//! ```text
//! command ─▶ propose ─▶ released at LSN n ─▶ await applied ≥ n ─▶ outcome of n ─▶ answer
//! read    ─▶ (session: await the LSN it names │ linearizable: read index, await it) ─▶ state store
//! ```

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};

use super::{
    command::KvCommand,
    error::{KvError, Rejection},
    limits::{REQUESTS_WAITING_MAX, WATCHES_MAX},
    machine::invalid,
    outcome::KvOutcome,
    read_index,
    reader::{KeyRange, KvReader},
    watch::Watch,
};
use crate::{
    apply::{Outcome, Outcomes, Refusal, SessionOutcome, sessions::SessionCommand},
    log::{entry::EntryKind, watermark::Watermark},
    replicate::{
        propose::{Proposer, Released},
        role::RoleView,
    },
    types::{Lsn, RequestId},
};

/// An applied request: it happened, exactly once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied<T> {
    /// The entry at which it was executed; for what it set, the revision.
    pub lsn: Lsn,
    /// The result.
    pub result: T,
    /// Released under an unratified fork.
    pub forced: bool,
    /// It was executed by an earlier attempt; this one only brought the answer.
    pub repeated: bool,
}

/// What the front stands on.
pub struct FrontParts {
    /// Hands commands to the local replica.
    pub proposer: Proposer,
    /// Leadership.
    pub role: watch::Receiver<RoleView>,
    /// What is applied here.
    pub applied: Watermark,
    /// What became of commands here.
    pub outcomes: Outcomes,
    /// The state.
    pub reader: KvReader,
    /// Where read indexes come from.
    pub reads: mpsc::Sender<read_index::Waiting>,
}

/// The KV of one node. Cheap to clone.
#[derive(Clone)]
pub struct KvFront(Arc<Inner>);

struct Inner {
    parts: FrontParts,
    room: Semaphore,
    watches: Arc<Semaphore>,
}

impl KvFront {
    /// A front on these parts.
    pub fn new(parts: FrontParts) -> Self {
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        Self(Arc::new(Inner { parts, room: Semaphore::new(REQUESTS_WAITING_MAX), watches }))
    }

    /// Leadership, as it changes.
    pub fn role(&self) -> watch::Receiver<RoleView> {
        self.0.parts.role.clone()
    }

    /// The state, as far as it is applied here.
    pub fn reader(&self) -> &KvReader {
        &self.0.parts.reader
    }

    /// What is applied here.
    pub fn applied(&self) -> Lsn {
        self.0.parts.applied.at()
    }

    /// Executes a command; only the leader can.
    ///
    /// Not cancel safe: dropped, the command may still happen.
    pub async fn execute(
        &self,
        command: &KvCommand,
        request: Option<RequestId>,
    ) -> Result<Applied<KvOutcome>, KvError> {
        check(command, request)?;
        let (released, outcome) = self.settled(EntryKind::Kv, command.encode(), request).await?;
        match outcome {
            Outcome::Executed { lsn, result } => {
                let result = KvOutcome::decode(&result).map_err(|e| unknown(&e))?;
                applied(&released, lsn, result)
            }
            Outcome::Refused(refusal) => Err(Rejection::Session(refusal).into()),
            Outcome::Session(_) => Err(unknown(&"another kind of command has its place")),
        }
    }

    /// Opens, keeps or closes a session; only the leader can. Each may be repeated.
    ///
    /// Not cancel safe: dropped, the command may still happen.
    pub async fn session(
        &self,
        command: SessionCommand,
    ) -> Result<Applied<SessionOutcome>, KvError> {
        let (released, outcome) = self.settled(EntryKind::Session, command.encode(), None).await?;
        match outcome {
            Outcome::Session(SessionOutcome::TooMany) => Err(Rejection::TooManySessions.into()),
            Outcome::Session(SessionOutcome::Unknown) => {
                Err(Rejection::Session(Refusal::SessionUnknown).into())
            }
            Outcome::Session(outcome) => {
                let lsn = released.position.lsn;
                Ok(Applied { lsn, result: outcome, forced: released.forced, repeated: false })
            }
            _ => Err(unknown(&"another kind of command has its place")),
        }
    }

    /// Up to where a linearizable read must see; only the leader can say.
    pub async fn read_index(&self) -> Result<Lsn, KvError> {
        let _place = self.place()?;
        let (answer, index) = oneshot::channel();
        // If the task is gone, so is the answer's sender.
        let _stopping = self.0.parts.reads.send(answer).await;
        let leader = || self.0.parts.role.borrow().leader.clone();
        match index.await {
            Ok(Some(index)) => Ok(index),
            _ => Err(Rejection::NotLeader { leader: leader() }.into()),
        }
    }

    /// Waits until this node has applied that entry.
    pub async fn reached(&self, lsn: Lsn) -> Result<(), KvError> {
        let reached = self.0.parts.applied.clone().reached(lsn).await;
        reached.map(drop).map_err(|e| Rejection::Unavailable(e.to_string()).into())
    }

    /// Watches a range of keys from a revision on; from now on if it is zero. The permit is to be
    /// kept as long as the watch.
    pub fn watch(
        &self,
        range: KeyRange,
        from: Lsn,
    ) -> Result<(Watch, tokio::sync::OwnedSemaphorePermit), KvError> {
        let place = self.0.watches.clone().try_acquire_owned();
        let place = place.map_err(|_| Rejection::Overloaded)?;
        let parts = &self.0.parts;
        Ok((Watch::new(parts.reader.clone(), parts.applied.clone(), range, from), place))
    }

    fn place(&self) -> Result<SemaphorePermit<'_>, KvError> {
        self.0.room.try_acquire().map_err(|_| Rejection::Overloaded.into())
    }

    /// Proposes a command and waits until this node has applied it.
    async fn settled(
        &self,
        kind: EntryKind,
        body: Vec<u8>,
        request: Option<RequestId>,
    ) -> Result<(Released, Outcome), KvError> {
        let _place = self.place()?;
        let parts = &self.0.parts;
        let released = parts.proposer.propose_request(kind, body.into(), request).await?;
        let lsn = released.position.lsn;
        parts.applied.clone().reached(lsn).await.map_err(|e| unknown(&e))?;
        if let Some(outcome) = parts.outcomes.at(lsn) {
            return Ok((released, outcome));
        }
        // So much was applied since that its outcome is forgotten; a session remembers.
        let answer = request.map(|request| parts.reader.answer(request)).transpose();
        match answer.map_err(|e| unknown(&e))?.flatten() {
            Some((lsn, result)) => Ok((released, Outcome::Executed { lsn, result })),
            None => Err(unknown(&"its outcome was forgotten before it was asked for")),
        }
    }
}

fn applied<T>(released: &Released, lsn: Lsn, result: T) -> Result<Applied<T>, KvError> {
    let repeated = lsn != released.position.lsn;
    Ok(Applied { lsn, result, forced: released.forced, repeated })
}

/// It is in the log, but what it did is not known here.
fn unknown(why: &dyn std::fmt::Display) -> KvError {
    KvError::Indeterminate(why.to_string())
}

/// What can be refused before it is in the log.
fn check(command: &KvCommand, request: Option<RequestId>) -> Result<(), Rejection> {
    if request.is_some_and(|request| request.number == 0) {
        return Err(Rejection::Invalid("requests are numbered from 1".to_owned()));
    }
    let (key, value) = match command {
        KvCommand::Put { key, value, .. } => (key, &value[..]),
        KvCommand::CompareAndSet { key, value, .. } => {
            (key, value.as_ref().map_or(&[][..], |value| &value[..]))
        }
        KvCommand::Delete { key } => (key, &[][..]),
        _ => return Ok(()),
    };
    invalid(key, value).map_or(Ok(()), |refusal| Err(Rejection::Command(refusal)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apply::SessionAnswerV1,
        log::watermark::watermark,
        replicate::propose::{Proposal, ProposeError},
        store::{
            Batch, Durability, Engine, MemoryEngine,
            codec::{self, Compress},
            keys,
        },
        types::Position,
    };

    const REQUEST: RequestId = RequestId { session: [7; 16], number: 3 };

    /// A front whose proposals are released at LSN 9, which is applied, though its outcome is
    /// forgotten; the session remembers one answer, of LSN 5.
    fn front(engine: &MemoryEngine) -> (KvFront, mpsc::Receiver<Proposal>) {
        let (proposer, proposals) = Proposer::channel();
        let mut batch = Batch::default();
        let result = KvOutcome::Put { previous: Lsn(2) }.encode();
        let answer = codec::encode(&SessionAnswerV1 { lsn: 5, result }, Compress::Never);
        let key = keys::session_answer(REQUEST.session, REQUEST.number);
        batch.put(keys::SESSION_ANSWERS, key, answer);
        engine.commit(batch, Durability::Volatile).expect("memory");
        let front = KvFront::new(FrontParts {
            proposer,
            role: watch::channel(RoleView::nobody()).1,
            applied: watermark(Lsn(9)).1,
            outcomes: Outcomes::default(),
            reader: KvReader::new(Arc::new(engine.clone())),
            reads: mpsc::channel(1).0,
        });
        (front, proposals)
    }

    async fn answer(mut proposals: mpsc::Receiver<Proposal>, with: Result<(), ProposeError>) {
        while let Some(proposal) = proposals.recv().await {
            let position = Position { term: None, lsn: Lsn(9) };
            let released = Released { position, first: Lsn(9), forced: true };
            proposal.answer.send(with.clone().map(|()| released)).expect("it waits");
        }
    }

    fn put(key: &'static str) -> KvCommand {
        KvCommand::Put { key: key.into(), value: "v".into(), lease: None }
    }

    #[tokio::test]
    async fn a_forgotten_outcome_is_the_sessions_answer_or_indeterminate() {
        let (front, proposals) = front(&MemoryEngine::new());
        let log = tokio::spawn(answer(proposals, Ok(())));
        let done = front.execute(&put("k"), Some(REQUEST)).await.expect("the session remembers");
        let result = KvOutcome::Put { previous: Lsn(2) };
        assert_eq!(done, Applied { lsn: Lsn(5), result, forced: true, repeated: true });
        let forgotten = front.execute(&put("k"), None).await;
        assert!(matches!(forgotten, Err(KvError::Indeterminate(_))), "{forgotten:?}");
        let refused = front.execute(&put(""), None).await;
        assert!(matches!(refused, Err(KvError::Rejected(Rejection::Command(_)))), "{refused:?}");
        drop(front);
        log.await.expect("joins");
    }

    #[tokio::test]
    async fn what_the_log_says_of_a_proposal_is_told_apart() {
        for (said, rejected) in [
            (ProposeError::NotLeader { leader: None }, true),
            (ProposeError::TermOver, true),
            (ProposeError::Overloaded, true),
            (ProposeError::Indeterminate, false),
        ] {
            let (front, proposals) = front(&MemoryEngine::new());
            let log = tokio::spawn(answer(proposals, Err(said.clone())));
            match front.execute(&put("k"), Some(REQUEST)).await {
                Err(KvError::Rejected(rejection)) => assert!(rejected && rejection.may_retry()),
                Err(KvError::Indeterminate(_)) => assert!(!rejected, "{said:?}"),
                Ok(done) => panic!("{said:?}: {done:?}"),
            }
            drop(front);
            log.await.expect("joins");
        }
    }
}
