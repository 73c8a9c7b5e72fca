//! The client's side of a connection: log in, send commands, leave the stream to the caller.
//!
//! Only `mysql_native_password` is spoken (and `unix_socket`, which needs no answer): the account
//! is ours to create.

use std::{fmt, path::PathBuf};

use sha1::{Digest, Sha1};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{
    packet::{PayloadReader, WireError, server_error, write_payload},
    value::{Malformed, Reader},
};

/// What is read from.
pub type ReadHalf = Box<dyn AsyncRead + Send + Sync + Unpin>;
/// What is written to.
pub type WriteHalf = Box<dyn AsyncWrite + Send + Sync + Unpin>;

const CLIENT_LONG_PASSWORD: u32 = 1;
const CLIENT_PROTOCOL_41: u32 = 1 << 9;
const CLIENT_TRANSACTIONS: u32 = 1 << 13;
const CLIENT_SECURE_CONNECTION: u32 = 1 << 15;
const CLIENT_PLUGIN_AUTH: u32 = 1 << 19;
const CAPABILITIES: u32 = CLIENT_LONG_PASSWORD
    | CLIENT_PROTOCOL_41
    | CLIENT_TRANSACTIONS
    | CLIENT_SECURE_CONNECTION
    | CLIENT_PLUGIN_AUTH;
const MAX_PACKET_BYTES: u32 = 1 << 30;
const UTF8MB4_GENERAL_CI: u8 = 45;
const NATIVE: &[u8] = b"mysql_native_password";
const SCRAMBLE_BYTES: usize = 20;
const COM_QUERY: u8 = 3;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// A unix socket.
    Socket(PathBuf),
    /// A host and port.
    Tcp(String, u16),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// A connection that is logged in.
pub struct Client {
    reader: PayloadReader<ReadHalf>,
    writer: WriteHalf,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Connects and logs in. Has no time limit of its own.
    pub async fn connect(
        endpoint: &Endpoint,
        user: &str,
        password: &str,
    ) -> Result<Self, WireError> {
        let (reader, writer): (ReadHalf, WriteHalf) = match endpoint {
            Endpoint::Socket(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Endpoint::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
        };
        let mut client = Self { reader: PayloadReader::new(reader), writer };
        client.log_in(user, password).await?;
        Ok(client)
    }

    /// Runs a statement that returns no rows.
    pub async fn run(&mut self, sql: &str) -> Result<(), WireError> {
        self.command(&[&[COM_QUERY], sql.as_bytes()].concat()).await
    }

    /// The first column of the only row of a query; `None` for NULL.
    pub async fn value(&mut self, sql: &str) -> Result<Option<String>, WireError> {
        self.send(&[&[COM_QUERY], sql.as_bytes()].concat()).await?;
        let header = self.reader.read().await?;
        if header.first() == Some(&0xff) {
            return Err(server_error(&header));
        }
        let columns = Reader(&header).lenenc("column count")?;
        // The definitions, and the EOF behind them.
        for _ in 0..=columns {
            self.reader.read().await?;
        }
        let row = self.reader.read().await?;
        if is_end(&row) {
            return Err(Malformed("a result without a row").into());
        }
        let mut end = self.reader.read().await?;
        while !is_end(&end) {
            end = self.reader.read().await?;
        }
        Ok(first_column(&row)?)
    }

    /// Sends a command that is answered by OK or an error.
    pub async fn command(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.send(payload).await?;
        let answer = self.reader.read().await?;
        expect_ok(&answer)
    }

    /// Sends a command whose answer is the caller's to read.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), WireError> {
        write_payload(&mut self.writer, 0, payload).await
    }

    /// The two directions, for a stream.
    pub fn into_parts(self) -> (PayloadReader<ReadHalf>, WriteHalf) {
        (self.reader, self.writer)
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), WireError> {
        let greeting = self.reader.read().await?;
        if greeting.first() == Some(&0xff) {
            return Err(server_error(&greeting));
        }
        let scramble = parse_greeting(&greeting)?;
        let response = login(user, &native_answer(password, &scramble));
        write_payload(&mut self.writer, self.reader.sequence.wrapping_add(1), &response).await?;
        let mut answer = self.reader.read().await?;
        if answer.first() == Some(&0xfe) {
            let proof = switched(&answer, password)?;
            let sequence = self.reader.sequence.wrapping_add(1);
            write_payload(&mut self.writer, sequence, &proof).await?;
            answer = self.reader.read().await?;
        }
        expect_ok(&answer)
    }
}

fn expect_ok(answer: &[u8]) -> Result<(), WireError> {
    match answer.first() {
        Some(0) => Ok(()),
        Some(0xff) => Err(server_error(answer)),
        _ => Err(Malformed("an answer that is neither OK nor an error").into()),
    }
}

/// EOF, or an error in its place.
fn is_end(payload: &[u8]) -> bool {
    matches!(payload.first(), Some(0xff)) || payload.len() < 9 && payload.first() == Some(&0xfe)
}

fn first_column(row: &[u8]) -> Result<Option<String>, Malformed> {
    if row.first() == Some(&0xfb) {
        return Ok(None);
    }
    let text = Reader(row).lenenc_bytes("column")?;
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// The scramble in a greeting of protocol 10: version, server version NUL, thread u32, scramble
/// [8], NUL, capabilities u16, charset u8, status u16, capabilities u16, length u8, reserved [10],
/// scramble [12], NUL.
fn parse_greeting(greeting: &[u8]) -> Result<[u8; SCRAMBLE_BYTES], Malformed> {
    let mut reader = Reader(greeting);
    if reader.u8("greeting version")? != 10 {
        return Err(Malformed("greeting of an unknown protocol version"));
    }
    reader.nul_terminated("server version")?;
    reader.u32("thread id")?;
    let front = reader.bytes(8, "scramble")?;
    reader.bytes(1 + 2 + 1 + 2 + 2 + 1 + 10, "capabilities")?;
    let back = reader.bytes(12, "scramble's second part")?;
    let mut scramble = [0; SCRAMBLE_BYTES];
    scramble[..8].copy_from_slice(front);
    scramble[8..].copy_from_slice(back);
    Ok(scramble)
}

fn login(user: &str, proof: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + user.len());
    out.extend_from_slice(&CAPABILITIES.to_le_bytes());
    out.extend_from_slice(&MAX_PACKET_BYTES.to_le_bytes());
    out.push(UTF8MB4_GENERAL_CI);
    out.extend_from_slice(&[0; 23]);
    out.extend_from_slice(user.as_bytes());
    out.push(0);
    out.push(u8::try_from(proof.len()).expect("a proof has 0 or 20 bytes"));
    out.extend_from_slice(proof);
    out.extend_from_slice(NATIVE);
    out.push(0);
    out
}

/// The answer to a request to use another method: `fe`, plugin NUL, its scramble, perhaps NUL.
fn switched(request: &[u8], password: &str) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader(request);
    reader.u8("method switch")?;
    let plugin = reader.nul_terminated("method name")?;
    match plugin {
        NATIVE => {
            let scramble = reader.bytes(SCRAMBLE_BYTES, "method scramble")?;
            Ok(native_answer(password, scramble))
        }
        b"unix_socket" | b"auth_socket" => Ok(Vec::new()),
        _ => Err(Malformed("the account uses a login method other than mysql_native_password")),
    }
}

/// SHA1(password) XOR SHA1(scramble ‖ SHA1(SHA1(password))); empty for no password.
pub fn native_answer(password: &str, scramble: &[u8]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = Sha1::digest(password.as_bytes());
    let twice = Sha1::digest(once);
    let mut hasher = Sha1::new();
    hasher.update(scramble);
    hasher.update(twice);
    hasher.finalize().iter().zip(once.iter()).map(|(mask, byte)| mask ^ byte).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_scramble_is_found_in_a_greeting() {
        let mut greeting = b"\x0a5.5.5-10.11.19-MariaDB\0\x07\0\0\0abcdefgh\0".to_vec();
        greeting.extend([0xff; 2 + 1 + 2 + 2 + 1]);
        greeting.extend([0; 10]);
        greeting.extend(b"ijklmnopqrst\0mysql_native_password\0");
        assert_eq!(&parse_greeting(&greeting).expect("valid"), b"abcdefghijklmnopqrst");
        assert!(parse_greeting(&greeting[..50]).is_err());
    }

    #[test]
    fn the_proof_is_the_documented_one() {
        assert!(native_answer("", &[1; 20]).is_empty());
        let proof = native_answer("secret", &[1; 20]);
        // The server has SHA1(SHA1(password)), recovers SHA1(password) and compares.
        let stored = Sha1::digest(Sha1::digest(b"secret"));
        let mut hasher = Sha1::new();
        hasher.update([1; 20]);
        hasher.update(stored);
        let once: Vec<u8> = hasher.finalize().iter().zip(&proof).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha1::digest(&once), stored);
    }

    #[test]
    fn only_known_methods_are_switched_to() {
        let request = [b"\xfemysql_native_password\0".as_slice(), &[3; 21]].concat();
        assert_eq!(switched(&request, "x").expect("native").len(), 20);
        assert_eq!(switched(b"\xfeunix_socket\0", "x").expect("socket"), b"");
        assert!(switched(b"\xfeclient_ed25519\0abc", "x").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_greeting(&bytes);
            let _ = switched(&bytes, "secret");
            let _ = expect_ok(&bytes);
            let _ = first_column(&bytes);
        }
    }
}
