//! The statements with which a replica introduces itself. No SQL beyond them is understood.

use std::time::Duration;

use crate::db::gtid::Gtid;

/// What a statement asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Which clock the server has.
    UnixTimestamp,
    /// What the server is; `SELECT VERSION()`.
    Version,
    /// Which server ID the server has; the column's name goes back.
    ServerId(&'static str),
    /// Which GTID domain the server writes in.
    DomainId,
    /// Which checksum the stream will have.
    Checksum,
    /// Whether the server replicates semi-synchronously.
    SemiSyncEnabled,
    /// How long the stream may be silent; zero for ever.
    SetHeartbeat(Duration),
    /// Whether events shall have checksums.
    SetChecksum(bool),
    /// Where to start: behind these GTIDs, at most one a domain.
    SetStart(Vec<Gtid>),
    /// Whether the replica expects semi-synchronous headers.
    SetSemiSync(bool),
    /// Something that needs an OK and nothing else.
    Accept,
}

/// The statement is none that is understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotUnderstood {
    /// The feed has no such statement.
    #[error("the feed serves replication only and does not understand this statement")]
    Statement,
    /// `START SLAVE UNTIL master_gtid_pos`.
    #[error("the feed does not support START SLAVE UNTIL")]
    Until,
    /// The value of that variable is none.
    #[error("the value of {0} is not valid")]
    Value(&'static str),
}

/// Reads a statement; case and white space do not matter.
pub fn parse(statement: &[u8]) -> Result<Request, NotUnderstood> {
    let text = std::str::from_utf8(statement).map_err(|_| NotUnderstood::Statement)?;
    let text = text.trim().trim_end_matches(';').trim_end();
    let (verb, rest) = text.split_once(char::is_whitespace).ok_or(NotUnderstood::Statement)?;
    if verb.eq_ignore_ascii_case("set") {
        return parse_set(rest.trim());
    }
    if verb.eq_ignore_ascii_case("kill") {
        let connection = rest.trim().bytes().all(|byte| byte.is_ascii_digit());
        return connection.then_some(Request::Accept).ok_or(NotUnderstood::Statement);
    }
    let mut canonical: String = text.split_whitespace().collect();
    canonical.make_ascii_lowercase();
    Ok(match canonical.as_str() {
        "selectunix_timestamp()" => Request::UnixTimestamp,
        "selectversion()" => Request::Version,
        "showvariableslike'server_id'" => Request::ServerId("Value"),
        "select@@global.server_id" => Request::ServerId("@@GLOBAL.server_id"),
        "select@@global.gtid_domain_id" => Request::DomainId,
        "select@master_binlog_checksum" => Request::Checksum,
        "showvariableslike'rpl_semi_sync_master_enabled'" => Request::SemiSyncEnabled,
        _ => return Err(NotUnderstood::Statement),
    })
}

fn parse_set(assignment: &str) -> Result<Request, NotUnderstood> {
    let Some((name, value)) = assignment.split_once('=') else {
        let names = assignment.get(..5).is_some_and(|front| front.eq_ignore_ascii_case("names"));
        return names.then_some(Request::Accept).ok_or(NotUnderstood::Statement);
    };
    let name = name.trim().trim_end_matches(':').trim_end().to_ascii_lowercase();
    let value = value.trim();
    let bare = value.trim_matches(['\'', '"']);
    match name.as_str() {
        "@master_heartbeat_period" => {
            let nanoseconds = bare.parse().map_err(|_| NotUnderstood::Value("heartbeat period"))?;
            Ok(Request::SetHeartbeat(Duration::from_nanos(nanoseconds)))
        }
        "@master_binlog_checksum" => Ok(Request::SetChecksum(!bare.eq_ignore_ascii_case("none"))),
        "@slave_connect_state" => parse_gtids(bare).map(Request::SetStart),
        "@rpl_semi_sync_slave" => Ok(Request::SetSemiSync(bare != "0")),
        "@slave_until_gtid" => Err(NotUnderstood::Until),
        "@mariadb_slave_capability"
        | "@slave_gtid_strict_mode"
        | "@slave_gtid_ignore_duplicates"
        | "net_read_timeout"
        | "net_write_timeout" => Ok(Request::Accept),
        _ => Err(NotUnderstood::Statement),
    }
}

fn parse_gtids(list: &str) -> Result<Vec<Gtid>, NotUnderstood> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let gtids: Result<_, _> = parts.map(str::parse).collect();
    gtids.map_err(|_| NotUnderstood::Value("slave_connect_state"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_replica_sends_is_understood() {
        let gtid = |text: &str| text.parse().expect("valid");
        let second = Duration::from_secs(1);
        for (statement, request) in [
            ("SELECT UNIX_TIMESTAMP()", Request::UnixTimestamp),
            ("SHOW VARIABLES LIKE 'SERVER_ID'", Request::ServerId("Value")),
            ("SET @master_heartbeat_period= 1000000000", Request::SetHeartbeat(second)),
            ("SET @master_binlog_checksum= @@global.binlog_checksum", Request::SetChecksum(true)),
            ("set @master_binlog_checksum='NONE'", Request::SetChecksum(false)),
            ("SELECT @master_binlog_checksum", Request::Checksum),
            ("SET @mariadb_slave_capability=4", Request::Accept),
            ("SELECT @@GLOBAL.gtid_domain_id", Request::DomainId),
            ("  select\n@@global.GTID_DOMAIN_ID ; ", Request::DomainId),
            ("SET @slave_connect_state=''", Request::SetStart(vec![])),
            ("SET @slave_connect_state='0-1-9'", Request::SetStart(vec![gtid("0-1-9")])),
            (
                "SET  @slave_connect_state = '0-1-9, 1-2-3'",
                Request::SetStart(vec![gtid("0-1-9"), gtid("1-2-3")]),
            ),
            ("SET @rpl_semi_sync_slave= 1", Request::SetSemiSync(true)),
            ("SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'", Request::SemiSyncEnabled),
            ("KILL 12", Request::Accept),
            ("SET NAMES utf8mb4", Request::Accept),
        ] {
            assert_eq!(parse(statement.as_bytes()), Ok(request), "{statement}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for statement in
            ["", "SELECT 1", "DROP TABLE t", "SET @x=1", "SET GLOBAL read_only=0", "KILL QUERY 1"]
        {
            assert_eq!(parse(statement.as_bytes()), Err(NotUnderstood::Statement), "{statement}");
        }
        assert_eq!(parse(b"SET @slave_until_gtid='0-1-2'"), Err(NotUnderstood::Until));
        for bad in ["'0-1'", "'0-1-2-3'", "'x'", "'0-1-99999999999999999999'"] {
            let statement = format!("SET @slave_connect_state={bad}");
            let refused = parse(statement.as_bytes());
            assert_eq!(refused, Err(NotUnderstood::Value("slave_connect_state")), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"SET ", &bytes[..]].concat());
            let _ = parse(&[b"SET @slave_connect_state=", &bytes[..]].concat());
        }
    }
}
