//! The replicated KV on three real nodes without databases: through any node, and through the death
//! of the leader.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use wolfscale::{
    config::Secret,
    wire::{self, kv_client::KvClient},
};

use crate::{admin::wolfctl_path, ports::Port};

const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
const SOON: Duration = Duration::from_secs(60);
const LOG_LINES_SHOWN: usize = 40;
const ROUNDS: usize = 300;

/// Nodes without databases; they end with it.
struct Nodes {
    directory: TempDir,
    ports: Vec<[Port; 2]>,
    running: Vec<Option<Child>>,
}

impl Nodes {
    /// Three nodes that have founded a cluster.
    async fn founded() -> Self {
        let directory = tempfile::Builder::new().prefix("ws-kv-").tempdir().expect("directory");
        let secret = directory.path().join("secret");
        fs::write(&secret, SECRET).expect("write the secret");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("permissions");
        let ports = (0..3).map(|_| [Port::free(), Port::free()]).collect();
        let mut nodes = Self { directory, ports, running: vec![None, None, None] };
        for index in 0..3 {
            nodes.write_config(index);
            nodes.start(index);
        }
        nodes.leader().await;
        nodes
    }

    fn write_config(&self, index: usize) {
        let member = |(n, ports): (usize, &[Port; 2])| {
            format!("{{ id = \"n{}\", address = \"127.0.0.1:{}\" }}", n + 1, ports[0].number())
        };
        let members: Vec<_> = self.ports.iter().enumerate().map(member).collect();
        let (root, [grpc, http]) = (self.directory.path().display(), &self.ports[index]);
        let config = format!(
            "[node]\nid = \"n{}\"\ndata_dir = \"{root}/data-{index}\"\n\n[cluster]\n\
             secret_file = \"{root}/secret\"\ninitial_members = [{}]\n\n[listen]\n\
             grpc = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n",
            index + 1,
            members.join(", "),
            grpc.number(),
            http.number(),
        );
        fs::write(self.config(index), config).expect("write the configuration");
    }

    fn config(&self, index: usize) -> std::path::PathBuf {
        self.directory.path().join(format!("n{}.toml", index + 1))
    }

    fn start(&mut self, index: usize) {
        let log = self.directory.path().join(format!("n{}.log", index + 1));
        let log = File::options().create(true).append(true).open(log).expect("open the log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_wolfscale"));
        command.args(["start", "--config"]).arg(self.config(index)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.running[index] = Some(command.spawn().expect("start the node"));
    }

    /// kill -9 of parent and child.
    fn kill(&mut self, index: usize) {
        let Some(mut parent) = self.running[index].take() else { return };
        let id = parent.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let children = children.unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        let _ = parent.kill();
        for pid in pids.filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = parent.wait();
    }

    fn endpoint(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index][0].number())
    }

    /// Runs `wolfctl kv …` against some nodes; its exit code and what it printed.
    async fn kv(&self, nodes: &[usize], arguments: &[&str]) -> (i32, String) {
        let endpoints: Vec<_> = nodes.iter().map(|index| self.endpoint(*index)).collect();
        let mut command = Command::new(wolfctl_path());
        command.args(["--endpoint", &endpoints.join(","), "--output", "json", "--timeout", "20s"]);
        command.arg("kv").args(arguments).env("WOLFSCALE_CLUSTER_SECRET", SECRET);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        let output = ran.expect("joins").expect("runs");
        let shown = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let code = output.status.code().expect("it ends by itself");
        (code, String::from_utf8(shown).expect("text"))
    }

    /// As [`Nodes::kv`], for what must be done.
    async fn done(&self, nodes: &[usize], arguments: &[&str]) -> Value {
        let (code, text) = self.kv(nodes, arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// The node that leads; waits for one.
    async fn leader(&self) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            for index in (0..3).filter(|index| self.running[*index].is_some()) {
                let mut command = Command::new(wolfctl_path());
                command.args(["--endpoint", &self.endpoint(index), "--output", "json", "status"]);
                command.env("WOLFSCALE_CLUSTER_SECRET", SECRET);
                let ran = tokio::task::spawn_blocking(move || command.output()).await;
                let output = ran.expect("joins").expect("runs");
                let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                if status["role"] == "leader" {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
        }
    }

    async fn client(&self, index: usize) -> Client {
        connect(&self.endpoint(index)).await.expect("connects")
    }
}

async fn connect(endpoint: &str) -> Result<Client, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an address");
    let channel = endpoint.connect().await?;
    let token = Secret::new(SECRET).derive("wolfscale api token v1");
    let bearer = format!("Bearer {}", token.expose_text()).parse().expect("text");
    Ok(KvClient::with_interceptor(channel, Bearer(bearer)))
}

impl Drop for Nodes {
    fn drop(&mut self) {
        (0..3).for_each(|index| self.kill(index));
        if std::thread::panicking() {
            for index in 1..=3 {
                print_tail(&self.directory.path().join(format!("n{index}.log")));
            }
        }
    }
}

fn print_tail(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    eprintln!("--- {}\n{}", log.display(), lines[from..].join("\n"));
}

type Client = KvClient<InterceptedService<Channel, Bearer>>;

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut call: Request<()>) -> Result<Request<()>, Status> {
        call.metadata_mut().insert("authorization", self.0.clone());
        Ok(call)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_written_and_read_through_any_node() {
    let nodes = Nodes::founded().await;
    let mut clients = [nodes.client(0).await, nodes.client(1).await, nodes.client(2).await];
    for round in 0..ROUNDS {
        let put = wire::KvPutRequest {
            key: "key".into(),
            value: round.to_string().into(),
            ..Default::default()
        };
        let put = clients[round % 3].put(put).await.expect("is set").into_inner();
        // At once, through another node: it sees what was acknowledged, without any luck.
        let get = wire::KvGetRequest { key: "key".into(), ..Default::default() };
        let reader = (round + 1 + round / 3 % 2) % 3;
        let got = clients[reader].get(get).await.expect("answers").into_inner();
        let pair = got.pair.unwrap_or_default();
        assert_eq!(pair.value, round.to_string(), "round {round} through n{}", reader + 1);
        assert_eq!(pair.revision, put.applied.expect("always there").revision);
        assert!(got.revision >= pair.revision);
    }
    let revision = nodes.done(&[0], &["get", "key"]).await["pair"]["revision"].to_string();
    let (code, conflict) = nodes.kv(&[1], &["cas", "key", "no", "--expect", "1"]).await;
    let conflict: Value = serde_json::from_str(&conflict).expect("JSON");
    assert_eq!((code, &conflict["succeeded"]), (4, &false.into()));
    assert_eq!(conflict["previous_revision"].to_string(), revision);
    let set = nodes.done(&[2], &["cas", "key", "yes", "--expect", &revision]).await;
    assert_eq!(set["succeeded"], true);
    let after = set["revision"].to_string();
    let got = nodes.done(&[1], &["get", "key", "--after", &after]).await;
    assert_eq!(got["pair"]["value"]["text"], "yes");

    nodes.done(&[1], &["put", "kez", "2"]).await;
    let page = nodes.done(&[2], &["range", "k", "--limit", "1"]).await;
    let next = page["next"].as_str().expect("there is more");
    let rest = nodes.done(&[2], &["range", "k", "--cursor", next]).await;
    assert_eq!(
        (&page["pairs"][0]["key"]["text"], &rest["pairs"][0]["key"]["text"]),
        (&"key".into(), &"kez".into())
    );
    nodes.done(&[0], &["delete", "key"]).await;
    assert_eq!(nodes.kv(&[1], &["get", "key"]).await.0, 4);

    // Without a token nothing is told.
    let channel = Endpoint::from_shared(format!("http://{}", nodes.endpoint(0)));
    let channel = channel.expect("an address").connect().await.expect("connects");
    let refused = KvClient::new(channel).get(wire::KvGetRequest::default()).await;
    assert_eq!(refused.expect_err("no token").code(), tonic::Code::Unauthenticated);
}

/// The details of a failed call.
fn details(status: &Status) -> wire::KvError {
    let details = wire::KvStatusDetails::decode(status.details()).expect("details");
    let detail = details.details.into_iter().next().expect("one");
    assert_eq!(detail.type_url, "type.googleapis.com/wolfscale.v1.KvError");
    wire::KvError::decode(detail.value).expect("a KvError")
}

/// A request of a session, sent to the nodes in turn until one answers; its revision.
#[derive(Clone)]
struct Sender {
    endpoints: Vec<String>,
    session: Bytes,
}

impl Sender {
    async fn put(&self, number: u64, first: usize) -> wire::KvApplied {
        let session = self.session.clone();
        let call = wire::KvPutRequest {
            key: "k".into(),
            value: number.to_string().into(),
            lease_id: 0,
            request: Some(wire::KvRequestId { session, number }),
        };
        let deadline = Instant::now() + SOON;
        for node in (first..).map(|n| n % self.endpoints.len()) {
            assert!(Instant::now() < deadline, "request {number} is never answered");
            let Ok(mut client) = connect(&self.endpoints[node]).await else {
                // A node that is down refuses at once: give way to those that elect a leader.
                tokio::task::yield_now().await;
                continue;
            };
            match client.put(call.clone()).await {
                Ok(done) => return done.into_inner().applied.expect("always there"),
                // No details: the node died with the call.
                Err(lost) if lost.details().is_empty() => {}
                Err(failed) => assert!(details(&failed).may_retry, "{failed:?}"),
            }
        }
        unreachable!("the nodes are asked in turn for ever")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_happens_once_through_the_death_of_the_leader() {
    const REQUESTS: u64 = 60;
    let mut nodes = Nodes::founded().await;
    let open = wire::KvSessionOpenRequest { session: Bytes::new(), ttl_ms: 600_000 };
    let opened = nodes.client(1).await.session_open(open).await.expect("opens").into_inner();
    let sender = Sender {
        endpoints: (0..3).map(|index| nodes.endpoint(index)).collect(),
        session: opened.session,
    };
    let (mut kills, mut again) = (0, 0);
    for number in 1..=REQUESTS {
        let first = usize::try_from(number).expect("small") % 3;
        let dies = number % 20 == 10;
        let leader = if dies { nodes.leader().await } else { 0 };
        // On its way while the leader dies: nobody knows what became of it, and it is sent again.
        let (one, two) = (sender.clone(), sender.clone());
        let sent = tokio::spawn(async move { one.put(number, first).await });
        let twice = tokio::spawn(async move { two.put(number, first + 1).await });
        if dies {
            nodes.kill(leader);
            kills += 1;
        }
        let (done, same) = (sent.await.expect("joins"), twice.await.expect("joins"));
        assert_eq!(done.revision, same.revision, "request {number} has two revisions");
        again += u64::from(done.repeated) + u64::from(same.repeated);
        if dies {
            nodes.start(leader);
        }
    }
    assert!(kills == 3 && again >= REQUESTS, "{kills} kills, {again} answers of earlier attempts");

    for index in 0..3 {
        let get = wire::KvGetRequest { key: "k".into(), ..Default::default() };
        let got = nodes.client(index).await.get(get).await.expect("answers").into_inner();
        let pair = got.pair.expect("is there");
        assert_eq!(pair.value, REQUESTS.to_string(), "n{} is linearizable", index + 1);
    }
    // Every change that there ever was, of each node's own history.
    for index in 0..3 {
        let watch = wire::KvWatchRequest { from_revision: 1, ..Default::default() };
        let mut told = nodes.client(index).await.watch(watch).await.expect("begins").into_inner();
        let mut values: Vec<u64> = Vec::new();
        while values.last() != Some(&REQUESTS) {
            let message = told.message().await.expect("goes on").expect("goes on");
            let text = |event: &wire::KvEvent| event.value.clone().expect("only puts").to_vec();
            let number = |event| String::from_utf8(text(event)).expect("text").parse::<u64>();
            values.extend(message.events.iter().map(|event| number(event).expect("a number")));
        }
        assert_eq!(values, (1..=REQUESTS).collect::<Vec<_>>(), "n{}", index + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_everywhere_and_a_watch_tells_it() {
    let nodes = Nodes::founded().await;
    let (mut one, mut two) = (nodes.client(0).await, nodes.client(1).await);
    let watch = wire::KvWatchRequest { from: "l".into(), to: "m".into(), from_revision: 0 };
    let mut told = two.watch(watch).await.expect("begins").into_inner();
    let begun = told.message().await.expect("begins").expect("begins");
    assert!(begun.events.is_empty(), "it says that it has begun");

    let began = Instant::now();
    let grant = wire::KvLeaseGrantRequest { lease_id: 0, ttl_ms: 1_000, request: None };
    let lease_id = two.lease_grant(grant).await.expect("opens").into_inner().lease_id;
    let put = |key: &'static str, lease_id| wire::KvPutRequest {
        key: key.into(),
        value: "v".into(),
        lease_id,
        request: None,
    };
    let set = one.put(put("leased", lease_id)).await.expect("is set").into_inner();
    let set = set.applied.expect("always there").revision;
    one.put(put("other", 0)).await.expect("is set");
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(told.message().await.expect("goes on").expect("goes on").events);
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let seen: Vec<_> = events.iter().map(|e| (&e.key[..], e.value.is_some(), e.lease_id)).collect();
    assert_eq!(seen, [(&b"leased"[..], true, lease_id), (&b"leased"[..], false, lease_id)]);
    assert_eq!((events[0].revision, events[1].previous_revision), (set, set));
    let get = wire::KvGetRequest { key: "leased".into(), ..Default::default() };
    assert_eq!(one.get(get).await.expect("answers").into_inner().pair, None);
    let keep = wire::KvLeaseKeepAliveRequest { lease_id, request: None };
    let failed = two.lease_keep_alive(keep).await.expect_err("it has ended");
    assert_eq!(details(&failed).code(), wire::kv_error::Code::LeaseUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_an_expired_session_is_rejected_as_such() {
    let nodes = Nodes::founded().await;
    let mut client = nodes.client(2).await;
    let open = wire::KvSessionOpenRequest { session: Bytes::new(), ttl_ms: 1_000 };
    let session = client.session_open(open).await.expect("opens").into_inner().session;
    let deadline = Instant::now() + SOON;
    let failed = loop {
        let request = Some(wire::KvRequestId { session: session.clone(), number: 1 });
        let put = wire::KvPutRequest { key: "k".into(), request, ..Default::default() };
        match client.put(put).await {
            Err(failed) => break failed,
            Ok(_) => assert!(Instant::now() < deadline, "it never expires"),
        }
    };
    let error = details(&failed);
    assert_eq!(failed.code(), tonic::Code::FailedPrecondition);
    assert_eq!(error.code(), wire::kv_error::Code::SessionUnknown);
    assert_eq!((error.happened(), error.may_retry), (wire::kv_error::Happened::No, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn wolfctl_kv_does_each_thing_and_tells_by_its_exit_code() {
    let nodes = Nodes::founded().await;
    let lease = nodes.done(&[1], &["lease", "grant", "--ttl", "60s"]).await["lease_id"].to_string();
    let session = nodes.done(&[2], &["session", "open", "--ttl", "1m"]).await;
    let session = session["session"].as_str().expect("hex").to_owned();
    let put = ["put", "a", "1", "--lease", &lease, "--session", &session, "--request", "1"];
    let first = nodes.done(&[0], &put).await;
    let again = nodes.done(&[1], &put).await;
    assert_eq!((&first["repeated"], &again["repeated"]), (&false.into(), &true.into()));
    assert_eq!(first["revision"], again["revision"]);
    let got = nodes.done(&[2], &["get", "a", "--stale"]).await;
    assert_eq!(got["pair"]["lease_id"].to_string(), lease);

    nodes.done(&[0], &["session", "keep-alive", &session, "--answered", "1"]).await;
    assert_eq!(nodes.kv(&[0], &put).await.0, 4, "its answer is forgotten");
    nodes.done(&[0], &["session", "close", &session]).await;
    assert_eq!(nodes.kv(&[0], &["session", "keep-alive", &session]).await.0, 4);

    nodes.done(&[0], &["lease", "keep-alive", &lease]).await;
    let revoked = nodes.done(&[2], &["lease", "revoke", &lease]).await;
    assert_eq!(revoked["removed_keys"], 1);
    assert_eq!(nodes.kv(&[0], &["lease", "keep-alive", &lease]).await.0, 4);
    let (code, told) = nodes.kv(&[1], &["watch", "a", "--from", "1", "--count", "2"]).await;
    let told: Vec<Value> = told.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!((code, told.len()), (0, 2));
    assert_eq!(told[0]["value"]["text"], "1");
    assert!(told[1]["value"].is_null(), "{told:?}");
    assert_eq!(nodes.kv(&[0], &["put", "", "x"]).await.0, 1, "no key");
    assert_eq!(nodes.kv(&[0], &["put", "a", "x", "--session", &session]).await.0, 2, "usage");
}
