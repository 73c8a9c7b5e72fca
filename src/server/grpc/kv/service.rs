//! The KV's calls, one by one.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use tokio::time::timeout_at;
use tonic::{Request, Response, Status, service::interceptor::InterceptedService};

use super::{
    convert,
    error::failed,
    leader::Leaders,
    route::{Repeat, Router},
};
use crate::{
    apply::sessions::SessionCommand,
    clock,
    config::Secret,
    kv::{
        Applied, KvError, KvFront, Rejection,
        command::{KvCommand, LeaseId},
        limits::RANGE_PAIRS_MAX,
        outcome::KvOutcome,
        reader::{HistoryError, KeyRange},
        watch::{Watch, WatchError},
    },
    server::grpc::TokenCheck,
    types::Lsn,
    wire::{
        self,
        kv_server::{Kv, KvServer},
    },
};

/// The largest message: a key, a value and some more; or a page and the largest pair.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Answers the KV's calls.
pub struct KvService {
    front: KvFront,
    leaders: Arc<Leaders>,
}

/// The service, for those who bring the API's token, or the nodes'.
pub fn kv_service(
    front: KvFront,
    leaders: Arc<Leaders>,
    token: Secret,
) -> InterceptedService<KvServer<KvService>, TokenCheck> {
    let check = TokenCheck::new(token).or(leaders.token().clone());
    let server = KvServer::new(KvService { front, leaders })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    InterceptedService::new(server, check)
}

impl KvService {
    fn router<Q>(&self, call: &Request<Q>) -> Router<'_> {
        Router::new(&self.front, &self.leaders, call)
    }

    async fn execute(
        &self,
        command: KvCommand,
        request: Option<wire::KvRequestId>,
    ) -> Result<Applied<KvOutcome>, KvError> {
        self.front.execute(&command, convert::request(request)?).await
    }

    /// Waits until this node may answer a read; returns what it has applied by then.
    async fn fresh<Q>(
        &self,
        call: &Request<Q>,
        consistency: wire::KvConsistency,
        after: u64,
    ) -> Result<Lsn, Status> {
        let router = self.router(call);
        let wanted = match consistency {
            wire::KvConsistency::Stale => Lsn::ZERO,
            wire::KvConsistency::Session => Lsn(after),
            _ => self.read_index_by(&router).await?,
        };
        match timeout_at(router.deadline(), self.front.reached(wanted)).await {
            Ok(reached) => reached.map_err(|e| router.status(&e))?,
            Err(_) => {
                let applied = self.front.applied();
                return Err(router.status(&Rejection::Behind { wanted, applied }.into()));
            }
        }
        Ok(self.front.applied())
    }

    async fn read_index_by(&self, router: &Router<'_>) -> Result<Lsn, Status> {
        let index = router.at_leader(
            Repeat::Read,
            wire::KvReadIndexRequest {},
            |_| async {
                let index = self.front.read_index().await?;
                Ok(wire::KvReadIndexResponse { revision: index.0 })
            },
            |mut client, call| async move { client.read_index(call).await },
        );
        Ok(Lsn(index.await?.revision))
    }
}

/// A request with an ID is executed once, however often it is sent.
fn repeat(request: &Option<wire::KvRequestId>) -> Repeat {
    if request.is_some() { Repeat::Safe } else { Repeat::Never }
}

type EventStream = Pin<Box<dyn Stream<Item = Result<wire::KvWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for KvService {
    async fn put(
        &self,
        call: Request<wire::KvPutRequest>,
    ) -> Result<Response<wire::KvPutResponse>, Status> {
        let router = self.router(&call);
        let call = call.into_inner();
        let answer = router.at_leader(
            repeat(&call.request),
            call,
            |call| async move {
                let lease = convert::lease(call.lease_id);
                let command = KvCommand::Put { key: call.key, value: call.value, lease };
                convert::put(self.execute(command, call.request).await?)
            },
            |mut client, call| async move { client.put(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn delete(
        &self,
        call: Request<wire::KvDeleteRequest>,
    ) -> Result<Response<wire::KvDeleteResponse>, Status> {
        let router = self.router(&call);
        let call = call.into_inner();
        let answer = router.at_leader(
            repeat(&call.request),
            call,
            |call| async move {
                let command = KvCommand::Delete { key: call.key };
                convert::delete(self.execute(command, call.request).await?)
            },
            |mut client, call| async move { client.delete(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn compare_and_set(
        &self,
        call: Request<wire::KvCompareAndSetRequest>,
    ) -> Result<Response<wire::KvCompareAndSetResponse>, Status> {
        let router = self.router(&call);
        let call = call.into_inner();
        let answer = router.at_leader(
            repeat(&call.request),
            call,
            |call| async move {
                let command = KvCommand::CompareAndSet {
                    key: call.key,
                    expected: Lsn(call.expected_revision),
                    value: call.value,
                    lease: convert::lease(call.lease_id),
                };
                convert::compare_and_set(self.execute(command, call.request).await?)
            },
            |mut client, call| async move { client.compare_and_set(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn get(
        &self,
        call: Request<wire::KvGetRequest>,
    ) -> Result<Response<wire::KvGetResponse>, Status> {
        let read = call.get_ref();
        let revision = self.fresh(&call, read.consistency(), read.after_revision).await?;
        let found = self.front.reader().get(&read.key);
        let found = found.map_err(|e| self.router(&call).status(&failed(&e)))?;
        let pair = found.map(convert::pair);
        Ok(Response::new(wire::KvGetResponse { pair, revision: revision.0 }))
    }

    async fn range(
        &self,
        call: Request<wire::KvRangeRequest>,
    ) -> Result<Response<wire::KvRangeResponse>, Status> {
        let read = call.get_ref();
        let revision = self.fresh(&call, read.consistency(), read.after_revision).await?;
        let range = KeyRange { from: read.from.clone(), to: read.to.clone() };
        let limit = match read.limit as usize {
            limit @ 1..=RANGE_PAIRS_MAX => limit,
            _ => RANGE_PAIRS_MAX,
        };
        let found = self.front.reader().range(&range, limit);
        let (pairs, next) = found.map_err(|e| self.router(&call).status(&failed(&e)))?;
        Ok(Response::new(wire::KvRangeResponse {
            pairs: pairs.into_iter().map(convert::pair).collect(),
            next: next.unwrap_or_default(),
            revision: revision.0,
        }))
    }

    type WatchStream = EventStream;

    async fn watch(
        &self,
        call: Request<wire::KvWatchRequest>,
    ) -> Result<Response<EventStream>, Status> {
        let router = self.router(&call);
        let asked = call.get_ref();
        let range = KeyRange { from: asked.from.clone(), to: asked.to.clone() };
        let from = Lsn(asked.from_revision);
        let opened = self.front.watch(range, from);
        let (watch, place) = opened.map_err(|e| router.status(&e))?;
        let compacted = self.front.reader().compacted();
        let compacted = compacted.map_err(|e| router.status(&failed(&e)))?;
        if watch.from() <= compacted {
            return Err(router.status(&Rejection::Compacted { first: compacted.next() }.into()));
        }
        let begun = wire::KvWatchResponse { events: Vec::new(), next_revision: watch.from().0 };
        let events = futures::stream::unfold(Some((watch, place)), |open| async {
            let (mut watch, place) = open?;
            match changes(&mut watch).await {
                Ok(message) => Some((Ok(message), Some((watch, place)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let begun = futures::stream::iter([Ok(begun)]);
        Ok(Response::new(Box::pin(futures::StreamExt::chain(begun, events))))
    }

    async fn lease_grant(
        &self,
        call: Request<wire::KvLeaseGrantRequest>,
    ) -> Result<Response<wire::KvLeaseGrantResponse>, Status> {
        let router = self.router(&call);
        let mut call = call.into_inner();
        if call.lease_id == 0 {
            // Chosen here, so that all attempts of this call mean one lease.
            call.lease_id = getrandom::u64().map_err(|e| Status::internal(e.to_string()))?.max(1);
        }
        let answer = router.at_leader(
            Repeat::Safe,
            call,
            |call| async move {
                let (lease_id, ttl_ms) = (call.lease_id, call.ttl_ms);
                let lease = LeaseId(lease_id);
                let command = KvCommand::LeaseGrant { lease, ttl_ms, now_ms: clock::unix_ms() };
                let done = self.execute(command, call.request).await?;
                let expires_unix_ms = convert::lease_deadline(&done)?;
                let applied = convert::applied(&done);
                Ok(wire::KvLeaseGrantResponse { applied, lease_id, expires_unix_ms })
            },
            |mut client, call| async move { client.lease_grant(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn lease_keep_alive(
        &self,
        call: Request<wire::KvLeaseKeepAliveRequest>,
    ) -> Result<Response<wire::KvLeaseKeepAliveResponse>, Status> {
        let router = self.router(&call);
        let answer = router.at_leader(
            Repeat::Safe,
            call.into_inner(),
            |call| async move {
                let lease = LeaseId(call.lease_id);
                let command = KvCommand::LeaseKeepAlive { lease, now_ms: clock::unix_ms() };
                let done = self.execute(command, call.request).await?;
                let expires_unix_ms = convert::lease_deadline(&done)?;
                let applied = convert::applied(&done);
                Ok(wire::KvLeaseKeepAliveResponse { applied, expires_unix_ms })
            },
            |mut client, call| async move { client.lease_keep_alive(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn lease_revoke(
        &self,
        call: Request<wire::KvLeaseRevokeRequest>,
    ) -> Result<Response<wire::KvLeaseRevokeResponse>, Status> {
        let router = self.router(&call);
        let answer = router.at_leader(
            Repeat::Safe,
            call.into_inner(),
            |call| async move {
                let command = KvCommand::LeaseRevoke { lease: LeaseId(call.lease_id) };
                let done = self.execute(command, call.request).await?;
                let removed_keys = convert::lease_keys(&done)?;
                let applied = convert::applied(&done);
                Ok(wire::KvLeaseRevokeResponse { applied, removed_keys })
            },
            |mut client, call| async move { client.lease_revoke(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn session_open(
        &self,
        call: Request<wire::KvSessionOpenRequest>,
    ) -> Result<Response<wire::KvSessionOpenResponse>, Status> {
        let router = self.router(&call);
        let mut call = call.into_inner();
        if call.session.is_empty() {
            // Chosen here, so that all attempts of this call mean one session.
            let mut session = vec![0; 16];
            getrandom::fill(&mut session).map_err(|e| Status::internal(e.to_string()))?;
            call.session = session.into();
        }
        let answer = router.at_leader(
            Repeat::Safe,
            call,
            |call| async move {
                let (session, ttl_ms) = (convert::session(&call.session)?, call.ttl_ms);
                let command = SessionCommand::Open { session, ttl_ms, now_ms: clock::unix_ms() };
                let done = self.front.session(command).await?;
                let expires_unix_ms = convert::session_deadline(&done);
                let (applied, session) = (convert::applied(&done), call.session);
                Ok(wire::KvSessionOpenResponse { applied, session, expires_unix_ms })
            },
            |mut client, call| async move { client.session_open(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn session_keep_alive(
        &self,
        call: Request<wire::KvSessionKeepAliveRequest>,
    ) -> Result<Response<wire::KvSessionKeepAliveResponse>, Status> {
        let router = self.router(&call);
        let answer = router.at_leader(
            Repeat::Safe,
            call.into_inner(),
            |call| async move {
                let (session, answered) = (convert::session(&call.session)?, call.answered);
                let now_ms = clock::unix_ms();
                let command = SessionCommand::KeepAlive { session, answered, now_ms };
                let done = self.front.session(command).await?;
                let expires_unix_ms = convert::session_deadline(&done);
                let applied = convert::applied(&done);
                Ok(wire::KvSessionKeepAliveResponse { applied, expires_unix_ms })
            },
            |mut client, call| async move { client.session_keep_alive(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn session_close(
        &self,
        call: Request<wire::KvSessionCloseRequest>,
    ) -> Result<Response<wire::KvSessionCloseResponse>, Status> {
        let router = self.router(&call);
        let answer = router.at_leader(
            Repeat::Safe,
            call.into_inner(),
            |call| async move {
                let session = convert::session(&call.session)?;
                let command = SessionCommand::Close { session, now_ms: clock::unix_ms() };
                let done = self.front.session(command).await?;
                Ok(wire::KvSessionCloseResponse { applied: convert::applied(&done) })
            },
            |mut client, call| async move { client.session_close(call).await },
        );
        answer.await.map(Response::new)
    }

    async fn read_index(
        &self,
        call: Request<wire::KvReadIndexRequest>,
    ) -> Result<Response<wire::KvReadIndexResponse>, Status> {
        let index = self.read_index_by(&self.router(&call)).await?;
        Ok(Response::new(wire::KvReadIndexResponse { revision: index.0 }))
    }
}

/// The next message of a watch.
async fn changes(watch: &mut Watch) -> Result<wire::KvWatchResponse, Status> {
    let nowhere = |_: &crate::types::NodeId| None;
    match watch.next().await {
        Ok(page) => Ok(wire::KvWatchResponse {
            events: page.events.into_iter().map(convert::event).collect(),
            next_revision: page.next.0.0,
        }),
        Err(error) => {
            let rejection = match error {
                WatchError::History(HistoryError::Compacted { first }) => {
                    Rejection::Compacted { first }
                }
                other => Rejection::Unavailable(other.to_string()),
            };
            Err(super::error::status(&rejection.into(), nowhere))
        }
    }
}
