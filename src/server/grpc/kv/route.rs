//! A call that only the leader can answer: here, or there, or again after a while.

use std::{future::Future, time::Duration};

use ::metrics::counter;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Request, Response, Status};

use super::{
    error::{details, status},
    leader::{FORWARDED, LeaderClient, Leaders},
};
use crate::{
    kv::{KvError, KvFront, Rejection},
    metrics,
    types::NodeId,
    wire::kv_error::Code,
};

/// How long a call may look for a leader and wait for its answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// How long it waits for news of another leader before it tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What may be done with a call whose answer was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// Send it again: it changes nothing.
    Read,
    /// Send it again: it is executed once however often it comes.
    Safe,
    /// Say that it may have happened.
    Never,
}

/// Answers calls here or at the leader.
pub struct Router<'a> {
    front: &'a KvFront,
    leaders: &'a Leaders,
    forwarded: bool,
    deadline: Instant,
}

impl<'a> Router<'a> {
    /// A router for that call.
    pub fn new<Q>(front: &'a KvFront, leaders: &'a Leaders, call: &Request<Q>) -> Self {
        let forwarded = call.metadata().contains_key(FORWARDED);
        Self { front, leaders, forwarded, deadline: Instant::now() + ANSWER_WITHIN }
    }

    /// When the caller must have an answer.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Executes the call where the lead is. While nobody leads, or after a lost answer of a call that
    /// may be repeated, it tries again until the deadline.
    pub async fn at_leader<Q, A, L, LF, R, RF>(
        &self,
        repeat: Repeat,
        call: Q,
        here: L,
        there: R,
    ) -> Result<A, Status>
    where
        Q: Clone,
        L: Fn(Q) -> LF,
        LF: Future<Output = Result<A, KvError>>,
        R: Fn(LeaderClient, Q) -> RF,
        RF: Future<Output = Result<Response<A>, Status>>,
    {
        let attempts = async {
            let (mut role, mut lost) = (self.front.role(), false);
            loop {
                let view = role.borrow_and_update().clone();
                let attempt = async {
                    match view.leader.clone() {
                        _ if view.leads() => here(call.clone()).await.map_err(|e| self.status(&e)),
                        Some(leader) if !self.forwarded => {
                            self.forward(&leader, |client| there(client, call.clone())).await
                        }
                        leader => Err(self.status(&Rejection::NotLeader { leader }.into())),
                    }
                };
                let failed = match timeout_at(self.deadline, attempt).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(failed)) => failed,
                    Err(_) => return Err(self.status(&overdue(repeat))),
                };
                let past = Instant::now() + AGAIN_AFTER >= self.deadline;
                lost |= repeat != Repeat::Read && code_of(&failed) == Some(Code::Indeterminate);
                if self.forwarded || past || !try_again(&failed, repeat) {
                    return Err(self.last_word(failed, repeat, lost));
                }
                // Either way it is tried again.
                let _news = timeout(AGAIN_AFTER, role.changed()).await;
            }
        };
        let answer = attempts.await;
        if !self.forwarded {
            count(&answer);
        }
        answer
    }

    /// What the caller hears of the last attempt. If the answer of one before it was lost, only a
    /// refusal that every attempt would have met says that nothing happened.
    fn last_word(&self, failed: Status, repeat: Repeat, lost: bool) -> Status {
        match code_of(&failed) {
            Some(Code::Indeterminate) if repeat == Repeat::Read => {
                self.status(&Rejection::Unavailable(failed.message().to_owned()).into())
            }
            Some(Code::Indeterminate | Code::Invalid | Code::LeaseUnknown | Code::LeaseExists) => {
                failed
            }
            _ if lost => {
                let what = format!("an answer was lost, and then: {}", failed.message());
                self.status(&KvError::Indeterminate(what))
            }
            _ => failed,
        }
    }

    /// An error as a status.
    pub fn status(&self, error: &KvError) -> Status {
        status(error, |node| self.leaders.address(node))
    }

    async fn forward<A, F>(
        &self,
        leader: &NodeId,
        there: impl Fn(LeaderClient) -> F,
    ) -> Result<A, Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let client = self.leaders.client(leader).await;
        let client = client.map_err(|rejection| self.status(&rejection.into()))?;
        let answer = there(client).await;
        answer.map(Response::into_inner).map_err(|failed| {
            if details(&failed).is_some() {
                return failed;
            }
            self.leaders.forget(leader);
            self.status(&lost(leader, &failed))
        })
    }
}

/// A failure without our details came from the way there or back, or from the door.
fn lost(leader: &NodeId, failed: &Status) -> KvError {
    let what = failed.message().to_owned();
    match failed.code() {
        tonic::Code::Unauthenticated
        | tonic::Code::PermissionDenied
        | tonic::Code::Unimplemented => {
            Rejection::LeaderUnreachable { leader: leader.clone(), what }.into()
        }
        _ => KvError::Indeterminate(format!("the answer of {leader} was lost: {what}")),
    }
}

fn overdue(repeat: Repeat) -> KvError {
    let what = format!("no answer within {ANSWER_WITHIN:?}");
    match repeat {
        Repeat::Read => Rejection::Unavailable(what).into(),
        Repeat::Safe | Repeat::Never => KvError::Indeterminate(what),
    }
}

fn count<A>(answer: &Result<A, Status>) {
    let answer = match answer {
        Ok(_) => "applied",
        Err(failed) if code_of(failed) == Some(Code::Indeterminate) => "indeterminate",
        Err(_) => "rejected",
    };
    counter!(metrics::KV_CALLS, "answer" => answer).increment(1);
}

fn try_again(failed: &Status, repeat: Repeat) -> bool {
    match code_of(failed) {
        Some(Code::NotLeader | Code::LeaderUnreachable) => true,
        Some(Code::Indeterminate) => repeat != Repeat::Never,
        _ => false,
    }
}

fn code_of(failed: &Status) -> Option<Code> {
    details(failed).map(|error| error.code())
}
