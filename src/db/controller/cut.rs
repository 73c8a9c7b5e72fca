//! Cutting clients off without KILL, which would commit what they wait for.
//!
//! TCP sockets are destroyed by the kernel (`ss -K`, SOCK_DESTROY): the server's threads notice
//! when they next read or write, and a commit that waits goes on waiting. Unix sockets cannot be
//! destroyed so; a database with such clients is killed.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use tokio::process::Command;
use tracing::info;

use crate::db::mariadb::{DbError, Session};

/// How long `ss` may take.
const SS_TIMEOUT: Duration = Duration::from_secs(2);

/// Cuts all clients off; `false` if that is not possible here. Connections of this process (capture
/// among them) stay, and so do local sessions of the admin user.
pub(super) async fn cut_clients(session: &mut Session, admin_user: &str) -> Result<bool, DbError> {
    let clients = session.clients().await?;
    let foreign = clients.iter().filter(|client| client.user != admin_user);
    let (unix, tcp): (Vec<_>, Vec<_>) = foreign.partition(|client| !client.host.contains(':'));
    if !unix.is_empty() {
        info!(clients = unix.len(), "clients on the unix socket cannot be cut off");
        return Ok(false);
    }
    if tcp.is_empty() {
        return Ok(true);
    }
    let port = session.variables(&["port"]).await?.pop().map(|(_, port)| port);
    let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) else { return Ok(false) };
    Ok(destroy(port).await.unwrap_or(false))
}

async fn destroy(port: u16) -> Option<bool> {
    let ours = ss(&["-tnpH", "state", "established", &format!("dport = :{port}")]).await?;
    let mut filter = format!("( sport = :{port}");
    for own in own_ports(&ours, std::process::id()) {
        filter.push_str(&format!(" and dport != :{own}"));
    }
    filter.push_str(" )");
    let there = ss(&["-tnH", "state", "established", &filter]).await?;
    ss(&["-K", "-tnH", "state", "established", &filter]).await?;
    let still = ss(&["-tnH", "state", "established", &filter]).await?;
    // Who connects meanwhile was never served as by a leader: its commits would only wait.
    let left = connections(&there).intersection(&connections(&still)).count();
    Some(left == 0)
}

/// Local and peer address of each connection in `ss -tnH state …` output.
fn connections(listing: &str) -> BTreeSet<(String, String)> {
    let fields = |line: &str| {
        let mut fields = line.split_whitespace().skip(2).map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    listing.lines().filter_map(fields).collect()
}

/// Local ports of the connections that process `pid` holds, in `ss -tnpH state …` output: receive
/// queue, send queue, local, peer, process.
fn own_ports(listing: &str, pid: u32) -> Vec<u16> {
    let owner = format!("pid={pid},");
    let lines = listing.lines().filter(|line| line.contains(&owner));
    let local = lines.filter_map(|line| line.split_whitespace().nth(2));
    local.filter_map(|address| address.rsplit_once(':')?.1.parse().ok()).collect()
}

/// What `ss` prints; its exit code says nothing about single sockets.
async fn ss(arguments: &[&str]) -> Option<String> {
    let run = Command::new("ss").args(arguments).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(SS_TIMEOUT, run).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_connections_are_known_by_process() {
        let listing = "0 0 127.0.0.1:40710 127.0.0.1:3306 users:((\"wolfscale\",pid=42,fd=9))\n\
                       0 0 127.0.0.1:40711 127.0.0.1:3306 users:((\"php\",pid=421,fd=9))\n";
        assert_eq!(own_ports(listing, 42), [40710]);
        let addresses = connections(listing);
        assert!(addresses.contains(&("127.0.0.1:40711".into(), "127.0.0.1:3306".into())));
        assert_eq!(addresses.len(), 2);
    }
}
