//! One connection: login, questions, and the stream.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tracing::warn;

use super::{
    error::FeedError,
    outbox::{Outbox, Style},
    query::{self, NotUnderstood, Request},
    server::{Context, ReplicaStatus},
    stream::{Start, Stream},
};
use crate::db::protocol::{
    packet::{PayloadReader, WireError, put_payload},
    server::{self, Login, SCRAMBLE_BYTES, Scramble},
    value::{Malformed, Reader},
};

const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_LOGGED_CHARS_MAX: usize = 200;

const ACCESS_DENIED: u16 = 1045;
const UNKNOWN_COMMAND: u16 = 1047;
const NOT_SUPPORTED: u16 = 1235;

/// The first byte of a command.
mod command {
    pub const QUIT: u8 = 0x01;
    pub const QUERY: u8 = 0x03;
    pub const PING: u8 = 0x0e;
    pub const BINLOG_DUMP: u8 = 0x12;
    pub const REGISTER_SLAVE: u8 = 0x15;
}

/// Flags of COM_BINLOG_DUMP.
const DUMP_NON_BLOCKING: u16 = 1;
const DUMP_WANTS_ANNOTATIONS: u16 = 2;

/// Serves a connection until it ends.
pub(super) async fn run(
    stream: TcpStream,
    context: Arc<Context>,
    number: u32,
) -> Result<(), FeedError> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let asked = Asked { start: None, checksum: false, semi_sync: false, heartbeat: Duration::ZERO };
    let reader = PayloadReader::new(reader);
    let mut session = Session { reader, writer: Some(writer), context, number, asked };
    match timeout(LOGIN_TIMEOUT, session.login()).await {
        Ok(Ok(true)) => session.converse().await,
        Ok(Ok(false)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(WireError::from(Malformed("login took too long")).into()),
    }
}

/// What the replica has set so far.
struct Asked {
    start: Option<Start>,
    checksum: bool,
    semi_sync: bool,
    heartbeat: Duration,
}

struct Session {
    reader: PayloadReader<OwnedReadHalf>,
    /// Lent to the stream while that runs.
    writer: Option<OwnedWriteHalf>,
    context: Arc<Context>,
    number: u32,
    asked: Asked,
}

impl Session {
    /// Tells whether the client may go on.
    async fn login(&mut self) -> Result<bool, FeedError> {
        let mut random = [0; SCRAMBLE_BYTES];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let scramble = Scramble::new(random);
        self.send(0, &[server::greeting(self.number, &scramble)]).await?;
        let mut login = Login::parse(&self.reader.read().await?).map_err(WireError::from)?;
        if login.needs_switch() {
            self.reply(&[server::switch_plugin(&scramble)]).await?;
            login.answer = self.reader.read().await?.to_vec();
        }
        let settings = &self.context.settings;
        let proven = scramble.proves(&login.answer, &settings.password);
        if proven && login.user == settings.user {
            self.reply(&[server::ok()]).await?;
            return Ok(true);
        }
        warn!(user = login.user, "a replica was refused");
        let message = format!("Access denied for user '{}'", login.user);
        self.reply(&[server::err(ACCESS_DENIED, "28000", &message)]).await?;
        Ok(false)
    }

    async fn converse(&mut self) -> Result<(), FeedError> {
        loop {
            let payload = self.reader.read().await?;
            match payload.split_first() {
                Some((&command::QUIT, _)) => return Ok(()),
                Some((&command::QUERY, statement)) => self.answer(statement).await?,
                Some((&(command::PING | command::REGISTER_SLAVE), _)) => {
                    self.reply(&[server::ok()]).await?;
                }
                Some((&command::BINLOG_DUMP, rest)) => {
                    let dump = Dump::parse(rest).map_err(WireError::from)?;
                    self.stream(&dump).await?;
                }
                _ => {
                    let refusal = server::err(UNKNOWN_COMMAND, "08S01", "Unknown command");
                    self.reply(&[refusal]).await?;
                }
            }
        }
    }

    async fn answer(&mut self, statement: &[u8]) -> Result<(), FeedError> {
        let payloads = match query::parse(statement) {
            Ok(request) => self.take(request),
            Err(refusal) => vec![refuse(statement, &refusal)],
        };
        self.reply(&payloads).await
    }

    fn take(&mut self, request: Request) -> Vec<Vec<u8>> {
        let one = |name: &str, value: &str| server::result_set(&[name], &[&[value]]);
        match request {
            Request::UnixTimestamp => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                return one("UNIX_TIMESTAMP()", &now.as_secs().to_string());
            }
            Request::Version => return one("VERSION()", server::SERVER_VERSION),
            Request::ServerId(column) => {
                let id = self.context.settings.server_id.to_string();
                return match column {
                    "Value" => variable("server_id", &id),
                    column => one(column, &id),
                };
            }
            Request::DomainId => return one("@@GLOBAL.gtid_domain_id", "0"),
            Request::Checksum => return one("@master_binlog_checksum", self.checksum()),
            Request::SemiSyncEnabled => return variable("rpl_semi_sync_master_enabled", "ON"),
            Request::SetHeartbeat(period) => self.asked.heartbeat = period,
            Request::SetChecksum(wanted) => self.asked.checksum = wanted,
            Request::SetStart(gtids) => self.asked.start = Some(Start(gtids)),
            Request::SetSemiSync(wanted) => self.asked.semi_sync = wanted,
            Request::Accept => {}
        }
        vec![server::ok()]
    }

    fn checksum(&self) -> &'static str {
        if self.asked.checksum { "CRC32" } else { "NONE" }
    }

    /// Streams until the connection ends, or the end of the log if the client does not wait.
    async fn stream(&mut self, dump: &Dump) -> Result<(), FeedError> {
        let style = Style {
            checksum: self.asked.checksum,
            semi_sync: self.asked.semi_sync,
            annotate: dump.flags & DUMP_WANTS_ANNOTATIONS != 0,
            heartbeat: self.asked.heartbeat,
        };
        let writer = self.writer.take().expect("it is only lent while a stream runs");
        let sequence = self.reader.sequence.wrapping_add(1);
        let outbox = Outbox::new(writer, sequence, style, self.context.settings.server_id);
        let presence = Presence::enter(self.context.clone(), self.number, dump.server_id);
        let mut stream = Stream::new(
            &mut self.reader,
            outbox,
            &self.context,
            presence,
            dump.flags & DUMP_NON_BLOCKING == 0,
        );
        let start = match self.asked.start.clone() {
            Some(start) => Ok(start),
            None if dump.file.is_empty() && dump.position <= 4 => Ok(Start::default()),
            None => Err(FeedError::Start("this server is followed by GTID, not by file name")),
        };
        let ended = match start {
            Ok(start) => stream.run(&start).await,
            Err(error) => Err(error),
        };
        let mut outbox = stream.into_outbox();
        match &ended {
            Ok(()) => outbox.plain(&server::eof()).await?,
            Err(error) => {
                if let Some(farewell) = error.farewell() {
                    outbox.plain(&farewell).await?;
                }
            }
        }
        self.writer = Some(outbox.into_parts().0);
        ended
    }

    async fn reply(&mut self, payloads: &[Vec<u8>]) -> Result<(), FeedError> {
        self.send(self.reader.sequence.wrapping_add(1), payloads).await
    }

    async fn send(&mut self, mut sequence: u8, payloads: &[Vec<u8>]) -> Result<(), FeedError> {
        use tokio::io::AsyncWriteExt;
        let mut out = Vec::new();
        payloads.iter().for_each(|payload| put_payload(&mut out, &mut sequence, payload));
        let writer = self.writer.as_mut().expect("it is only lent while a stream runs");
        Ok(writer.write_all(&out).await?)
    }
}

fn refuse(statement: &[u8], refusal: &NotUnderstood) -> Vec<u8> {
    let text = String::from_utf8_lossy(statement);
    let text: String = text.chars().take(STATEMENT_LOGGED_CHARS_MAX).collect();
    warn!(statement = text, %refusal, "a replica asks for something unknown");
    server::err(NOT_SUPPORTED, "42000", &refusal.to_string())
}

fn variable(name: &str, value: &str) -> Vec<Vec<u8>> {
    server::result_set(&["Variable_name", "Value"], &[&[name, value]])
}

/// COM_BINLOG_DUMP: position u32, flags u16, server u32, file to the end.
#[derive(Debug, PartialEq, Eq)]
struct Dump {
    position: u32,
    flags: u16,
    server_id: u32,
    file: Vec<u8>,
}

impl Dump {
    fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        Ok(Self {
            position: reader.u32("dump position")?,
            flags: reader.u16("dump flags")?,
            server_id: reader.u32("dump server id")?,
            file: reader.0.to_vec(),
        })
    }
}

/// Shows the replica as connected, for as long as this lives.
pub(super) struct Presence {
    context: Arc<Context>,
    number: u32,
    /// Its server ID.
    pub server_id: u32,
}

impl Presence {
    fn enter(context: Arc<Context>, number: u32, server_id: u32) -> Self {
        let status = ReplicaStatus { server_id, started_at: None, last_sent: None };
        context.replicas.send_modify(|replicas| {
            replicas.insert(number, status);
        });
        Self { context, number, server_id }
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut ReplicaStatus)) {
        self.context.replicas.send_modify(|replicas| {
            if let Some(status) = replicas.get_mut(&self.number) {
                change(status);
            }
        });
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.context.replicas.send_modify(|replicas| {
            replicas.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dumps_are_read() {
        let dump = Dump::parse(b"\x04\0\0\0\x02\0\x07\0\0\0f.1").expect("valid");
        let expected = Dump { position: 4, flags: 2, server_id: 7, file: b"f.1".to_vec() };
        assert_eq!(dump, expected);
        assert!(Dump::parse(b"\x04\0\0\0\x02\0\x07\0\0").is_err());
    }

    proptest! {
        #[test]
        fn no_dump_panics(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let _ = Dump::parse(&bytes);
        }
    }
}
