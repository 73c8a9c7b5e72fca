//! The admin API and HTTP over real sockets, and `wolfctl` as a process.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use wolfscale::{
    cluster::{
        change::Change,
        membership::{Member, Standing},
    },
    config::Secret,
    db::status::{DbState, DbStatus},
    metrics,
    replicate::role::{Role, RoleView},
    server::{
        backend::{
            AdminBackend, BackendError, ChangeFailed, Configured, Diagnosis, Membership, TakenBack,
        },
        grpc,
        http::{self, Answers},
        status::{Liveness, Marks, MemberStatus, NodeStatus},
    },
    tasks::{OnEnd, Tasks},
    types::{Incarnation, Lsn, Position, Term},
    wire::{self, admin_client::AdminClient},
};

const CLUSTER_SECRET: &str = "0123456789abcdef0123";

struct FakeDatabase;

/// Takes additions at LSN 9; any other change is for the leader.
struct FakeMembership;

#[tonic::async_trait]
impl Membership for FakeMembership {
    async fn change(&self, change: Change) -> Result<Lsn, ChangeFailed> {
        match change {
            Change::Add { .. } => Ok(Lsn(9)),
            _ => Err(ChangeFailed::Elsewhere("n1 at n1:8080 leads".into())),
        }
    }
}

#[tonic::async_trait]
impl AdminBackend for FakeDatabase {
    async fn diagnose_database(&self) -> Result<Diagnosis, BackendError> {
        Ok(Diagnosis { findings: vec!["log_bin is off".into()], diff: "+log_bin=ON".into() })
    }

    async fn configure_database(&self, dry_run: bool) -> Result<Configured, BackendError> {
        Ok(Configured {
            diff: "+log_bin=ON".into(),
            written: !dry_run,
            path: "/x.cnf".into(),
            restart_needed: true,
        })
    }

    async fn take_database_back(&self) -> Result<TakenBack, BackendError> {
        Ok(TakenBack { reason: "it held 0-2-4".into(), position: "0-1-5".into() })
    }
}

fn member(id: &str, liveness: Liveness) -> MemberStatus {
    MemberStatus {
        id: id.parse().expect("valid"),
        address: format!("{id}:8080"),
        liveness,
        silent_ms: Some(if id == "n1" { 0 } else { 4_200 }),
        leads: id == "n1",
        durable: Lsn(7),
        applied: Lsn(6),
        eligible: true,
        database: (id == "n1").then_some(DbState::Leading),
        named: Some(Member {
            id: id.parse().expect("valid"),
            address: format!("{id}:8080"),
            incarnation: Incarnation(5),
            standing: if id == "n1" { Standing::Member } else { Standing::Learner },
            never_leader: false,
            demoted: id == "n2",
        }),
        preferred: id == "n2",
    }
}

fn status() -> NodeStatus {
    let term = Term { number: 3, leader: "n1".parse().expect("valid") };
    NodeStatus {
        id: "n1".parse().expect("valid"),
        incarnation: Incarnation(5),
        cluster: None,
        role: RoleView {
            role: Role::Leader,
            term: Some(term.clone()),
            leader: Some(term.leader.clone()),
            term_start: Some(Lsn(1)),
            handing_over: false,
        },
        last: Position { term: Some(term), lsn: Lsn(7) },
        marks: Marks {
            appended: Lsn(7),
            durable: Lsn(7),
            committed: Lsn(7),
            released: Lsn(7),
            applied: Lsn(6),
        },
        members: vec![member("n1", Liveness::Alive), member("n2", Liveness::Dead)],
        db: Some(DbStatus { state: DbState::Leading, ..DbStatus::starting() }),
        notices: Vec::new(),
    }
}

fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| metrics::install().expect("the only recorder")).clone()
}

/// Both edges on ports of their own; they end with it.
struct Edges {
    grpc: SocketAddr,
    http: SocketAddr,
    tasks: Tasks,
    status_tx: watch::Sender<NodeStatus>,
}

impl Drop for Edges {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn edges(http_token: Option<&str>) -> Edges {
    let (status_tx, status) = watch::channel(status());
    let tasks = Tasks::default();
    let token = Secret::new(CLUSTER_SECRET).derive("wolfscale api token v1");
    let routes =
        grpc::routes(token, status.clone(), Arc::new(FakeDatabase), Arc::new(FakeMembership))
            .await
            .expect("builds");
    let grpc_listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let http_listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let grpc = grpc_listener.local_addr().expect("is bound");
    let http = http_listener.local_addr().expect("is bound");
    let stop = tasks.stopping();
    tasks.spawn("grpc", OnEnd::Ignore, async move {
        grpc::serve(grpc_listener, routes, stop).await.expect("serves");
    });
    let answers = Answers::new(http_token.map(Secret::new), status, recorder());
    tasks.spawn("http", OnEnd::Ignore, http::serve(http_listener, answers, tasks.clone()));
    Edges { grpc, http, tasks, status_tx }
}

/// The client's program; built if it is not there or old. The whole workspace is named, as another
/// choice of packages has other features and would compile all dependencies again.
pub fn wolfctl_path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo runs").success());
        let test = std::env::current_exe().expect("this test has a path");
        let debug = test.parent().and_then(std::path::Path::parent).expect("deps has a parent");
        debug.join("wolfctl")
    })
}

async fn wolfctl(endpoint: &str, secret: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(wolfctl_path());
    command.args(["--endpoint", endpoint]).args(arguments);
    command.env("WOLFSCALE_CLUSTER_SECRET", secret);
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("joins").expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_lists_servers_and_shows_the_dead_as_dead() {
    let edges = edges(None).await;
    let endpoints = format!("127.0.0.1:1,{}", edges.grpc);
    let listed =
        wolfctl(&endpoints, CLUSTER_SECRET, &["list", "servers", "--output", "json"]).await;
    assert!(listed.status.success(), "{listed:?}");
    let expected = r#"{
  "answered_by": "n1",
  "servers": [
    {
      "id": "n1",
      "address": "n1:8080",
      "role": "leader",
      "state": "alive",
      "last_seen_ms": 0,
      "durable_lsn": 7,
      "applied_lsn": 6,
      "eligible": true,
      "database": "leading",
      "standing": "member",
      "never_leader": false,
      "demoted": false,
      "preferred": false
    },
    {
      "id": "n2",
      "address": "n2:8080",
      "role": "follower",
      "state": "dead",
      "last_seen_ms": 4200,
      "durable_lsn": 7,
      "applied_lsn": 6,
      "eligible": true,
      "database": null,
      "standing": "learner",
      "never_leader": false,
      "demoted": true,
      "preferred": true
    }
  ]
}
"#;
    assert_eq!(String::from_utf8_lossy(&listed.stdout), expected);
    let table = wolfctl(&endpoints, CLUSTER_SECRET, &["list", "servers"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let dead = table.lines().find(|line| line.contains("n2")).expect("n2 is listed");
    assert!(dead.contains("dead") && dead.contains("4 s ago"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours outside a terminal");
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_tells_health_by_its_exit_code() {
    let edges = edges(None).await;
    let endpoint = edges.grpc.to_string();
    let status = wolfctl(&endpoint, CLUSTER_SECRET, &["status"]).await;
    assert_eq!(status.status.code(), Some(3), "n2 is dead: {status:?}");
    assert!(String::from_utf8_lossy(&status.stdout).contains("n2 is dead"));
    let refused = wolfctl(&endpoint, "another secret, as long", &["status"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("token is not this node's"));
    let nobody = wolfctl("127.0.0.1:1", CLUSTER_SECRET, &["status"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no node answered"));
    let usage = wolfctl(&endpoint, CLUSTER_SECRET, &["list", "nonsense"]).await;
    assert_eq!(usage.status.code(), Some(2));
}

/// Scripts read these: a key is added, never renamed or removed.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_status_are_stable() {
    let edges = edges(None).await;
    let endpoint = edges.grpc.to_string();
    let keys = async || {
        let told = wolfctl(&endpoint, CLUSTER_SECRET, &["status", "--output", "json"]).await;
        let told = serde_json::from_slice(&told.stdout);
        let told: serde_json::Map<String, serde_json::Value> = told.expect("a JSON object");
        (told.keys().cloned().collect::<Vec<_>>(), told)
    };
    let expected = [
        "appended_lsn",
        "applied_lsn",
        "cluster_id",
        "committed_lsn",
        "database",
        "durable_lsn",
        "handing_over",
        "healthy",
        "incarnation",
        "leader",
        "node_id",
        "notices",
        "released_lsn",
        "role",
        "servers",
        "term",
        "unhealthy_because",
    ];
    let (found, told) = keys().await;
    assert_eq!(found, expected);
    assert_eq!((&told["leader"], &told["role"]), (&"n1".into(), &"leader".into()));
    assert_eq!(told["database"]["state"], "leading");
    edges.status_tx.send_modify(|status| {
        status.db = None;
        status.role.leader = None;
    });
    let (found, told) = keys().await;
    assert_eq!(found, expected, "also where there is nothing to tell");
    assert!(told["database"].is_null() && told["leader"].is_null(), "{told:?}");
}

/// A call with this header, to each method: what is told and what is done must both be refused.
async fn codes(to: SocketAddr, authorization: Option<&str>) -> Vec<tonic::Code> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{to}"));
    let endpoint = endpoint.expect("an address").timeout(Duration::from_secs(10));
    let channel = endpoint.connect().await.expect("connects");
    let header = authorization.map(|text| text.parse().expect("a header"));
    let mut admin = AdminClient::with_interceptor(channel, move |mut call: tonic::Request<()>| {
        if let Some(value) = header.clone() {
            call.metadata_mut().insert("authorization", value);
        }
        Ok(call)
    });
    let write = wire::ConfigureDatabaseRequest { dry_run: false };
    let answers = [
        admin.get_status(wire::GetStatusRequest {}).await.map(drop),
        admin.list_servers(wire::ListServersRequest {}).await.map(drop),
        admin.diagnose_database(wire::DiagnoseDatabaseRequest {}).await.map(drop),
        admin.configure_database(write).await.map(drop),
        admin.take_database_back(wire::TakeDatabaseBackRequest {}).await.map(drop),
    ];
    answers.into_iter().map(|done| done.err().map_or(tonic::Code::Ok, |e| e.code())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_for_the_token() {
    let edges = edges(None).await;
    // The secret itself is no token: whoever asks never sends it.
    let secret = format!("Bearer {CLUSTER_SECRET}");
    for header in [None, Some("Bearer "), Some("Bearer wrong"), Some(secret.as_str())] {
        let found = codes(edges.grpc, header).await;
        assert_eq!(found, [tonic::Code::Unauthenticated; 5], "{header:?}");
    }
    let token = Secret::new(CLUSTER_SECRET).derive("wolfscale api token v1");
    let found = codes(edges.grpc, Some(&format!("Bearer {}", token.expose_text()))).await;
    assert_eq!(found, [tonic::Code::Ok; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_writes_the_drop_in_only_when_told() {
    let edges = edges(None).await;
    let endpoint = edges.grpc.to_string();
    let shown = wolfctl(&endpoint, CLUSTER_SECRET, &["db", "configure"]).await;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("nothing was written"));
    let written = wolfctl(&endpoint, CLUSTER_SECRET, &["db", "configure", "--yes"]).await;
    assert!(String::from_utf8_lossy(&written.stdout).contains("/x.cnf was written; restart"));
    let diagnosed = wolfctl(&endpoint, CLUSTER_SECRET, &["db", "diagnose"]).await;
    assert_eq!(diagnosed.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_says_where_a_rebuilt_database_goes_on() {
    let edges = edges(None).await;
    let taken = wolfctl(&edges.grpc.to_string(), CLUSTER_SECRET, &["db", "rebuilt"]).await;
    let said = String::from_utf8_lossy(&taken.stdout).into_owned();
    assert!(said.contains("from 0-1-5 on") && said.contains("it held 0-2-4"), "{said}");
}

async fn http_get(to: SocketAddr, path: &str, token: Option<&str>) -> String {
    let mut stream = TcpStream::connect(to).await.expect("connects");
    let bearer = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{bearer}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("in time").expect("reads");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_are_answered() {
    let edges = edges(None).await;
    let metrics = http_get(edges.http, "/metrics", None).await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("wolfscale_log_released_lsn 7"), "{metrics}");
    assert!(metrics.contains("wolfscale_member_alive{member=\"n2\"} 0"), "{metrics}");
    assert!(metrics.contains("wolfscale_db_state{state=\"leading\"} 1"), "{metrics}");
    assert!(http_get(edges.http, "/health/live", None).await.starts_with("HTTP/1.1 200"));
    assert!(http_get(edges.http, "/health/ready", None).await.starts_with("HTTP/1.1 200"));
    assert!(http_get(edges.http, "/else", None).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_with_a_token_admits_nobody_else() {
    let token = "a token of many bytes";
    let edges = edges(Some(token)).await;
    for (offered, code) in [(None, "401"), (Some("another"), "401"), (Some(token), "200")] {
        let answer = http_get(edges.http, "/metrics", offered).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{offered:?}: {answer}");
    }
}
