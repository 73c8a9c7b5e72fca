//! Sessions, applied: a request of a session is executed at most once, and its answer is kept
//! until the client says that it has it.
//!
//! ```text
//! entry with a request ID ─▶ session there? ─▶ answer kept? ─▶ execute, keep the answer
//!                              │ no: refused     │ yes: that answer, nothing is executed
//! ```
//!
//! *Log time* is the highest proposer's time of all session commands so far; it never goes back.
//! What is due by it expires before a command acts. All of this is state like any other: every node
//! has the same sessions and answers at the same LSN.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::{
    ApplyError, Command, Outcome, Refusal, SessionOutcome, View, sessions::SessionCommand,
};
use crate::{
    store::{StoreError, codec::Stored, keys},
    types::{Lsn, RequestId},
};

/// How many sessions there may be. Part of what is applied: a change of it is a change of the
/// commands' meaning.
pub const SESSIONS_MAX: u64 = 10_000;
/// How many answers a session keeps; likewise part of what is applied.
pub const ANSWERS_PER_SESSION_MAX: u32 = 1024;
/// The bounds of a session's time to live, in milliseconds; others are moved to the nearest.
pub const SESSION_TTL_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// How many rows are looked at in one step.
const STEP: usize = 256;

/// Applies a session command.
pub(super) fn apply_session(
    command: &Command,
    state: &mut View<'_>,
) -> Result<SessionOutcome, ApplyError> {
    let decoded = SessionCommand::decode(&command.body);
    let lsn = command.at.lsn;
    let decoded = decoded.map_err(|source| ApplyError::Command { lsn, source })?;
    let now_ms = advance(state, decoded.now_ms())?;
    Ok(match decoded {
        SessionCommand::Open { session, ttl_ms, .. } => open(state, session, ttl_ms, now_ms)?,
        SessionCommand::KeepAlive { session, answered, .. } => {
            keep_alive(state, session, answered, now_ms)?
        }
        SessionCommand::Close { session, .. } => {
            remove(state, session)?;
            SessionOutcome::Closed
        }
    })
}

/// Executes the command unless its request was executed before, or must not be.
pub(super) fn once(
    command: &Command,
    state: &mut View<'_>,
    execute: impl FnOnce(&mut View<'_>) -> Result<Bytes, ApplyError>,
) -> Result<Outcome, ApplyError> {
    let lsn = command.at.lsn;
    let Some(RequestId { session, number }) = command.request else {
        return Ok(Outcome::Executed { lsn, result: execute(state)? });
    };
    let Some(mut record) = state.load::<SessionV1>(keys::SESSIONS, &session)? else {
        return Ok(Outcome::Refused(Refusal::SessionUnknown));
    };
    if number <= record.answered {
        return Ok(Outcome::Refused(Refusal::AnswerForgotten));
    }
    let key = keys::session_answer(session, number);
    if let Some(answer) = state.load::<SessionAnswerV1>(keys::SESSION_ANSWERS, &key)? {
        return Ok(Outcome::Executed { lsn: Lsn(answer.lsn), result: answer.result.into() });
    }
    if record.kept >= ANSWERS_PER_SESSION_MAX {
        return Ok(Outcome::Refused(Refusal::TooManyAnswers));
    }
    let result = execute(state)?;
    record.kept += 1;
    state.store(keys::SESSIONS, session, &record);
    let answer = SessionAnswerV1 { lsn: lsn.0, result: result.to_vec() };
    state.store(keys::SESSION_ANSWERS, key, &answer);
    Ok(Outcome::Executed { lsn, result })
}

/// Moves log time on and ends the sessions that are due; returns log time.
fn advance(state: &mut View<'_>, now_ms: u64) -> Result<u64, StoreError> {
    let clock = state.load::<SessionClockV1>(keys::SESSION_META, keys::CLOCK)?;
    let mut clock = clock.unwrap_or(SessionClockV1 { now_ms: 0, open: 0 });
    if now_ms > clock.now_ms {
        clock.now_ms = now_ms;
        state.store(keys::SESSION_META, keys::CLOCK, &clock);
    }
    let to = keys::deadline(clock.now_ms.saturating_add(1), &[]);
    loop {
        let due = state.scan(keys::SESSION_DEADLINES, &keys::deadline(0, &[]), &to, STEP)?;
        if due.is_empty() {
            return Ok(clock.now_ms);
        }
        for (key, _) in due {
            match keys::deadline_of(&key).and_then(|(_, session)| session.try_into().ok()) {
                Some(session) => remove(state, session)?,
                None => state.delete(keys::SESSION_DEADLINES, key),
            }
        }
    }
}

fn open(
    state: &mut View<'_>,
    session: [u8; 16],
    ttl_ms: u64,
    now_ms: u64,
) -> Result<SessionOutcome, StoreError> {
    // A second opening is the retry of the first: it is a sign of life.
    if state.get(keys::SESSIONS, &session)?.is_some() {
        return keep_alive(state, session, 0, now_ms);
    }
    if count(state, 1)?.is_none() {
        return Ok(SessionOutcome::TooMany);
    }
    let ttl_ms = ttl_ms.clamp(*SESSION_TTL_MS.start(), *SESSION_TTL_MS.end());
    let expires_ms = now_ms.saturating_add(ttl_ms);
    let record = SessionV1 { ttl_ms, expires_ms, answered: 0, kept: 0 };
    state.store(keys::SESSIONS, session, &record);
    state.put(keys::SESSION_DEADLINES, keys::deadline(expires_ms, &session), Bytes::new());
    Ok(SessionOutcome::Open { expires_ms })
}

fn keep_alive(
    state: &mut View<'_>,
    session: [u8; 16],
    answered: u64,
    now_ms: u64,
) -> Result<SessionOutcome, StoreError> {
    let Some(mut record) = state.load::<SessionV1>(keys::SESSIONS, &session)? else {
        return Ok(SessionOutcome::Unknown);
    };
    state.delete(keys::SESSION_DEADLINES, keys::deadline(record.expires_ms, &session));
    record.expires_ms = now_ms.saturating_add(record.ttl_ms);
    if answered > record.answered {
        record.answered = answered;
        let forgotten = forget(state, session, answered.saturating_add(1))?;
        record.kept = record.kept.saturating_sub(forgotten);
    }
    state.store(keys::SESSIONS, session, &record);
    let expires_ms = record.expires_ms;
    state.put(keys::SESSION_DEADLINES, keys::deadline(expires_ms, &session), Bytes::new());
    Ok(SessionOutcome::Open { expires_ms })
}

/// Ends a session, if it is there.
fn remove(state: &mut View<'_>, session: [u8; 16]) -> Result<(), StoreError> {
    let Some(record) = state.load::<SessionV1>(keys::SESSIONS, &session)? else { return Ok(()) };
    forget(state, session, u64::MAX)?;
    state.delete(keys::SESSIONS, session);
    state.delete(keys::SESSION_DEADLINES, keys::deadline(record.expires_ms, &session));
    count(state, -1)?;
    Ok(())
}

/// Forgets a session's answers below that number; returns how many there were.
fn forget(state: &mut View<'_>, session: [u8; 16], below: u64) -> Result<u32, StoreError> {
    let (from, to) = (keys::session_answer(session, 0), keys::session_answer(session, below));
    let rows = state.scan(keys::SESSION_ANSWERS, &from, &to, usize::MAX)?;
    let count = u32::try_from(rows.len()).expect("a session keeps few answers");
    rows.into_iter().for_each(|(key, _)| state.delete(keys::SESSION_ANSWERS, key));
    Ok(count)
}

/// Counts a session in or out; `None` if there is no room for it.
fn count(state: &mut View<'_>, by: i64) -> Result<Option<u64>, StoreError> {
    let clock = state.load::<SessionClockV1>(keys::SESSION_META, keys::CLOCK)?;
    let mut clock = clock.unwrap_or(SessionClockV1 { now_ms: 0, open: 0 });
    let open = clock.open.saturating_add_signed(by);
    if open > SESSIONS_MAX {
        return Ok(None);
    }
    clock.open = open;
    state.store(keys::SESSION_META, keys::CLOCK, &clock);
    Ok(Some(open))
}

/// A session, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct SessionV1 {
    /// How long it lasts without a sign of life, in milliseconds.
    pub ttl_ms: u64,
    /// When it expires, in log time.
    pub expires_ms: u64,
    /// The client has the answers of all requests up to this number.
    pub answered: u64,
    /// How many answers are kept.
    pub kept: u32,
}

impl Stored for SessionV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "session";
}

/// The answer of an executed request, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct SessionAnswerV1 {
    /// The entry at which it was executed.
    pub lsn: u64,
    /// What its state machine returned.
    pub result: Vec<u8>,
}

impl Stored for SessionAnswerV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "answer of a request";
}

/// Log time and the number of sessions, frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct SessionClockV1 {
    /// The highest proposer's time so far, in milliseconds since 1970.
    pub now_ms: u64,
    /// How many sessions are open.
    pub open: u64,
}

impl Stored for SessionClockV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "log time of the sessions";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::entry::EntryKind,
        store::{Durability, Engine, MemoryEngine},
        types::Position,
    };

    const A: [u8; 16] = [0xaa; 16];
    const B: [u8; 16] = [0xbb; 16];

    /// A state, and how often something was executed.
    #[derive(Default)]
    struct World {
        engine: MemoryEngine,
        lsn: u64,
        executed: u64,
    }

    impl World {
        fn command(
            &mut self,
            kind: EntryKind,
            request: Option<RequestId>,
            body: Vec<u8>,
        ) -> Command {
            self.lsn += 1;
            let at = Position { term: None, lsn: Lsn(self.lsn) };
            Command { kind, first: at.lsn, at, request, body: body.into() }
        }

        fn session(&mut self, command: SessionCommand) -> SessionOutcome {
            let command = self.command(EntryKind::Session, None, command.encode());
            let mut view = View::new(&self.engine);
            let outcome = apply_session(&command, &mut view).expect("applies");
            self.engine.commit(view.into_batch(), Durability::Volatile).expect("memory");
            outcome
        }

        fn request(&mut self, session: [u8; 16], number: u64) -> Outcome {
            let request = Some(RequestId { session, number });
            let command = self.command(EntryKind::Kv, request, Vec::new());
            let mut view = View::new(&self.engine);
            let executed = &mut self.executed;
            let outcome = once(&command, &mut view, |_| {
                *executed += 1;
                Ok(executed.to_be_bytes().to_vec().into())
            });
            self.engine.commit(view.into_batch(), Durability::Volatile).expect("memory");
            outcome.expect("applies")
        }

        fn rows(&self) -> usize {
            [keys::SESSIONS, keys::SESSION_ANSWERS, keys::SESSION_DEADLINES]
                .iter()
                .map(|space| {
                    let direction = crate::store::Direction::Forward;
                    let rows = self.engine.scan(*space, &[], &[0xff; 32], direction, usize::MAX);
                    rows.expect("memory").len()
                })
                .sum()
        }
    }

    fn result(outcome: &Outcome) -> (Lsn, u64) {
        match outcome {
            Outcome::Executed { lsn, result } => {
                (*lsn, u64::from_be_bytes(result[..].try_into().expect("8 bytes")))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_executed_once_however_often_it_comes() {
        let mut world = World::default();
        let open = SessionCommand::Open { session: A, ttl_ms: 5_000, now_ms: 100 };
        assert_eq!(world.session(open), SessionOutcome::Open { expires_ms: 5_100 });
        let two = world.request(A, 2);
        let one = world.request(A, 1);
        assert_eq!((result(&two), result(&one)), ((Lsn(2), 1), (Lsn(3), 2)), "in any order");
        for _ in 0..3 {
            assert_eq!(world.request(A, 2), two);
            assert_eq!(world.request(A, 1), one);
        }
        assert_eq!(world.executed, 2);
        assert_eq!(world.session(open), SessionOutcome::Open { expires_ms: 5_100 }, "its retry");
        assert_eq!(world.request(A, 1), one, "opening again forgets nothing");
        assert_eq!(world.request(B, 1), Outcome::Refused(Refusal::SessionUnknown));
        assert_eq!(world.executed, 2);
    }

    #[test]
    fn answers_are_kept_until_the_client_has_them() {
        let mut world = World::default();
        world.session(SessionCommand::Open { session: A, ttl_ms: 5_000, now_ms: 0 });
        for number in 1..=u64::from(ANSWERS_PER_SESSION_MAX) {
            result(&world.request(A, number));
        }
        let next = u64::from(ANSWERS_PER_SESSION_MAX) + 1;
        assert_eq!(world.request(A, next), Outcome::Refused(Refusal::TooManyAnswers));
        let third = world.request(A, 3);
        assert_eq!(result(&third).0, Lsn(4), "retries are answered all the same");
        world.session(SessionCommand::KeepAlive { session: A, answered: 2, now_ms: 10 });
        assert_eq!(world.request(A, 2), Outcome::Refused(Refusal::AnswerForgotten));
        assert_eq!(world.request(A, 3), third);
        result(&world.request(A, next));
        world.session(SessionCommand::KeepAlive { session: A, answered: 1, now_ms: 10 });
        assert_eq!(world.request(A, 2), Outcome::Refused(Refusal::AnswerForgotten), "for good");
    }

    #[test]
    fn sessions_expire_by_the_time_in_the_log() {
        let mut world = World::default();
        world.session(SessionCommand::Open { session: A, ttl_ms: 2_000, now_ms: 1_000 });
        world.session(SessionCommand::Open { session: B, ttl_ms: 9_000, now_ms: 1_000 });
        result(&world.request(A, 1));
        let keep = |session, now_ms| SessionCommand::KeepAlive { session, answered: 0, now_ms };
        assert_eq!(world.session(keep(A, 2_900)), SessionOutcome::Open { expires_ms: 4_900 });
        assert_eq!(
            world.session(keep(A, 10)),
            SessionOutcome::Open { expires_ms: 4_900 },
            "a proposer whose clock is behind does not turn the log's time back"
        );
        world.session(keep(B, 4_899));
        result(&world.request(A, 2));
        world.session(keep(B, 4_900));
        assert_eq!(world.request(A, 2), Outcome::Refused(Refusal::SessionUnknown));
        assert_eq!(world.session(keep(A, 4_901)), SessionOutcome::Unknown);
        assert_eq!(world.executed, 2);
        world.session(SessionCommand::Close { session: B, now_ms: 0 });
        assert_eq!(world.rows(), 0, "nothing is left of them");
    }
}
