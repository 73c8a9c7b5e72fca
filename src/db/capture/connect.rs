//! Logging in to the local database as its semi-synchronous replica.

use std::{fmt, time::Duration};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::db::{
    gtid::Gtid,
    protocol::{
        client::{Client, Endpoint, ReadHalf, WriteHalf},
        packet::{PayloadReader, WireError, server_error},
    },
};

/// The period of the server's heartbeats.
const HEARTBEAT_NS: u64 = 1_000_000_000;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_BINLOG_DUMP: u8 = 0x12;
/// The dump carries Annotate_rows events, too.
const DUMP_ANNOTATE: u16 = 2;

/// How the local database is captured.
#[derive(Clone)]
pub struct CaptureSettings {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// A user with REPLICATION SLAVE.
    pub user: String,
    /// Its password.
    pub password: Zeroizing<String>,
    /// A server id that no database uses.
    pub server_id: u32,
    /// How long connecting may take, up to the first event.
    pub connect_timeout: Duration,
}

impl fmt::Debug for CaptureSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CaptureSettings({}@{} as {})", self.user, self.endpoint, self.server_id)
    }
}

/// Why capture did not start. Rejected: nothing was proposed or acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No connection, or it does not let us in.
    #[error("capture: connect to {endpoint}: {source}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// What failed.
        source: WireError,
    },
    /// It does not let us be its replica.
    #[error("capture: {what}: {source}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it says.
        source: WireError,
    },
    /// It sends events, but waits for no acknowledgement: `rpl_semi_sync_master_enabled` is off.
    #[error("capture: the server does not treat us as a semi-synchronous replica")]
    NotSemiSync,
    /// It took too long.
    #[error("capture: no binlog stream from {endpoint} within {timeout:?}")]
    TimedOut {
        /// Where.
        endpoint: Endpoint,
        /// The limit.
        timeout: Duration,
    },
}

/// A binlog stream that has begun.
pub(super) struct Stream {
    pub reader: PayloadReader<ReadHalf>,
    pub writer: WriteHalf,
    /// The first payload.
    pub first: Bytes,
}

/// Connects behind `from`, the last transaction that the log holds.
pub(super) async fn connect(
    settings: &CaptureSettings,
    from: Option<Gtid>,
) -> Result<Stream, CaptureError> {
    let begun = tokio::time::timeout(settings.connect_timeout, begin(settings, from)).await;
    begun.unwrap_or_else(|_| {
        let (endpoint, timeout) = (settings.endpoint.clone(), settings.connect_timeout);
        Err(CaptureError::TimedOut { endpoint, timeout })
    })
}

async fn begin(settings: &CaptureSettings, from: Option<Gtid>) -> Result<Stream, CaptureError> {
    let connected = Client::connect(&settings.endpoint, &settings.user, &settings.password).await;
    let mut client = connected.map_err(|source| {
        let endpoint = settings.endpoint.clone();
        CaptureError::Connect { endpoint, source }
    })?;
    let refused = |what| move |source| CaptureError::Refused { what, source };
    let enabled = client.value("SELECT @@GLOBAL.rpl_semi_sync_master_enabled").await;
    if enabled.map_err(refused("ask for semi-sync"))?.as_deref() != Some("1") {
        return Err(CaptureError::NotSemiSync);
    }
    for sql in introduction(from) {
        client.run(&sql).await.map_err(refused("introduce the replica"))?;
    }
    client.command(&register(settings.server_id)).await.map_err(refused("register"))?;
    client.send(&dump(settings.server_id)).await.map_err(refused("ask for the binlog"))?;
    let (mut reader, writer) = client.into_parts();
    let first = reader.read().await.map_err(refused("read the binlog"))?;
    match first[..] {
        [0, 0xef, ..] => Ok(Stream { reader, writer, first }),
        [0xff, ..] => Err(refused("read the binlog")(server_error(&first))),
        _ => Err(CaptureError::NotSemiSync),
    }
}

fn introduction(from: Option<Gtid>) -> [String; 6] {
    let from = from.map(|gtid| gtid.to_string()).unwrap_or_default();
    [
        format!("SET @master_heartbeat_period={HEARTBEAT_NS}"),
        "SET @master_binlog_checksum='CRC32'".into(),
        "SET @mariadb_slave_capability=4".into(),
        format!("SET @slave_connect_state='{from}'"),
        "SET @slave_gtid_strict_mode=1".into(),
        "SET @rpl_semi_sync_slave=1".into(),
    ]
}

/// Server id, then host, user, password (none), port, rank and the source's id.
fn register(server_id: u32) -> Vec<u8> {
    let mut out = vec![COM_REGISTER_SLAVE];
    out.extend_from_slice(&server_id.to_le_bytes());
    out.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
    out
}

/// Position u32 (GTIDs decide), flags u16, server id u32, file name (none).
fn dump(server_id: u32) -> Vec<u8> {
    let mut out = vec![COM_BINLOG_DUMP];
    out.extend_from_slice(&4u32.to_le_bytes());
    out.extend_from_slice(&DUMP_ANNOTATE.to_le_bytes());
    out.extend_from_slice(&server_id.to_le_bytes());
    out
}
