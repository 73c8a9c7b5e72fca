//! Every setting, declared once: the file, the environment, the template and the docs follow it.

/// What values a setting takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path; a relative one counts from the configuration file's directory.
    Path,
    /// A path to a file that holds a secret. The secret itself may come from the environment
    /// variable named here.
    SecretFile(&'static str),
    /// `ip:port`.
    SocketAddress,
    /// Such as `700ms`.
    Duration,
    /// `true` or `false`.
    Bool,
    /// A whole number, 1 or more.
    Number,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// A program and its arguments.
    Command,
    /// `[{ id = "…", address = "host:port" }, …]`
    Members,
}

impl Kind {
    /// The kind in words, for docs and messages.
    pub fn describe(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Path => "path".into(),
            Self::SecretFile(variable) => format!("path of a secret file (or `{variable}`)"),
            Self::SocketAddress => "`ip:port`".into(),
            Self::Duration => "duration".into(),
            Self::Bool => "`true` or `false`".into(),
            Self::Number => "whole number".into(),
            Self::OneOf(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Command => "list: program, arguments".into(),
            Self::Members => "list of `{ id, address }`".into(),
        }
    }
}

/// What holds while a setting is not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Default {
    /// It must be set.
    Required,
    /// This value, as TOML.
    Toml(&'static str),
    /// Something else, in words.
    Unset(&'static str),
}

/// One setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setting {
    /// `section.name`
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// An example, as TOML, for the commented file.
    pub example: &'static str,
    /// What it does, one or two sentences.
    pub help: &'static str,
    /// It is accepted and checked, and nothing acts on it in this version.
    pub reserved: bool,
}

/// What is said of a reserved setting.
pub const RESERVED: &str = "Reserved: this version does not use it yet.";

impl Setting {
    /// The setting of that name.
    pub fn named(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Its section.
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section.
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("WOLFSCALE_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Its help, which begins with [`RESERVED`] where that holds.
    pub fn full_help(&self) -> String {
        match self.reserved {
            true => format!("{RESERVED} {}", self.help),
            false => self.help.to_owned(),
        }
    }
}

const fn required(
    key: &'static str,
    kind: Kind,
    example: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind, default: Default::Required, example, help, reserved: false }
}

const fn with(key: &'static str, kind: Kind, toml: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default: Default::Toml(toml), example: toml, help, reserved: false }
}

/// A setting that later versions use, and this one only checks.
const fn reserved(
    key: &'static str,
    kind: Kind,
    toml: &'static str,
    help: &'static str,
) -> Setting {
    Setting { reserved: true, ..with(key, kind, toml, help) }
}

const fn unset(
    key: &'static str,
    kind: Kind,
    otherwise: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, kind, default: Default::Unset(otherwise), example, help, reserved: false }
}

/// The sections, with what each is about.
pub const SECTIONS: [(&str, &str); 7] = [
    ("node", "This node."),
    ("cluster", "The cluster. All of it but `never_leader` is the same on every node."),
    ("listen", "Where the node listens."),
    ("api", "The admin API (gRPC), which wolfctl uses."),
    ("http", "Metrics and health (HTTP)."),
    ("db", "The database beside this node. Without this section the node runs none."),
    ("log", "The node's own log lines, on standard error."),
];

/// Every setting, by section.
pub const SETTINGS: &[Setting] = &[
    required(
        "node.id",
        Kind::Text,
        "\"node-1\"",
        "Names the node; unique in the cluster, 1 to 63 \
        characters of a-z, 0-9, '-' and '.'. The lowest live ID (byte order) leads.",
    ),
    with(
        "node.data_dir",
        Kind::Path,
        "\"/var/lib/wolfscale\"",
        "Where the node keeps its stores; \
        on a local disk, used by this node alone.",
    ),
    required(
        "cluster.secret_file",
        Kind::SecretFile("WOLFSCALE_CLUSTER_SECRET"),
        "\"/etc/wolfscale/secret\"",
        "What all nodes know and nobody else: at least 16 random bytes \
        in a file that only the node's user reads. Peers prove to each other that they know it.",
    ),
    required(
        "cluster.initial_members",
        Kind::Members,
        "[{ id = \"node-1\", address = \"10.0.0.1:8080\" }]",
        "The members that found the cluster, \
        the same list on every node, this node included. Addresses are `host:port` of `listen.grpc`; \
        the host may be a DNS name. In the environment: `node-1=10.0.0.1:8080,node-2=…`.",
    ),
    with(
        "cluster.policy",
        Kind::OneOf(&["majority"]),
        "\"majority\"",
        "How the cluster fails \
        over: `majority` goes on while more than half of the members are there.",
    ),
    with(
        "cluster.heartbeat",
        Kind::Duration,
        "\"100ms\"",
        "How often every node tells every other \
        that it is there; at most a quarter of `suspect_after`.",
    ),
    with(
        "cluster.suspect_after",
        Kind::Duration,
        "\"500ms\"",
        "Silence after which a node is taken \
        for lost; longer than `lease`.",
    ),
    with(
        "cluster.lease",
        Kind::Duration,
        "\"400ms\"",
        "For so long after a leader's heartbeat no \
        node promises anything to another; longer than `heartbeat`.",
    ),
    with(
        "cluster.stand_step",
        Kind::Duration,
        "\"150ms\"",
        "A node stands so much later for each \
        live one that ranks before it; longer than a network round trip.",
    ),
    with(
        "cluster.drop_after",
        Kind::Duration,
        "\"700ms\"",
        "Silence after which the leader drops a \
        member; at least `suspect_after`.",
    ),
    reserved(
        "cluster.takeover_after",
        Kind::Duration,
        "\"3s\"",
        "When a survivor without a quorum may \
        go on; longer than `drop_after` + `stand_step` × members. Without effect under `majority`.",
    ),
    with(
        "cluster.preempt_after",
        Kind::Duration,
        "\"10s\"",
        "How long a returned lower ID must be \
        stable before it is handed the leadership.",
    ),
    reserved(
        "cluster.slow_member_after",
        Kind::Duration,
        "\"1s\"",
        "When a member whose durable \
        position does not move while entries wait counts as slow.",
    ),
    reserved(
        "cluster.cold_start_wait",
        Kind::Duration,
        "\"5m\"",
        "How long a cold start waits for all \
        members before a quorum goes on.",
    ),
    with(
        "cluster.never_leader",
        Kind::Bool,
        "false",
        "This node holds data and votes but never \
        leads.",
    ),
    with(
        "listen.grpc",
        Kind::SocketAddress,
        "\"0.0.0.0:8080\"",
        "Peers and the admin API. Peers \
        prove that they know the secret; API calls bring the token.",
    ),
    with(
        "listen.http",
        Kind::SocketAddress,
        "\"127.0.0.1:8081\"",
        "Metrics and health. Anywhere but \
        on loopback it needs `http.token_file`.",
    ),
    unset(
        "api.token_file",
        Kind::SecretFile("WOLFSCALE_API_TOKEN"),
        "derived from the cluster secret",
        "\"/etc/wolfscale/api-token\"",
        "The bearer token of the \
        admin API, at least 16 bytes. Unset, it is derived from the cluster secret, and wolfctl \
        derives the same.",
    ),
    unset(
        "http.token_file",
        Kind::SecretFile("WOLFSCALE_HTTP_TOKEN"),
        "none",
        "\"/etc/wolfscale/http-token\"",
        "The bearer token that HTTP requests must bring, at least 16 \
        bytes.",
    ),
    with(
        "http.allow_unauthenticated",
        Kind::Bool,
        "false",
        "Serves HTTP without a token although \
        `listen.http` is not on loopback.",
    ),
    unset(
        "db.socket",
        Kind::Path,
        "none",
        "\"/run/mysqld/mysqld.sock\"",
        "The server's unix socket. \
        Either this, or `host` and `port`.",
    ),
    unset(
        "db.host",
        Kind::Text,
        "none",
        "\"127.0.0.1\"",
        "The server's host, where there is no \
        socket. It must be a server of this node alone.",
    ),
    unset("db.port", Kind::Number, "3306 where `host` is set", "3306", "The server's port."),
    with(
        "db.user",
        Kind::Text,
        "\"root\"",
        "The server's user through which the node administers \
        it; it needs ALL PRIVILEGES.",
    ),
    unset(
        "db.password_file",
        Kind::SecretFile("WOLFSCALE_DB_PASSWORD"),
        "no password",
        "\"/etc/wolfscale/db-password\"",
        "Its password. Without one the server must let the node's \
        system user in (`unix_socket`).",
    ),
    unset(
        "db.capture_user",
        Kind::Text,
        "`user`",
        "\"wolfscale_capture\"",
        "The server's user that \
        reads its binlog; it needs REPLICATION SLAVE.",
    ),
    unset(
        "db.capture_password_file",
        Kind::SecretFile("WOLFSCALE_DB_CAPTURE_PASSWORD"),
        "that of `user`, if `capture_user` is unset",
        "\"/etc/wolfscale/capture-password\"",
        "Its \
        password.",
    ),
    with(
        "db.timeout",
        Kind::Duration,
        "\"5s\"",
        "How long a connection or a statement of the node \
        may take before the server counts as not answering.",
    ),
    with(
        "db.control",
        Kind::Text,
        "\"systemd:mariadb.service\"",
        "How the node stops, kills and \
        starts the server: `systemd:UNIT`, `commands` (the ones below) or `none`, which leaves a \
        leader that is lost unfenced.",
    ),
    unset(
        "db.start_command",
        Kind::Command,
        "none",
        "[\"/usr/local/bin/db\", \"start\"]",
        "Starts \
        the server with `init_rpl_role=SLAVE`. Run without a shell.",
    ),
    unset(
        "db.start_default_role_command",
        Kind::Command,
        "none",
        "[\"/usr/local/bin/db\", \"start\", \"--role=default\"]",
        "Starts the server without \
        `init_rpl_role`; used only after `start_command` has failed.",
    ),
    unset(
        "db.stop_command",
        Kind::Command,
        "SIGTERM by `pid_file`",
        "[\"/usr/local/bin/db\", \"stop\"]",
        "Stops the server gracefully.",
    ),
    unset(
        "db.kill_command",
        Kind::Command,
        "SIGKILL by `pid_file`",
        "[\"/usr/local/bin/db\", \"kill\"]",
        "Kills the server at once.",
    ),
    unset(
        "db.pid_file",
        Kind::Path,
        "none",
        "\"/run/mysqld/mysqld.pid\"",
        "Where the server writes \
        its process ID; needed with `commands` unless both `stop_command` and `kill_command` are \
        set.",
    ),
    unset(
        "db.command_output",
        Kind::Path,
        "discarded",
        "\"/var/log/wolfscale-db.log\"",
        "Where the \
        commands' output is appended.",
    ),
    with(
        "db.dropin_path",
        Kind::Path,
        "\"/etc/mysql/mariadb.conf.d/99-wolfscale.cnf\"",
        "The option \
        file that `wolfctl db configure` writes.",
    ),
    with(
        "db.init_file",
        Kind::Path,
        "\"/etc/mysql/wolfscale-init.sql\"",
        "The server's `init_file` \
        that `wolfctl db configure` writes.",
    ),
    unset(
        "db.server_id",
        Kind::Number,
        "derived from `node.id`",
        "1",
        "`@@server_id` of the server, \
        unique in the cluster.",
    ),
    with(
        "db.feed_listen",
        Kind::SocketAddress,
        "\"127.0.0.1:8009\"",
        "Where the node serves the \
        binlog to its own database.",
    ),
    with("db.feed_user", Kind::Text, "\"wolfscale_feed\"", "As whom the database connects there."),
    unset(
        "db.feed_password_file",
        Kind::SecretFile("WOLFSCALE_DB_FEED_PASSWORD"),
        "derived from the cluster secret",
        "\"/etc/wolfscale/feed-password\"",
        "With what \
        password.",
    ),
    reserved(
        "db.apply_lag_max",
        Kind::Duration,
        "\"30s\"",
        "A node whose database lags more than this \
        does not stand for leader.",
    ),
    with(
        "db.event_scheduler",
        Kind::Bool,
        "false",
        "Whether the leader's event scheduler runs; a \
        follower's never does, as its events come by the log.",
    ),
    with(
        "log.level",
        Kind::Text,
        "\"info\"",
        "A level (error, warn, info, debug, trace), or \
        directives such as `info,wolfscale::db=debug`.",
    ),
    with("log.format", Kind::OneOf(&["text", "json"]), "\"text\"", "The form of a line."),
];

/// Variables of the environment that hold a secret itself.
pub fn secret_variables() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().filter_map(|setting| match setting.kind {
        Kind::SecretFile(variable) => Some(variable),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_declared_once_in_a_known_section() {
        let keys: BTreeSet<_> = SETTINGS.iter().map(|s| s.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
        let variables: BTreeSet<_> = SETTINGS
            .iter()
            .map(Setting::variable)
            .chain(secret_variables().map(str::to_owned))
            .collect();
        assert_eq!(variables.len(), SETTINGS.len() + secret_variables().count());
        for setting in SETTINGS {
            assert!(SECTIONS.iter().any(|(name, _)| *name == setting.section()), "{}", setting.key);
            assert!(setting.help.ends_with('.'), "{}", setting.key);
        }
    }

    #[test]
    fn examples_are_toml() {
        for setting in SETTINGS {
            let text = format!("x = {}", setting.example);
            assert!(text.parse::<toml::Table>().is_ok(), "{}: {text}", setting.key);
        }
    }
}
