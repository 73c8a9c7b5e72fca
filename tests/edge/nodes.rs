//! Real nodes without databases, and clients of their KV.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
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

use crate::{admin::wolfctl_path, ports::Port, turn::Turn};

const SECRET: &str = "a-secret-of-the-tests-0123456789abcdef";
const LOG_LINES_SHOWN: usize = 40;
const SESSION_TTL_MS: u64 = 600_000;

/// Whatever is awaited happens within this.
pub const SOON: Duration = Duration::from_secs(60);

/// Nodes without databases; they end with it.
pub struct Nodes {
    directory: TempDir,
    ports: Vec<[Port; 2]>,
    running: Vec<Option<Child>>,
    settings: &'static str,
    _turn: Turn,
}

impl Nodes {
    /// So many nodes that have founded a cluster, with these lines in `[cluster]`.
    pub async fn founded(count: usize, settings: &'static str) -> Self {
        let turn = Turn::come().await;
        let directory = tempfile::Builder::new().prefix("ws-kv-").tempdir().expect("directory");
        let secret = directory.path().join("secret");
        fs::write(&secret, SECRET).expect("write the secret");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("permissions");
        let ports = (0..count).map(|_| [Port::free(), Port::free()]).collect();
        let running = (0..count).map(|_| None).collect();
        let mut nodes = Self { directory, ports, running, settings, _turn: turn };
        for index in 0..count {
            nodes.write_config(index);
            nodes.start(index);
        }
        nodes.leader().await;
        nodes
    }

    /// How many there are, running or not.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    fn write_config(&self, index: usize) {
        let member = |(n, ports): (usize, &[Port; 2])| {
            format!("{{ id = \"n{}\", address = \"127.0.0.1:{}\" }}", n + 1, ports[0].number())
        };
        let members: Vec<_> = self.ports.iter().enumerate().map(member).collect();
        let (root, [grpc, http]) = (self.directory.path().display(), &self.ports[index]);
        let config = format!(
            "[node]\nid = \"n{}\"\ndata_dir = \"{root}/data-{index}\"\n\n[cluster]\n\
             secret_file = \"{root}/secret\"\ninitial_members = [{}]\n{}\n\n[listen]\n\
             grpc = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n",
            index + 1,
            members.join(", "),
            self.settings,
            grpc.number(),
            http.number(),
        );
        fs::write(self.config(index), config).expect("write the configuration");
    }

    fn config(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("n{}.toml", index + 1))
    }

    fn log(&self, index: usize) -> PathBuf {
        self.directory.path().join(format!("n{}.log", index + 1))
    }

    /// Starts a node, for the first time or again.
    pub fn start(&mut self, index: usize) {
        let log = self.log(index);
        let log = File::options().create(true).append(true).open(log).expect("open the log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_wolfscale"));
        command.args(["start", "--config"]).arg(self.config(index)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.running[index] = Some(command.spawn().expect("start the node"));
    }

    /// kill -9 of parent and child.
    pub fn kill(&mut self, index: usize) {
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

    /// `host:port` of a node's gRPC.
    pub fn endpoint(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index][0].number())
    }

    /// Runs `wolfctl` against some nodes.
    async fn wolfctl(&self, nodes: &[usize], arguments: &[&str]) -> Output {
        let endpoints: Vec<_> = nodes.iter().map(|index| self.endpoint(*index)).collect();
        let mut command = Command::new(wolfctl_path());
        command.args(["--endpoint", &endpoints.join(","), "--output", "json"]);
        command.args(arguments).env("WOLFSCALE_CLUSTER_SECRET", SECRET);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        ran.expect("joins").expect("runs")
    }

    /// Runs `wolfctl kv …` against some nodes; its exit code and what it printed.
    pub async fn kv(&self, nodes: &[usize], arguments: &[&str]) -> (i32, String) {
        let arguments = [&["--timeout", "20s", "kv"], arguments].concat();
        let output = self.wolfctl(nodes, &arguments).await;
        let shown = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        let code = output.status.code().expect("it ends by itself");
        (code, String::from_utf8(shown).expect("text"))
    }

    /// As [`Nodes::kv`], for what must be done.
    pub async fn done(&self, nodes: &[usize], arguments: &[&str]) -> Value {
        let (code, text) = self.kv(nodes, arguments).await;
        assert_eq!(code, 0, "{arguments:?}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// The node that leads; waits for one.
    pub async fn leader(&self) -> usize {
        let deadline = Instant::now() + SOON;
        loop {
            for index in (0..self.count()).filter(|index| self.running[*index].is_some()) {
                let output = self.wolfctl(&[index], &["status"]).await;
                let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                if status["role"] == "leader" {
                    return index;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads");
        }
    }

    /// Asks a node for `wolfctl list servers` until these are as they should be, by ID.
    pub async fn until_listed(&self, asked: usize, what: &str, fits: impl Fn(&[Value]) -> bool) {
        let deadline = Instant::now() + SOON;
        loop {
            let output = self.wolfctl(&[asked], &["list", "servers"]).await;
            let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let servers = list["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
            if servers.len() == self.count() && fits(servers) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}, by n{}: {list:#}", asked + 1);
        }
    }

    /// Waits until a node leads and these, by index, are all that count.
    pub async fn until_count(&self, leader: usize, members: impl IntoIterator<Item = usize>) {
        let members: BTreeSet<usize> = members.into_iter().collect();
        let what = format!("n{} leads, and these count: {members:?}", leader + 1);
        let counts = |(index, server): (usize, &Value)| {
            let standing = if members.contains(&index) { "member" } else { "learner" };
            server["standing"] == standing
        };
        let fits = |servers: &[Value]| {
            servers[leader]["role"] == "leader" && servers.iter().enumerate().all(counts)
        };
        self.until_listed(leader, &what, fits).await;
    }

    /// A client of a node's KV.
    pub async fn client(&self, index: usize) -> Client {
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
        (0..self.count()).for_each(|index| self.kill(index));
        if std::thread::panicking() {
            (0..self.count()).for_each(|index| print_tail(&self.log(index)));
        }
    }
}

fn print_tail(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    eprintln!("--- {}\n{}", log.display(), lines[from..].join("\n"));
}

/// A client of one node's KV, with its token.
pub type Client = KvClient<InterceptedService<Channel, Bearer>>;

/// Adds the token.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut call: Request<()>) -> Result<Request<()>, Status> {
        call.metadata_mut().insert("authorization", self.0.clone());
        Ok(call)
    }
}

/// The details of a failed call.
pub fn details(status: &Status) -> wire::KvError {
    let details = wire::KvStatusDetails::decode(status.details()).expect("details");
    let detail = details.details.into_iter().next().expect("one");
    assert_eq!(detail.type_url, "type.googleapis.com/wolfscale.v1.KvError");
    wire::KvError::decode(detail.value).expect("a KvError")
}

/// Sends the requests of a session to the nodes in turn until one answers.
#[derive(Clone)]
pub struct Sender {
    endpoints: Vec<String>,
    session: Bytes,
}

impl Sender {
    /// Opens a session through a node.
    pub async fn open(nodes: &Nodes, through: usize) -> Self {
        let open = wire::KvSessionOpenRequest { session: Bytes::new(), ttl_ms: SESSION_TTL_MS };
        let opened = nodes.client(through).await.session_open(open).await.expect("opens");
        let endpoints = (0..nodes.count()).map(|index| nodes.endpoint(index)).collect();
        Self { endpoints, session: opened.into_inner().session }
    }

    /// Says that the answers up to this number have arrived, to the first node that takes it, if any.
    pub async fn answered(&self, number: u64) {
        let session = self.session.clone();
        let keep = wire::KvSessionKeepAliveRequest { session, answered: number };
        for endpoint in &self.endpoints {
            let Ok(mut client) = connect(endpoint).await else { continue };
            if client.session_keep_alive(keep.clone()).await.is_ok() {
                return;
            }
        }
    }

    /// Sets a key to the request's number, beginning at node `first`.
    pub async fn put(&self, key: &str, number: u64, first: usize) -> wire::KvApplied {
        let session = self.session.clone();
        let call = wire::KvPutRequest {
            key: key.to_owned().into(),
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
