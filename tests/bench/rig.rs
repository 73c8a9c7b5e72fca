//! What is measured: one plain server, one native semi-synchronous trio, one cluster.

use std::{
    fmt::{self, Display},
    path::Path,
    time::Duration,
};

use mysql_async::{Conn, Opts, OptsBuilder, Row, prelude::Queryable};

use crate::{
    cluster::Cluster,
    lag, load,
    machine::Mark,
    mariadb::{MariaDb, eventually},
    ports::Port,
};

const USER: &str = "app";
const PASSWORD: &str = "test-password";
const SOON: Duration = Duration::from_secs(60);
const REPLICAS: usize = 2;
/// As the cluster's followers have it, so that applying costs the same.
const REPLICA: &str = "rpl_semi_sync_slave_enabled=ON\ninnodb_flush_log_at_trx_commit=2\n";
/// Transactions that a semi-synchronous server committed without an acknowledgement.
const UNACKNOWLEDGED: &str = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_no_tx'";

/// One way of keeping a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Plain,
    SemiSync,
    SemiSyncSynced,
    Cluster,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Plain, Self::SemiSync, Self::SemiSyncSynced, Self::Cluster];

    /// What an OK promises about a row.
    pub fn promise(self) -> &'static str {
        match self {
            Self::Plain => "durable on 1 of 1",
            Self::SemiSync => "durable on 1, in the memory of 1 more of 3",
            Self::SemiSyncSynced => "durable on 2 of 3",
            Self::Cluster => "durable on 2 of 3 and decided",
        }
    }

    pub fn has_followers(self) -> bool {
        self != Self::Plain
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain MariaDB",
            Self::SemiSync => "semi-sync, relay log unsynced",
            Self::SemiSyncSynced => "semi-sync, sync_relay_log=1",
            Self::Cluster => "WolfScale, 3 nodes",
        })
    }
}

/// Where clients find it.
pub struct Place {
    pub leader: Opts,
    pub followers: Vec<Opts>,
    /// Its processes.
    pub marks: Vec<Mark>,
}

/// All of them, running.
pub struct Rig {
    plain: Server,
    main: Server,
    replicas: Vec<Server>,
    pub cluster: Cluster,
}

impl Rig {
    pub async fn start() -> Self {
        let plain = Server::start(1, "").await;
        let main = Server::start(1, "").await;
        let mut replicas = Vec::new();
        for number in 2..2 + REPLICAS {
            let replica = Server::start(u32::try_from(number).expect("few"), REPLICA).await;
            replicas.push(replica);
        }
        for server in [&plain, &main] {
            server.prepare().await;
        }
        main.db.sql("SET GLOBAL rpl_semi_sync_master_enabled=1").await;
        for replica in &replicas {
            replica.follow(&main).await;
        }
        let cluster = Cluster::founded(3).await;
        let leader = cluster.leader().await;
        for table in [load::TABLE, lag::TABLE] {
            cluster.app(leader, table).await.expect("make a table");
        }
        let rig = Self { plain, main, replicas, cluster };
        for kind in Kind::ALL.into_iter().filter(|kind| kind.has_followers()) {
            rig.until_tables(kind).await;
        }
        rig
    }

    /// Makes a kind ready for a sample.
    pub async fn place(&self, kind: Kind) -> Place {
        match kind {
            Kind::Plain => Place {
                leader: self.plain.options(),
                followers: Vec::new(),
                marks: vec![self.plain.mark("database")],
            },
            Kind::SemiSync => self.semi_sync(0).await,
            Kind::SemiSyncSynced => self.semi_sync(1).await,
            Kind::Cluster => self.place_of_cluster().await,
        }
    }

    /// Fails if transactions were committed that no other node had acknowledged.
    pub async fn assert_all_acknowledged(&self, kind: Kind, place: &Place) {
        if !kind.has_followers() {
            return;
        }
        let mut leader = Conn::new(place.leader.clone()).await.expect("connect");
        let row: Option<(String, u64)> = leader.query_first(UNACKNOWLEDGED).await.expect("status");
        assert_eq!(row.expect("a row").1, 0, "{kind}: commits without an acknowledgement");
    }

    async fn semi_sync(&self, sync_relay_log: u32) -> Place {
        for replica in &self.replicas {
            let current = replica.db.value("SELECT @@global.sync_relay_log").await;
            if current != sync_relay_log.to_string() {
                let set = format!("SET GLOBAL sync_relay_log={sync_relay_log}");
                replica.db.sql(&format!("STOP SLAVE; {set}; START SLAVE")).await;
            }
        }
        self.until_semi_synchronous().await;
        let replicas = self.replicas.iter();
        let mut marks = vec![self.main.mark("leader's database")];
        marks.extend(replicas.clone().map(|replica| replica.mark("followers' databases")));
        let followers = replicas.map(Server::options).collect();
        Place { leader: self.main.options(), followers, marks }
    }

    async fn until_semi_synchronous(&self) {
        let wanted = [
            ("Rpl_semi_sync_master_clients", REPLICAS.to_string()),
            ("Rpl_semi_sync_master_status", "ON".to_owned()),
        ];
        for (name, wanted) in wanted {
            eventually(&format!("{name} is {wanted}"), SOON, async || {
                let rows = self.main.db.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'")).await;
                rows.concat().get(1) == Some(&wanted)
            })
            .await;
        }
        let point = "SELECT @@global.rpl_semi_sync_master_wait_point";
        assert_eq!(self.main.db.value(point).await, "AFTER_SYNC");
        let timeout = "SELECT @@global.rpl_semi_sync_master_timeout > 1000000000000";
        assert_eq!(self.main.db.value(timeout).await, "1");
    }

    async fn place_of_cluster(&self) -> Place {
        let cluster = &self.cluster;
        let leader = cluster.leader().await;
        let others = cluster.others(leader);
        for other in &others {
            cluster.until_follows(*other).await;
        }
        let options = |index: usize| Opts::from(cluster.options(index));
        let mut marks = marks_of(cluster.directory(leader), "leader's database", "leader's node");
        for other in &others {
            let directory = cluster.directory(*other);
            marks.extend(marks_of(directory, "followers' databases", "followers' nodes"));
        }
        let followers = others.iter().map(|other| options(*other)).collect();
        Place { leader: options(leader), followers, marks }
    }

    async fn until_tables(&self, kind: Kind) {
        let place = self.place(kind).await;
        for follower in &place.followers {
            eventually(&format!("{kind}: the tables are on all"), SOON, async || {
                let Ok(mut follower) = Conn::new(follower.clone()).await else { return false };
                let both = "SELECT 1 FROM test.load_rows, test.marks LIMIT 1";
                follower.query::<Row, _>(both).await.is_ok()
            })
            .await;
        }
    }
}

/// A server outside the cluster.
struct Server {
    db: MariaDb,
    port: Port,
}

impl Server {
    async fn start(server_id: u32, extra: &str) -> Self {
        let port = Port::free();
        let network =
            format!("skip_networking=OFF\nbind_address=127.0.0.1\nport={}\n", port.number());
        let db = MariaDb::start(server_id, &format!("{network}{extra}")).await;
        // Without a replica yet, nothing would be acknowledged.
        db.sql("SET GLOBAL rpl_semi_sync_master_enabled=0").await;
        Self { db, port }
    }

    async fn prepare(&self) {
        let user = format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'");
        let grant = format!("GRANT ALL PRIVILEGES ON *.* TO {USER}@'%'");
        for statement in [&user, &grant, "CREATE DATABASE test", load::TABLE, lag::TABLE] {
            self.db.sql(statement).await;
        }
        for (setting, value) in [("sync_binlog", "1"), ("innodb_flush_log_at_trx_commit", "1")] {
            assert_eq!(self.db.value(&format!("SELECT @@global.{setting}")).await, value);
        }
    }

    async fn follow(&self, main: &Self) {
        let port = main.port.number();
        self.db
            .sql(&format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, \
                 MASTER_USER='{USER}', MASTER_PASSWORD='{PASSWORD}', \
                 MASTER_USE_GTID=slave_pos; START SLAVE"
            ))
            .await;
    }

    fn options(&self) -> Opts {
        let options = OptsBuilder::default().user(Some(USER)).pass(Some(PASSWORD));
        let port = self.port.number();
        options.ip_or_hostname("127.0.0.1").tcp_port(port).prefer_socket(false).into()
    }

    fn mark(&self, label: &'static str) -> Mark {
        let socket = self.db.socket();
        let directory = socket.parent().expect("it lies in a directory");
        Mark { label, begins: "mariadbd ", holds: format!("{}/", directory.display()) }
    }
}

fn marks_of(directory: &Path, database: &'static str, node: &'static str) -> Vec<Mark> {
    let holds = format!("{}/", directory.display());
    vec![
        Mark { label: database, begins: "mariadbd ", holds: holds.clone() },
        Mark { label: node, begins: "", holds },
    ]
}
