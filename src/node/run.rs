//! Starting every part and joining them.

use std::{
    collections::BTreeMap,
    future::Future,
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tracing::info;

use super::{
    NodeError,
    backend::{LocalBackend, LocalMembership},
    database, founding,
    gate::LocalGate,
    link::{self, StatusSources},
    status::Fixed,
    stop,
    stores::{self, Stores},
};
use crate::{
    apply::{Applier, Outcomes},
    clock,
    cluster::membership::Policy,
    config::{self, Config},
    db::{
        controller::{Controller, ControllerHandle, Inputs as ControllerInputs, LocalCapture},
        ddl_fence::DbRecords,
        ddl_gate::DdlGate,
        feed::{FeedServer, FeedSettings},
        index::{DbIndex, DbIndexer},
        mariadb::MariaDb,
    },
    kv::{FrontParts, KvFront, KvMachine, read_index, reader::KvReader, ticker},
    log::{EntrySource, watermark::Watermark},
    metrics,
    replicate::{
        boot::{Boot, start_replica},
        driver::{self, Inputs, REQUESTS_WAITING_MAX, ReplicaView},
        host::{Host, Watermarks},
        propose::Proposer,
        replica::FoundingPlan,
        role::{ReleasedByLeader, RoleView},
        storage::LogStorage,
        transport::{
            Transport,
            auth::ClusterSecret,
            grpc::{GrpcSettings, GrpcTransport, PeerService},
        },
    },
    server::{
        backend::{AdminBackend, NoDatabase},
        grpc::{
            self,
            kv::{Leaders, kv_service},
        },
        http::{self, Answers},
        status::NodeStatus,
    },
    store::{Durability, Engine},
    tasks::{OnEnd, Tasks},
    types::{ClusterId, NodeId},
    wire::peer_server::PeerServer,
};

/// How long an address may be in use by a node that ends.
const LISTEN_WAIT: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);

/// Runs the node until a signal, a failure, or `orphaned` ends it.
pub async fn run(config: Config, orphaned: impl Future<Output = ()>) -> Result<(), NodeError> {
    let tasks = Tasks::default();
    let started = start(config, &tasks).await;
    let node = match started {
        Ok(node) => node,
        Err(error) => {
            stop::end(&tasks).await;
            return Err(error);
        }
    };
    stop::asked(&tasks, orphaned).await;
    if tasks.failure().is_none() {
        let controller = node.controller.as_ref();
        stop::hand_over(controller, &node.requests, node.role.clone(), None).await;
    }
    stop::end(&tasks).await;
    match tasks.failure() {
        None => Ok(()),
        Some(reason) if reason == stop::ORPHANED => Err(NodeError::Orphaned),
        Some(reason) => Err(NodeError::Failed(reason)),
    }
}

/// What stopping needs.
struct Started {
    controller: Option<ControllerHandle>,
    requests: mpsc::Sender<driver::Request>,
    role: watch::Receiver<RoleView>,
}

async fn start(config: Config, tasks: &Tasks) -> Result<Started, NodeError> {
    let listener = listen("gRPC", config.listen.grpc).await?;
    let config = Arc::new(config);
    let opening = config.clone();
    let opened = tokio::task::spawn_blocking(move || stores::open(&opening)).await;
    let stores = opened.map_err(|panic| NodeError::Failed(format!("open stores: {panic}")))??;

    let (cluster_tx, cluster) = watch::channel(stores.cluster);
    let transport = GrpcTransport::start(grpc_settings(&config, &stores, cluster)?, tasks)?;
    let (proposer, proposals) = Proposer::channel();
    let (requests, requests_rx) = mpsc::channel(REQUESTS_WAITING_MAX);
    let core = Core::start(&config, stores, transport.transport.clone())?;

    let (view_tx, view) = watch::channel(driver::look(&core.host));
    let (marks, role, notice) = (core.host.watermarks(), core.host.role(), core.host.notice());
    let applied = core.applier.applied();
    let shared = Shared {
        released_by_leader: core.host.released_by_leader(),
        config: config.clone(),
        tasks: tasks.clone(),
        log: core.source.clone(),
        index: DbIndex::new(core.state.clone()),
        marks: marks.clone(),
        applied: applied.clone(),
        role: role.clone(),
        requests: requests.clone(),
        view: view.clone(),
    };
    let kv = shared.start_kv(proposer.clone(), core.applier.outcomes(), core.state);
    let inputs = Inputs {
        heartbeats: transport.inbound.heartbeats,
        log: transport.inbound.log,
        proposals,
        storage: core.storage,
        requests: requests_rx,
        applied: applied.clone(),
    };
    let stopping = tasks.stopping();
    tasks.spawn(
        "replica",
        OnEnd::StopNode,
        driver::run(core.host, inputs, view_tx, tasks.clone(), stopping.clone()),
    );
    spawn_applier(core.applier, &marks, tasks);

    let (index, stop) = (shared.index.clone(), stopping.clone());
    let members = (transport.transport.clone(), config.cluster.initial_members.clone());
    let configuration = link::configuration(view.clone(), cluster_tx, index, members, stop);
    tasks.spawn("configuration", OnEnd::Ignore, configuration);
    let controller = match &config.db {
        Some(db) => Some(shared.start_database(db, core.log_engine, proposer).await?),
        None => {
            let fitness = link::fitness(
                view.clone(),
                link::fitness_without_database,
                requests.clone(),
                stopping.clone(),
            );
            tasks.spawn("fitness", OnEnd::Ignore, fitness);
            None
        }
    };
    let preemptions = link::preemptions(
        view.clone(),
        controller.clone(),
        requests.clone(),
        role.clone(),
        (config.cluster.timing.preempt_after, tasks.stopping()),
    );
    tasks.spawn("preemptions", OnEnd::Ignore, preemptions);
    let founding_notice = shared.offer_founding(core.founding);
    let status = StatusSources {
        fixed: fixed(&config, core.incarnation, core.notices),
        view,
        appended: marks.appended,
        applied,
        db: controller.as_ref().map(ControllerHandle::status),
        notices: vec![notice, founding_notice],
        transport: transport.transport,
    };
    let (status_tx, status_rx) = watch::channel(status.compose());
    tasks.spawn("status", OnEnd::Ignore, status.run(status_tx, stopping));
    shared.serve(listener, transport.service, kv, status_rx, controller.as_ref()).await?;
    info!(id = %config.node.id, grpc = %config.listen.grpc, "the node runs");
    Ok(Started { controller, requests, role })
}

/// The replica and what it stands on, before its tasks run.
struct Core {
    host: Host<LogStorage>,
    storage: mpsc::UnboundedReceiver<crate::replicate::storage::StorageEvent>,
    applier: Applier,
    source: Arc<dyn EntrySource>,
    log_engine: Arc<dyn Engine>,
    state: Arc<dyn Engine>,
    founding: Option<FoundingPlan>,
    incarnation: crate::types::Incarnation,
    notices: Vec<String>,
}

impl Core {
    fn start(
        config: &Config,
        stores: Stores,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, NodeError> {
        let source: Arc<dyn EntrySource> = Arc::new(stores.log.reader());
        let machines: Vec<Box<dyn crate::apply::StateMachine>> =
            vec![Box::new(DbIndexer), Box::new(KvMachine::default())];
        let applier = Applier::open(source.clone(), stores.state.clone(), machines)?;
        let founding = founding_plan(config, &stores)?;
        let boot = Boot {
            id: config.node.id.clone(),
            incarnation: stores.incarnation,
            remembers: stores.remembers,
            hard: stores.hard,
            timing: config.cluster.timing.clone(),
            initial_peers: config.cluster.initial_members.iter().map(|m| m.id.clone()).collect(),
            founding: None,
            now: clock::now(),
        };
        let replica = start_replica(&*stores.log_engine, &stores.log, boot)?;
        let (writer, storage) =
            LogStorage::start(stores.log_engine.clone(), Box::new(stores.identity))?;
        let identity = (config.node.id.clone(), stores.incarnation);
        let host = Host::new(identity, replica, stores.log, writer, transport);
        Ok(Self {
            host,
            storage,
            applier,
            source,
            log_engine: stores.log_engine,
            state: stores.state,
            founding,
            incarnation: stores.incarnation,
            notices: stores.notices,
        })
    }
}

/// What the parts of the node share.
struct Shared {
    released_by_leader: watch::Receiver<Option<ReleasedByLeader>>,
    config: Arc<Config>,
    tasks: Tasks,
    log: Arc<dyn EntrySource>,
    index: DbIndex,
    marks: Watermarks,
    applied: Watermark,
    role: watch::Receiver<RoleView>,
    requests: mpsc::Sender<driver::Request>,
    view: watch::Receiver<ReplicaView>,
}

impl Shared {
    /// The KV's front, and what moves its time on.
    fn start_kv(&self, proposer: Proposer, outcomes: Outcomes, state: Arc<dyn Engine>) -> KvFront {
        let (reads, reads_rx) = read_index::channel();
        let front = KvFront::new(FrontParts {
            proposer,
            role: self.role.clone(),
            applied: self.applied.clone(),
            outcomes,
            reader: KvReader::new(state),
            reads,
        });
        let stop = self.tasks.stopping();
        let asking = read_index::run(reads_rx, self.requests.clone(), stop.clone());
        self.tasks.spawn("read index", OnEnd::StopNode, asking);
        self.tasks.spawn("log time", OnEnd::StopNode, ticker::run(front.clone(), stop));
        front
    }

    /// Where the other nodes are: as configured here, or else as the log says.
    fn leaders(&self) -> Leaders {
        let members = self.config.cluster.initial_members.iter();
        let fixed: BTreeMap<_, _> = members.map(|m| (m.id.clone(), m.address.clone())).collect();
        let view = self.view.clone();
        let address_of = move |id: &NodeId| {
            let view = view.borrow();
            let configured = view.configuration.as_ref().and_then(|c| c.member(id));
            fixed.get(id).cloned().or_else(|| configured.map(|member| member.address.clone()))
        };
        Leaders::new(Arc::new(address_of), &self.config.cluster.secret)
    }

    async fn start_database(
        &self,
        db: &config::Db,
        log_engine: Arc<dyn Engine>,
        proposer: Proposer,
    ) -> Result<ControllerHandle, NodeError> {
        let password = database::feed_password(&self.config, db);
        let writer = log_engine.clone();
        let commit = move |batch| writer.commit(batch, Durability::Durable);
        let records = DbRecords::new(log_engine, Arc::new(commit));
        let settings = database::controller_settings(db, &password);
        let local = MariaDb::new(settings.admin.clone());
        let index = Box::new(self.index.clone());
        let gate = LocalGate(DdlGate::new(local, db.server_id, index, records.clone()));
        let feed = FeedSettings {
            listen: db.feed_listen,
            user: db.feed_user.clone(),
            password: password.expose_text().to_owned(),
            server_id: database::FEED_SERVER_ID,
        };
        let feed = FeedServer::bind(feed).await.map_err(|source| NodeError::Listen {
            what: "the binlog feed",
            address: db.feed_listen,
            source,
        })?;
        let (index, log) = (self.index.clone(), self.log.clone());
        feed.start(index, log, self.applied.clone(), Arc::new(gate), &self.tasks);
        let inputs = ControllerInputs {
            role: self.role.clone(),
            released: self.marks.released.clone(),
            applied: self.applied.clone(),
            log: self.log.clone(),
            released_by_leader: self.released_by_leader.clone(),
            index: Arc::new(self.index.clone()),
            capture: Box::new(LocalCapture::new(
                database::capture_settings(db),
                self.log.clone(),
                (self.index.clone(), self.applied.clone()),
                proposer,
                self.tasks.clone(),
            )),
            records,
        };
        let controller = Controller::spawn(settings, inputs, &self.tasks);
        let (requests, stop) = (self.requests.clone(), self.tasks.stopping());
        let fitness = link::fitness(
            controller.status(),
            link::fitness_by_database,
            requests.clone(),
            stop.clone(),
        );
        self.tasks.spawn("fitness", OnEnd::Ignore, fitness);
        let step_downs = link::step_downs(controller.clone(), requests, stop);
        self.tasks.spawn("step-downs", OnEnd::Ignore, step_downs);
        Ok(controller)
    }

    /// The two edges: gRPC for peers and people, HTTP for metrics and health.
    async fn serve(
        &self,
        listener: TcpListener,
        peers: PeerServer<PeerService>,
        kv: KvFront,
        status: watch::Receiver<NodeStatus>,
        controller: Option<&ControllerHandle>,
    ) -> Result<(), NodeError> {
        let backend: Arc<dyn AdminBackend> = match self.config.db.as_ref().zip(controller) {
            None => Arc::new(NoDatabase),
            Some((db, controller)) => Arc::new(LocalBackend {
                controller: controller.clone(),
                db: MariaDb::new(database::admin_settings(db)),
                wanted: database::wanted(db),
            }),
        };
        let (config, tasks) = (&self.config, &self.tasks);
        let http_listener = listen("HTTP", config.listen.http).await?;
        let answers = Answers::new(config.http.token.clone(), status.clone(), metrics::install()?);
        tasks.spawn("http", OnEnd::StopNode, http::serve(http_listener, answers, tasks.clone()));
        let membership =
            Arc::new(LocalMembership { requests: self.requests.clone(), status: status.clone() });
        let routes = grpc::routes(config.api.token.clone(), status, backend, membership).await?;
        let kv = kv_service(kv, Arc::new(self.leaders()), config.api.token.clone());
        let routes = routes.add_service(peers).add_service(kv);
        let serving = grpc::serve(listener, routes, tasks.stopping());
        let failing = tasks.clone();
        tasks.spawn("grpc", OnEnd::StopNode, async move {
            if let Err(error) = serving.await {
                failing.fail(error);
            }
        });
        Ok(())
    }

    fn offer_founding(&self, plan: Option<FoundingPlan>) -> watch::Receiver<Option<String>> {
        let (notice_tx, notice) = watch::channel(None);
        if let Some(plan) = plan {
            let db = self.config.db.as_ref();
            let db = db.map(|db| MariaDb::new(database::admin_settings(db)));
            let (requests, stop) = (self.requests.clone(), self.tasks.stopping());
            let offer = founding::offer(plan, db, requests, notice_tx, stop);
            self.tasks.spawn("founding", OnEnd::Ignore, offer);
        }
        notice
    }
}

fn spawn_applier(applier: Applier, marks: &Watermarks, tasks: &Tasks) {
    let (released, durable) = (marks.released.clone(), marks.durable.clone());
    let (stop, failing) = (tasks.stopping(), tasks.clone());
    let apply = tokio::task::spawn_blocking(move || applier.run(released, durable, &stop));
    tasks.spawn("applier", OnEnd::StopNode, async move {
        match apply.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failing.fail(format!("apply: {error}")),
            Err(panic) => failing.fail(format!("apply: {panic}")),
        }
    });
}

fn founding_plan(config: &Config, stores: &Stores) -> Result<Option<FoundingPlan>, NodeError> {
    if stores.cluster.is_some() || !stores.remembers {
        return Ok(None);
    }
    let mut cluster = [0; 16];
    getrandom::fill(&mut cluster)?;
    let members = config.cluster.initial_members.iter();
    Ok(Some(FoundingPlan {
        members: members.map(|m| (m.id.clone(), m.address.clone())).collect(),
        policy: match config.cluster.policy {
            config::Policy::Majority => Policy::Majority,
        },
        cluster: ClusterId(cluster),
        db_position: None,
        never_leader: config.cluster.never_leader,
    }))
}

fn grpc_settings(
    config: &Config,
    stores: &Stores,
    cluster: watch::Receiver<Option<ClusterId>>,
) -> Result<GrpcSettings, NodeError> {
    let members = config.cluster.initial_members.iter();
    Ok(GrpcSettings {
        id: config.node.id.clone(),
        incarnation: stores.incarnation,
        cluster,
        secret: ClusterSecret::new(config.cluster.secret.expose().to_vec())?,
        peers: members.map(|m| (m.id.clone(), m.address.clone())).collect(),
    })
}

fn fixed(config: &Config, incarnation: crate::types::Incarnation, notices: Vec<String>) -> Fixed {
    let members = config.cluster.initial_members.iter();
    let suspect_after = config.cluster.timing.suspect_after.as_millis();
    Fixed {
        id: config.node.id.clone(),
        incarnation,
        addresses: members.map(|m| (m.id.clone(), m.address.clone())).collect::<BTreeMap<_, _>>(),
        suspect_after_ms: u64::try_from(suspect_after).unwrap_or(u64::MAX),
        notices,
    }
}

async fn listen(
    what: &'static str,
    address: std::net::SocketAddr,
) -> Result<TcpListener, NodeError> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            // The last threads of a node that was just killed may still hold it.
            Err(e) if e.kind() == ErrorKind::AddrInUse && begun.elapsed() < LISTEN_WAIT => {
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
            bound => return bound.map_err(|source| NodeError::Listen { what, address, source }),
        }
    }
}
