//! The settings of the database plane, from the configuration.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::{
    config::{self, Config, Secret},
    db::{
        capture::CaptureSettings,
        control::{Commands, Control},
        controller::ControllerSettings,
        gtid::Gtid,
        mariadb::{Address, AdminSettings, FeedEndpoint},
        protocol::client::Endpoint,
        requirements::Wanted,
    },
};

/// Captures use server ids from here on: beyond those that databases use.
const CAPTURE_SERVER_ID_BASE: u32 = 4_000_000_000;
/// The server id under which every feed speaks; no database uses it.
pub(super) const FEED_SERVER_ID: u32 = 4_100_000_000;
/// How long capture may take to connect.
const CAPTURE_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a start of the database with recovery may take.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// The settings of the database plane, from the configuration.
pub(super) fn controller_settings(
    config: &config::Db,
    feed_password: &Secret,
) -> ControllerSettings {
    ControllerSettings {
        admin: admin_settings(config),
        control: control(&config.control),
        wanted: wanted(config),
        feed: FeedEndpoint {
            host: config.feed_listen.ip().to_string(),
            port: config.feed_listen.port(),
            user: config.feed_user.clone(),
            password: feed_password.expose_text().to_owned(),
        },
        event_scheduler: config.event_scheduler,
        start_timeout: START_TIMEOUT,
    }
}

/// What the database must be set to.
pub(super) fn wanted(config: &config::Db) -> Wanted {
    Wanted {
        server_id: config.server_id,
        drop_in: config.dropin_path.clone(),
        init_file: config.init_file.clone(),
    }
}

/// How the node administers its database.
pub fn admin_settings(config: &config::Db) -> AdminSettings {
    AdminSettings {
        address: match &config.address {
            config::DbAddress::Socket(path) => Address::Socket(path.clone()),
            config::DbAddress::Tcp { host, port } => Address::Tcp(host.clone(), *port),
        },
        user: config.admin.name.clone(),
        password: password(&config.admin),
        timeout: config.timeout,
    }
}

/// How the node controls its database.
pub fn control(config: &config::Control) -> Control {
    match config {
        config::Control::Systemd { unit } => Control::Systemd { unit: unit.clone() },
        config::Control::Commands(commands) => Control::Commands(Commands {
            start: commands.start.clone(),
            start_default_role: commands.start_default_role.clone(),
            stop: commands.stop.clone(),
            kill: commands.kill.clone(),
            pid_file: commands.pid_file.clone(),
            output: commands.output.clone(),
        }),
        config::Control::None => Control::None,
    }
}

/// How capture reaches the database.
pub(super) fn capture_settings(config: &config::Db) -> CaptureSettings {
    CaptureSettings {
        endpoint: match &config.address {
            config::DbAddress::Socket(path) => Endpoint::Socket(path.clone()),
            config::DbAddress::Tcp { host, port } => Endpoint::Tcp(host.clone(), *port),
        },
        user: config.capture.name.clone(),
        password: Zeroizing::new(password(&config.capture)),
        server_id: CAPTURE_SERVER_ID_BASE + config.server_id % 100_000_000,
        connect_timeout: CAPTURE_CONNECT_TIMEOUT,
    }
}

/// The feed's password: as set, or derived, which needs no file and outlives restarts.
pub(super) fn feed_password(config: &Config, db: &config::Db) -> Secret {
    let derived =
        || config.cluster.secret.derive(&format!("wolfscale feed password v1 {}", config.node.id));
    db.feed_password.clone().unwrap_or_else(derived)
}

fn password(user: &config::DbUser) -> String {
    user.password.as_ref().map(|secret| secret.expose_text().to_owned()).unwrap_or_default()
}

/// The base GTID of the cluster, as it becomes known.
pub(super) fn base_of(base: Option<&str>) -> Option<Gtid> {
    base.and_then(|text| text.split(',').find_map(|gtid| gtid.parse().ok()))
}
