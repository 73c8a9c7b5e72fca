//! From typed values to a [`Config`]: what contradicts itself is refused, with what to write.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    model::{
        Api, Cluster, Config, Control, ControlCommands, Db, DbAddress, DbUser, Http, Listen, Log,
        LogFormat, Member, Node, Policy,
    },
    reader::Reader,
    secret::{SECRET_BYTES_MIN, Secret},
    setting::{RESERVED, SETTINGS},
    timing::Timing,
    value::show_duration,
};
use crate::types::NodeId;

/// Purpose of the token that is derived from the cluster secret; wolfctl derives the same.
const API_TOKEN_LABEL: &str = "wolfscale api token v1";
/// A `stand_step` below this is hardly longer than a round trip.
const STAND_STEP_SANE: Duration = Duration::from_millis(20);
/// Founding members that one cluster may have.
const MEMBERS_MAX: usize = 9;

/// Reads and checks everything; `None` leaves at least one problem in the reader.
pub fn validate(reader: &mut Reader<'_>) -> Option<Config> {
    let node = node(reader);
    let id = node.as_ref().map(|node| node.id.clone());
    let cluster = cluster(reader, id.as_ref());
    let listen = listen(reader);
    let secret = cluster.as_ref().map(|cluster| &cluster.secret);
    let api = api(reader, secret);
    let http = http(reader, listen.as_ref().map(|listen| listen.http));
    let members = cluster.as_ref().map_or(&[][..], |cluster| &cluster.initial_members);
    let db = match reader.has_section("db") {
        true => Some(db(reader, id.as_ref(), members)),
        false => None,
    };
    let log = log(reader);
    let db = match db {
        Some(read) => Some(read?),
        None => None,
    };
    let config = Config {
        node: node?,
        cluster: cluster?,
        listen: listen?,
        api: api?,
        http: http?,
        db,
        log: log?,
    };
    distinct_ports(reader, &config);
    warn_of_reserved(reader);
    reader.problems.is_empty().then_some(config)
}

fn warn_of_reserved(reader: &mut Reader<'_>) {
    for setting in SETTINGS.iter().filter(|setting| setting.reserved) {
        if reader.is_set(setting.key) {
            reader.warn(setting.key, RESERVED);
        }
    }
}

fn node(reader: &mut Reader<'_>) -> Option<Node> {
    let id = reader.text("node.id");
    let data_dir = reader.path("node.data_dir");
    let id = match id?.parse::<NodeId>() {
        Ok(id) => id,
        Err(error) => {
            reader.refuse("node.id", error.to_string());
            return None;
        }
    };
    Some(Node { id, data_dir: data_dir? })
}

fn cluster(reader: &mut Reader<'_>, id: Option<&NodeId>) -> Option<Cluster> {
    let secret = long_enough(reader, "cluster.secret_file");
    let members = reader.members("cluster.initial_members");
    let members = members.and_then(|members| check_members(reader, members, id));
    let policy = policy(reader);
    let timing = timing(reader);
    let never_leader = reader.bool("cluster.never_leader");
    let members = members?;
    let timing = timing?;
    check_timing(reader, &timing, members.len());
    Some(Cluster {
        secret: secret?,
        initial_members: members,
        policy: policy?,
        timing,
        never_leader: never_leader?,
    })
}

/// A secret of at least [`SECRET_BYTES_MIN`] bytes.
fn long_enough(reader: &mut Reader<'_>, key: &'static str) -> Option<Secret> {
    let secret = reader.secret(key)?;
    if secret.len() < SECRET_BYTES_MIN {
        let found = secret.len();
        reader.refuse(
            key,
            format!(
                "it has {found} bytes, which can be guessed: use {SECRET_BYTES_MIN} or more random \
             bytes, such as from: openssl rand -hex 32"
            ),
        );
        return None;
    }
    Some(secret)
}

fn policy(reader: &mut Reader<'_>) -> Option<Policy> {
    const KEY: &str = "cluster.policy";
    if reader.text(KEY).as_deref() == Some("survivor") {
        reader.refuse(KEY, "\"survivor\" is not available in this version: write \"majority\"");
        return None;
    }
    reader.word(KEY).map(|_| Policy::Majority)
}

fn check_members(
    reader: &mut Reader<'_>,
    mut members: Vec<Member>,
    id: Option<&NodeId>,
) -> Option<Vec<Member>> {
    const KEY: &str = "cluster.initial_members";
    members.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: BTreeSet<_> = members.iter().map(|member| &member.id).collect();
    let addresses: BTreeSet<_> = members.iter().map(|member| &member.address).collect();
    if members.is_empty() || members.len() > MEMBERS_MAX {
        reader.refuse(KEY, format!("name 1 to {MEMBERS_MAX} members, not {}", members.len()));
    } else if ids.len() < members.len() {
        reader.refuse(KEY, "two members have the same id: every node needs its own");
    } else if addresses.len() < members.len() {
        reader.refuse(KEY, "two members have the same address: every node needs its own");
    } else if let Some(id) = id.filter(|id| !ids.contains(id)) {
        let known = ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
        let what = format!(
            "this node ({id}) is not among the members ({known}): add it here, or \
            correct node.id"
        );
        reader.refuse(KEY, what);
    } else {
        warn_of_members(reader, &members);
        return Some(members);
    }
    None
}

fn warn_of_members(reader: &mut Reader<'_>, members: &[Member]) {
    const KEY: &str = "cluster.initial_members";
    if members.len().is_multiple_of(2) {
        let what = format!(
            "{0} members survive no more failures than {1}: an odd number is better",
            members.len(),
            members.len() - 1
        );
        reader.warn(KEY, what);
    }
    for (i, low) in members.iter().enumerate() {
        for high in &members[i + 1..] {
            if natural_order(low.id.as_str()) > natural_order(high.id.as_str()) {
                let what = format!(
                    "{0} ranks before {1}, as IDs are compared as text: write numbers \
                    with the same count of digits, such as node-02",
                    low.id, high.id
                );
                return reader.warn(KEY, what);
            }
        }
    }
}

/// The text in pieces, numbers as numbers: how a person would sort it.
fn natural_order(id: &str) -> Vec<(String, u64)> {
    let mut pieces = vec![(String::new(), String::new())];
    for c in id.chars() {
        let last = pieces.len() - 1;
        match c.is_ascii_digit() {
            true => pieces[last].1.push(c),
            false if pieces[last].1.is_empty() => pieces[last].0.push(c),
            false => pieces.push((c.to_string(), String::new())),
        }
    }
    pieces.into_iter().map(|(text, digits)| (text, digits.parse().unwrap_or(0))).collect()
}

fn timing(reader: &mut Reader<'_>) -> Option<Timing> {
    let heartbeat = reader.duration("cluster.heartbeat");
    let suspect_after = reader.duration("cluster.suspect_after");
    let lease = reader.duration("cluster.lease");
    let stand_step = reader.duration("cluster.stand_step");
    let drop_after = reader.duration("cluster.drop_after");
    let takeover_after = reader.duration("cluster.takeover_after");
    let preempt_after = reader.duration("cluster.preempt_after");
    let slow_member_after = reader.duration("cluster.slow_member_after");
    let cold_start_wait = reader.duration("cluster.cold_start_wait");
    Some(Timing {
        heartbeat: heartbeat?,
        suspect_after: suspect_after?,
        lease: lease?,
        stand_step: stand_step?,
        drop_after: drop_after?,
        takeover_after: takeover_after?,
        preempt_after: preempt_after?,
        slow_member_after: slow_member_after?,
        cold_start_wait: cold_start_wait?,
    })
}

/// The inequalities of DESIGN §2.5.
fn check_timing(reader: &mut Reader<'_>, timing: &Timing, members: usize) {
    let show = show_duration;
    let t = timing;
    let least = t.drop_after + t.stand_step * u32::try_from(members).unwrap_or(u32::MAX);
    let checks = [
        (
            t.heartbeat * 4 <= t.suspect_after,
            "cluster.heartbeat",
            format!(
                "{} is more than a quarter of suspect_after ({}): write heartbeat = \"{}\", or \
             suspect_after = \"{}\"",
                show(t.heartbeat),
                show(t.suspect_after),
                show((t.suspect_after / 4).max(Duration::from_millis(1))),
                show(t.heartbeat * 4)
            ),
        ),
        (
            t.heartbeat < t.lease,
            "cluster.lease",
            format!(
                "{} is not longer than heartbeat ({}), so it would run out between two: write \
             lease = \"{}\"",
                show(t.lease),
                show(t.heartbeat),
                show(t.heartbeat * 4)
            ),
        ),
        (
            t.suspect_after > t.lease,
            "cluster.suspect_after",
            format!(
                "{} is not longer than lease ({}): write suspect_after = \"{}\", or a shorter lease",
                show(t.suspect_after),
                show(t.lease),
                show(t.lease + t.heartbeat)
            ),
        ),
        (
            t.drop_after >= t.suspect_after,
            "cluster.drop_after",
            format!(
                "{} is shorter than suspect_after ({}): write drop_after = \"{}\" or more",
                show(t.drop_after),
                show(t.suspect_after),
                show(t.suspect_after)
            ),
        ),
        (
            t.takeover_after > least,
            "cluster.takeover_after",
            format!(
                "{} is not longer than drop_after + stand_step × members ({}): write \
             takeover_after = \"{}\" or more",
                show(t.takeover_after),
                show(least),
                show(least + t.stand_step)
            ),
        ),
    ];
    for (holds, key, what) in checks {
        if !holds {
            reader.refuse(key, what);
        }
    }
    if timing.stand_step < STAND_STEP_SANE {
        let what = format!(
            "{} must be longer than a round trip between the nodes, else several \
            stand at once",
            show(timing.stand_step)
        );
        reader.warn("cluster.stand_step", what);
    }
}

fn listen(reader: &mut Reader<'_>) -> Option<Listen> {
    let grpc = reader.socket_address("listen.grpc");
    let http = reader.socket_address("listen.http");
    Some(Listen { grpc: grpc?, http: http? })
}

fn api(reader: &mut Reader<'_>, cluster_secret: Option<&Secret>) -> Option<Api> {
    let token = match reader.has_secret("api.token_file") {
        true => long_enough(reader, "api.token_file"),
        false => cluster_secret.map(|secret| secret.derive(API_TOKEN_LABEL)),
    };
    Some(Api { token: token? })
}

fn http(reader: &mut Reader<'_>, listen: Option<SocketAddr>) -> Option<Http> {
    let open = reader.bool("http.allow_unauthenticated")?;
    if reader.has_secret("http.token_file") {
        if open {
            let what = "it contradicts http.token_file: remove one of the two";
            reader.refuse("http.allow_unauthenticated", what);
        }
        return Some(Http { token: Some(long_enough(reader, "http.token_file")?) });
    }
    let listen = listen?;
    if !listen.ip().is_loopback() && !open {
        let what = format!(
            "{listen} is reachable from other machines, without a token: set \
            http.token_file, or http.allow_unauthenticated = true, or listen on 127.0.0.1:{}",
            listen.port()
        );
        reader.refuse("listen.http", what);
        return None;
    }
    Some(Http { token: None })
}

fn db(reader: &mut Reader<'_>, id: Option<&NodeId>, members: &[Member]) -> Option<Db> {
    let address = db_address(reader);
    let admin = admin(reader);
    let capture = admin.as_ref().and_then(|admin| capture(reader, admin));
    let timeout = reader.duration("db.timeout");
    let control = control(reader);
    let dropin_path = reader.path("db.dropin_path");
    let init_file = reader.path("db.init_file");
    let server_id = server_id(reader, id, members);
    let feed_listen = reader.socket_address("db.feed_listen");
    if let Some(feed) = feed_listen.filter(|feed| !feed.ip().is_loopback()) {
        let what = format!(
            "{feed} is reachable from other machines: whoever has feed_user's \
            password reads all data there"
        );
        reader.warn("db.feed_listen", what);
    }
    let feed_user = reader.text("db.feed_user");
    let feed_password = optional_secret(reader, "db.feed_password_file");
    let apply_lag_max = reader.duration("db.apply_lag_max");
    let event_scheduler = reader.bool("db.event_scheduler");
    Some(Db {
        address: address?,
        admin: admin?,
        capture: capture?,
        timeout: timeout?,
        control: control?,
        dropin_path: dropin_path?,
        init_file: init_file?,
        server_id: server_id?,
        feed_listen: feed_listen?,
        feed_user: feed_user?,
        feed_password: feed_password?,
        apply_lag_max: apply_lag_max?,
        event_scheduler: event_scheduler?,
    })
}

fn db_address(reader: &mut Reader<'_>) -> Option<DbAddress> {
    match (reader.is_set("db.socket"), reader.is_set("db.host")) {
        (true, true) => {
            reader.refuse("db.socket", "it contradicts db.host: remove one of the two");
            None
        }
        (true, false) if reader.is_set("db.port") => {
            reader.refuse(
                "db.port",
                "a socket has no port: remove it, or write host instead of socket",
            );
            None
        }
        (true, false) => reader.path("db.socket").map(DbAddress::Socket),
        (false, true) => {
            let host = reader.text("db.host");
            let port = match reader.is_set("db.port") {
                true => reader.number("db.port", u32::from(u16::MAX))?,
                false => 3306,
            };
            Some(DbAddress::Tcp { host: host?, port: u16::try_from(port).ok()? })
        }
        (false, false) => {
            let what = "the database's place is missing: write socket = \"/run/mysqld/mysqld.sock\", \
                or host and port; a node without a database has no [db] section";
            reader.refuse("db.socket", what);
            None
        }
    }
}

/// Unset is fine (`Some(None)`); unreadable is not (`None`).
fn optional_secret(reader: &mut Reader<'_>, key: &'static str) -> Option<Option<Secret>> {
    match reader.has_secret(key) {
        true => reader.secret(key).map(Some),
        false => Some(None),
    }
}

fn admin(reader: &mut Reader<'_>) -> Option<DbUser> {
    let name = reader.text("db.user");
    let password = optional_secret(reader, "db.password_file");
    Some(DbUser { name: name?, password: password? })
}

fn capture(reader: &mut Reader<'_>, admin: &DbUser) -> Option<DbUser> {
    let password = optional_secret(reader, "db.capture_password_file");
    if reader.is_set("db.capture_user") {
        return Some(DbUser { name: reader.text("db.capture_user")?, password: password? });
    }
    if password?.is_some() {
        let what = "whose password is it? Write capture_user too, or remove it";
        reader.refuse("db.capture_password_file", what);
        return None;
    }
    Some(admin.clone())
}

fn control(reader: &mut Reader<'_>) -> Option<Control> {
    const KEY: &str = "db.control";
    let commands = commands(reader);
    let text = reader.text(KEY)?;
    let commands = commands?;
    let has_commands = commands
        != ControlCommands { pid_file: commands.pid_file.clone(), output: None, ..no_commands() };
    if text != "commands" && has_commands {
        let what = format!(
            "the commands have no effect with {text:?}: write control = \"commands\", \
            or remove them"
        );
        reader.refuse(KEY, what);
        return None;
    }
    match text.split_once(':') {
        Some(("systemd", unit)) if !unit.is_empty() => Some(Control::Systemd { unit: unit.into() }),
        None if text == "commands" => check_commands(reader, commands),
        None if text == "none" => {
            reader.warn(
                KEY,
                "\"none\": a leader that is lost cannot be fenced, so its clients may \
                read old data for a while; only for a server that someone else fences",
            );
            Some(Control::None)
        }
        _ => {
            let what = format!(
                "{text:?} is unknown: write \"systemd:mariadb.service\", \
                \"commands\" or \"none\""
            );
            reader.refuse(KEY, what);
            None
        }
    }
}

fn no_commands() -> ControlCommands {
    ControlCommands {
        start: Vec::new(),
        start_default_role: Vec::new(),
        stop: Vec::new(),
        kill: Vec::new(),
        pid_file: None,
        output: None,
    }
}

fn commands(reader: &mut Reader<'_>) -> Option<ControlCommands> {
    let start = reader.command("db.start_command");
    let start_default_role = reader.command("db.start_default_role_command");
    let stop = reader.command("db.stop_command");
    let kill = reader.command("db.kill_command");
    let pid_file = optional_path(reader, "db.pid_file");
    let output = optional_path(reader, "db.command_output");
    Some(ControlCommands {
        start: start?,
        start_default_role: start_default_role?,
        stop: stop?,
        kill: kill?,
        pid_file: pid_file?,
        output: output?,
    })
}

fn optional_path(reader: &mut Reader<'_>, key: &'static str) -> Option<Option<PathBuf>> {
    match reader.is_set(key) {
        true => reader.path(key).map(Some),
        false => Some(None),
    }
}

fn check_commands(reader: &mut Reader<'_>, commands: ControlCommands) -> Option<Control> {
    if commands.start.is_empty() {
        let what = "control = \"commands\" needs it: write \
            start_command = [\"/usr/local/bin/db\", \"start\"]";
        reader.refuse("db.start_command", what);
        return None;
    }
    if commands.pid_file.is_none() && (commands.stop.is_empty() || commands.kill.is_empty()) {
        let what = "nothing tells how to stop and kill the server: write \
            pid_file = \"/run/mysqld/mysqld.pid\", or both stop_command and kill_command";
        reader.refuse("db.pid_file", what);
        return None;
    }
    Some(Control::Commands(commands))
}

fn server_id(reader: &mut Reader<'_>, id: Option<&NodeId>, members: &[Member]) -> Option<u32> {
    if reader.is_set("db.server_id") {
        return reader.number("db.server_id", u32::MAX);
    }
    let id = id?;
    let own = derived_server_id(id);
    let twin = members.iter().find(|m| m.id != *id && derived_server_id(&m.id) == own);
    if let Some(twin) = twin {
        let what = format!(
            "{id} and {} derive the same number: set it on both, such as \
            server_id = 1 and 2",
            twin.id
        );
        reader.refuse("db.server_id", what);
        return None;
    }
    Some(own)
}

/// A server ID out of a node ID: never 0, and the same on every start.
fn derived_server_id(id: &NodeId) -> u32 {
    crc32fast::hash(id.as_str().as_bytes()).max(1)
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    let level = reader.text("log.level");
    let format = reader.word("log.format");
    let level = level?;
    if let Err(error) = level.parse::<tracing_subscriber::filter::Targets>() {
        let what =
            format!("{level:?} is no level ({error}): write error, warn, info, debug or trace");
        reader.refuse("log.level", what);
        return None;
    }
    let format = if format? == "json" { LogFormat::Json } else { LogFormat::Text };
    Some(Log { level, format })
}

fn distinct_ports(reader: &mut Reader<'_>, config: &Config) {
    let feed = config.db.as_ref().map(|db| ("db.feed_listen", db.feed_listen));
    let mut seen: Vec<(&str, SocketAddr)> = Vec::new();
    let all = [("listen.grpc", config.listen.grpc), ("listen.http", config.listen.http)];
    for (key, address) in all.into_iter().chain(feed) {
        let clash = seen.iter().find(|(_, other)| {
            let same_host = address.ip() == other.ip()
                || address.ip().is_unspecified()
                || other.ip().is_unspecified();
            same_host && address.port() == other.port() && address.port() != 0
        });
        if let Some((other, _)) = clash {
            reader
                .refuse(key, format!("port {} is that of {other}: write another", address.port()));
        }
        seen.push((key, address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order_reads_numbers() {
        assert!(natural_order("node-2") < natural_order("node-10"));
        assert!(natural_order("a-1.b-2") < natural_order("a-1.b-10"));
        assert!(natural_order("node-02") < natural_order("node-10"));
    }
}
