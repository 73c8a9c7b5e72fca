//! Calls that a node passes on, and whose answer is lost on the way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use prost::Message as _;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tonic::{Code, Request, Status, transport::Endpoint};
use wolfscale::{
    apply::Outcomes,
    config::Secret,
    kv::{FrontParts, KvFront, reader::KvReader},
    log::watermark::{WatermarkSetter, watermark},
    replicate::{
        propose::Proposer,
        role::{Role, RoleView},
    },
    server::grpc::{
        self,
        kv::{Leaders, kv_service},
    },
    store::MemoryEngine,
    tasks::{OnEnd, Tasks},
    types::{Lsn, NodeId},
    wire::{self, kv_client::KvClient, kv_error},
};

use crate::ports::Port;

const TOKEN: &str = "a token of many bytes";
const SECRET: &str = "the secret of a cluster";

/// The KV of a node that follows n1, at an address where something else may listen.
struct Follower {
    address: SocketAddr,
    tasks: Tasks,
    _role_tx: watch::Sender<RoleView>,
    _applied: WatermarkSetter,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn follower_of(leader: SocketAddr, secret: &str) -> Follower {
    let n1: NodeId = "n1".parse().expect("valid");
    let follows = RoleView { role: Role::Follower, leader: Some(n1), ..RoleView::nobody() };
    let (role_tx, role) = watch::channel(follows);
    let (setter, applied) = watermark(Lsn::ZERO);
    let front = KvFront::new(FrontParts {
        proposer: Proposer::channel().0,
        role,
        applied,
        outcomes: Outcomes::default(),
        reader: KvReader::new(Arc::new(MemoryEngine::new())),
        reads: mpsc::channel(1).0,
    });
    let address_of = move |_: &NodeId| Some(leader.to_string());
    let leaders = Leaders::new(Arc::new(address_of), &Secret::new(secret));
    let service = kv_service(front, Arc::new(leaders), Secret::new(TOKEN));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    let (tasks, routes) = (Tasks::default(), tonic::service::Routes::new(service));
    let stop = tasks.stopping();
    tasks.spawn("grpc", OnEnd::Ignore, async move {
        grpc::serve(listener, routes, stop).await.expect("serves");
    });
    Follower { address, tasks, _role_tx: role_tx, _applied: setter }
}

impl Follower {
    async fn put(&self, request: Option<wire::KvRequestId>) -> Result<(), Status> {
        let (key, value) = ("k".into(), "v".into());
        let put = wire::KvPutRequest { key, value, lease_id: 0, request };
        self.client().await.put(admitted(put)).await.map(drop)
    }

    async fn get(&self, consistency: wire::KvConsistency) -> Result<(), Status> {
        let (key, consistency) = ("k".into(), consistency.into());
        let get = wire::KvGetRequest { key, consistency, after_revision: 0 };
        self.client().await.get(admitted(get)).await.map(drop)
    }

    async fn client(&self) -> KvClient<tonic::transport::Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        KvClient::new(endpoint.expect("an address").connect().await.expect("connects"))
    }
}

fn admitted<Q>(call: Q) -> Request<Q> {
    let mut call = Request::new(call);
    let bearer = format!("Bearer {TOKEN}").parse().expect("text");
    call.metadata_mut().insert("authorization", bearer);
    call
}

fn error(failed: &Status) -> wire::KvError {
    let details = wire::KvStatusDetails::decode(failed.details()).expect("details");
    wire::KvError::decode(details.details[0].value.clone()).expect("a KvError")
}

/// Takes calls and breaks their connections without an answer; counts the calls.
async fn breaks_connections(tasks: &Tasks) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (address, count) = (listener.local_addr().expect("is bound"), Arc::default());
    let counted: Arc<AtomicUsize> = Arc::clone(&count);
    tasks.spawn("broken leader", OnEnd::Ignore, async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            // A client connects also without a call to send.
            counted.fetch_add(usize::from(call_comes(&mut connection).await), Ordering::SeqCst);
        }
    });
    (address, count)
}

/// Reads HTTP/2 frames until one begins a call.
async fn call_comes(connection: &mut TcpStream) -> bool {
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    let mut preface = [0; PREFACE];
    if connection.read_exact(&mut preface).await.is_err() {
        return false;
    }
    let mut header = [0; 9];
    while connection.read_exact(&mut header).await.is_ok() {
        if header[3] == HEADERS {
            return true;
        }
        let mut body = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        if connection.read_exact(&mut body).await.is_err() {
            return false;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_indeterminate_and_only_what_may_be_repeated_is_sent_again() {
    let tasks = Tasks::default();
    let (leader, attempts) = breaks_connections(&tasks).await;
    let follower = follower_of(leader, SECRET).await;
    let sent = || attempts.swap(0, Ordering::SeqCst);

    let failed = follower.put(None).await.expect_err("lost");
    let what = error(&failed);
    assert_eq!((failed.code(), what.code()), (Code::Unknown, kv_error::Code::Indeterminate));
    assert_eq!((what.happened(), what.may_retry), (kv_error::Happened::Maybe, true));
    assert_eq!(sent(), 1, "it must not happen twice");

    let request = wire::KvRequestId { session: vec![7; 16].into(), number: 1 };
    let failed = follower.put(Some(request)).await.expect_err("lost");
    assert_eq!(error(&failed).happened(), kv_error::Happened::Maybe);
    let count = sent();
    assert!(count > 5, "it is the same request however often it is sent: {count}");

    let failed = follower.get(wire::KvConsistency::Linearizable).await.expect_err("lost");
    assert_eq!(failed.code(), Code::Unavailable);
    assert_eq!(error(&failed).happened(), kv_error::Happened::No, "a read changes nothing");
    assert!(sent() > 5);
    follower.get(wire::KvConsistency::Stale).await.expect("needs no leader");
    assert_eq!(sent(), 0);
    tasks.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_cannot_be_reached_is_named_and_nothing_happened() {
    let port = Port::free();
    let nobody = SocketAddr::from(([127, 0, 0, 1], port.number()));
    let failed = follower_of(nobody, SECRET).await.put(None).await.expect_err("nobody is there");
    let what = error(&failed);
    assert_eq!(
        (failed.code(), what.code()),
        (Code::Unavailable, kv_error::Code::LeaderUnreachable)
    );
    assert_eq!((what.happened(), what.may_retry), (kv_error::Happened::No, true));
    assert_eq!((what.leader, what.leader_address), ("n1".to_owned(), nobody.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_passed_on_once_and_only_among_nodes_of_one_secret() {
    let tasks = Tasks::default();
    let (third, attempts) = breaks_connections(&tasks).await;
    // It does not lead either, and knows somebody who might.
    let second = follower_of(third, SECRET).await;
    let first = follower_of(second.address, SECRET).await;
    let failed = first.put(None).await.expect_err("nobody leads");
    assert_eq!(error(&failed).code(), kv_error::Code::NotLeader, "the second let it in");
    assert_eq!(attempts.load(Ordering::SeqCst), 0, "and did not pass it on");

    let stranger = follower_of(second.address, "the secret of another cluster").await;
    let failed = stranger.put(None).await.expect_err("not admitted");
    let what = error(&failed);
    assert_eq!(what.code(), kv_error::Code::LeaderUnreachable);
    assert!(what.message.contains("token"), "{}", what.message);
    tasks.stop();
}
