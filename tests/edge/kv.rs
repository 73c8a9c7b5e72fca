//! The replicated KV on three real nodes without databases: through any node, and through the death
//! of the leader.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoint(index)));
        let channel = endpoint.expect("an address").connect().await.expect("connects");
        let token = Secret::new(SECRET).derive("wolfscale api token v1");
        let bearer = format!("Bearer {}", token.expose_text()).parse().expect("text");
        KvClient::with_interceptor(channel, Bearer(bearer))
    }
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
    for index in 0..3 {
        let value = format!("through n{}", index + 1);
        let put = nodes.done(&[index], &["put", "key", &value]).await;
        for reader in 0..3 {
            // Each sees what was just acknowledged to another, without any luck.
            let got = nodes.done(&[reader], &["get", "key"]).await;
            assert_eq!(got["pair"]["value"]["text"], value, "n{}", reader + 1);
            assert_eq!(got["pair"]["revision"], put["revision"]);
        }
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
