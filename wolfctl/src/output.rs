//! Words and tables. JSON keys and words are stable: programs read them.

use std::io::IsTerminal;

use anyhow::Result;
use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

use crate::wire::{DatabaseState, Liveness, Role, Server, Standing};

/// A server, as JSON shows it.
#[derive(Serialize)]
pub struct ServerView {
    pub id: String,
    pub address: String,
    pub role: &'static str,
    pub state: &'static str,
    pub last_seen_ms: Option<u64>,
    pub durable_lsn: u64,
    pub applied_lsn: u64,
    pub eligible: bool,
    pub database: Option<&'static str>,
    pub standing: &'static str,
    pub never_leader: bool,
    pub demoted: bool,
    pub preferred: bool,
}

impl From<&Server> for ServerView {
    fn from(server: &Server) -> Self {
        Self {
            id: server.id.clone(),
            address: server.address.clone(),
            role: role(server.role()),
            state: liveness(server.liveness()),
            last_seen_ms: server.silent_ms,
            durable_lsn: server.durable_lsn,
            applied_lsn: server.applied_lsn,
            eligible: server.eligible,
            database: server.database.is_some().then(|| database(server.database())),
            standing: standing(server.standing()),
            never_leader: server.never_leader,
            demoted: server.demoted,
            preferred: server.preferred,
        }
    }
}

/// Prints a line; ends the program if nobody reads it any more.
pub fn line(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints as indented JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    out!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// The servers as a table.
pub fn servers(servers: &[ServerView]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "ID",
        "ADDRESS",
        "ROLE",
        "STATE",
        "STANDING",
        "LAST SEEN",
        "DURABLE LSN",
        "APPLIED LSN",
        "DATABASE",
    ]);
    for server in servers {
        let dead = server.state == "dead";
        table.add_row([
            Cell::new(&server.id),
            Cell::new(&server.address),
            Cell::new(if dead { "-" } else { server.role }),
            coloured(server.state, if dead { Color::Red } else { Color::Green }),
            Cell::new(part(server)),
            Cell::new(last_seen(server.last_seen_ms)),
            Cell::new(server.durable_lsn),
            Cell::new(server.applied_lsn),
            Cell::new(server.database.filter(|_| !dead).unwrap_or("-")),
        ]);
    }
    table
}

fn coloured(text: &str, colour: Color) -> Cell {
    let cell = Cell::new(text);
    if std::io::stdout().is_terminal() { cell.fg(colour) } else { cell }
}

fn last_seen(silent_ms: Option<u64>) -> String {
    match silent_ms {
        None => "never".to_owned(),
        Some(0) => "now".to_owned(),
        Some(ms) if ms < 1_000 => format!("{ms} ms ago"),
        Some(ms) => format!("{} s ago", ms / 1_000),
    }
}

/// The word for a role.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "unknown",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// A standing, with what an operator has set.
fn part(server: &ServerView) -> String {
    let marks = [
        (server.preferred, "pinned"),
        (server.demoted, "demoted"),
        (server.never_leader, "never leads"),
    ];
    let marks = marks.into_iter().filter(|(set, _)| *set).map(|(_, mark)| mark);
    std::iter::once(server.standing).chain(marks).collect::<Vec<_>>().join(", ")
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Unspecified => "none",
        Standing::Member => "member",
        Standing::Learner => "learner",
        Standing::Witness => "witness",
    }
}

fn liveness(liveness: Liveness) -> &'static str {
    match liveness {
        Liveness::Unspecified => "unknown",
        Liveness::Alive => "alive",
        Liveness::Dead => "dead",
    }
}

/// The word for a database's state.
pub fn database(state: DatabaseState) -> &'static str {
    match state {
        DatabaseState::Unspecified => "unknown",
        DatabaseState::Starting => "starting",
        DatabaseState::Unreachable => "unreachable",
        DatabaseState::Misconfigured => "misconfigured",
        DatabaseState::Following => "following",
        DatabaseState::Promoting => "promoting",
        DatabaseState::Leading => "leading",
        DatabaseState::Demoting => "demoting",
        DatabaseState::NeedsMigration => "needs_migration",
    }
}
