//! The server's side: greeting, `mysql_native_password`, and the few answers that a replica asks
//! for. Deliberately no TLS, compression, session tracking or `DEPRECATE_EOF`.

use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::value::{Malformed, Reader, put_lenenc, put_lenenc_bytes};

/// The only way to authenticate.
pub const AUTH_PLUGIN: &str = "mysql_native_password";
/// What the server calls itself. Replicas derive the binlog's dialect from it.
pub const SERVER_VERSION: &str = "5.5.5-10.11.19-MariaDB-wolfscale";
/// Bytes of the random challenge.
pub const SCRAMBLE_BYTES: usize = 20;

const PROTOCOL_VERSION: u8 = 10;
const CHARSET_UTF8: u8 = 33;
const STATUS_AUTOCOMMIT: u16 = 2;

/// Capability flags, as far as they matter here.
mod capability {
    pub const LONG_PASSWORD: u32 = 1;
    pub const LONG_FLAG: u32 = 4;
    pub const CONNECT_WITH_DB: u32 = 8;
    pub const PROTOCOL_41: u32 = 0x200;
    pub const SSL: u32 = 0x800;
    pub const TRANSACTIONS: u32 = 0x2000;
    pub const SECURE_CONNECTION: u32 = 0x8000;
    pub const PLUGIN_AUTH: u32 = 0x8_0000;
    pub const LENENC_AUTH: u32 = 0x20_0000;
    pub const OFFERED: u32 = LONG_PASSWORD
        | LONG_FLAG
        | CONNECT_WITH_DB
        | PROTOCOL_41
        | TRANSACTIONS
        | SECURE_CONNECTION
        | PLUGIN_AUTH;
}

/// The challenge of one connection: random, without NUL and `$`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scramble([u8; SCRAMBLE_BYTES]);

impl Scramble {
    /// A challenge from random bytes.
    pub fn new(random: [u8; SCRAMBLE_BYTES]) -> Self {
        Self(random.map(|byte| match byte & 0x7f {
            0 | b'$' => b'w',
            other => other,
        }))
    }

    /// What a client that knows the password answers:
    /// SHA1(password) ⊕ SHA1(scramble ‖ SHA1(SHA1(password))); nothing for the empty password.
    pub fn answer(&self, password: &str) -> Vec<u8> {
        if password.is_empty() {
            return Vec::new();
        }
        let once = Sha1::digest(password);
        let twice = Sha1::digest(once);
        let mask = Sha1::new().chain_update(self.0).chain_update(twice).finalize();
        once.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()
    }

    /// Whether the answer proves that the client knows the password.
    pub fn proves(&self, answer: &[u8], password: &str) -> bool {
        self.answer(password).ct_eq(answer).into()
    }
}

/// The first payload of a connection.
pub fn greeting(connection: u32, scramble: &Scramble) -> Vec<u8> {
    let offered = capability::OFFERED.to_le_bytes();
    let (front, back) = scramble.0.split_at(8);
    let mut out = vec![PROTOCOL_VERSION];
    put_nul_terminated(&mut out, SERVER_VERSION);
    out.extend(connection.to_le_bytes());
    out.extend(front);
    out.push(0);
    out.extend(&offered[..2]);
    out.push(CHARSET_UTF8);
    out.extend(STATUS_AUTOCOMMIT.to_le_bytes());
    out.extend(&offered[2..]);
    out.push(u8::try_from(SCRAMBLE_BYTES + 1).expect("a small constant"));
    out.extend([0; 10]);
    out.extend(back);
    out.push(0);
    put_nul_terminated(&mut out, AUTH_PLUGIN);
    out
}

/// What the client says to the greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who it is.
    pub user: String,
    /// Its answer to the challenge.
    pub answer: Vec<u8>,
    /// Which plugin computed that; `None` if it names none.
    pub plugin: Option<String>,
}

impl Login {
    /// Whether the client must be asked again, with [`switch_plugin`].
    pub fn needs_switch(&self) -> bool {
        self.plugin.as_deref().is_some_and(|plugin| plugin != AUTH_PLUGIN)
    }

    /// Reads the payload: capabilities u32, packet size u32, character set u8, 23 reserved, user
    /// NUL, answer with length, database NUL if announced, plugin NUL if announced.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        let capabilities = reader.u32("client capabilities")?;
        let has = |flag| capabilities & flag != 0;
        if !has(capability::PROTOCOL_41) {
            return Err(Malformed("client older than protocol 4.1"));
        }
        if has(capability::SSL) {
            return Err(Malformed("TLS was not offered"));
        }
        reader.bytes(28, "client settings")?;
        let user = text(reader.nul_terminated("user")?, "user")?;
        let answer = if has(capability::LENENC_AUTH) {
            reader.lenenc_bytes("authentication")?
        } else if has(capability::SECURE_CONNECTION) {
            let length = reader.u8("authentication")?;
            reader.bytes(usize::from(length), "authentication")?
        } else {
            reader.nul_terminated("authentication")?
        };
        if has(capability::CONNECT_WITH_DB) {
            reader.nul_terminated("database")?;
        }
        let plugin = match has(capability::PLUGIN_AUTH) && !reader.is_empty() {
            true => Some(text(reader.nul_terminated("plugin")?, "plugin")?),
            false => None,
        };
        Ok(Self { user, answer: answer.to_vec(), plugin })
    }
}

/// Asks the client to answer with [`AUTH_PLUGIN`]; its next payload is the bare answer.
pub fn switch_plugin(scramble: &Scramble) -> Vec<u8> {
    let mut out = vec![0xfe];
    put_nul_terminated(&mut out, AUTH_PLUGIN);
    out.extend(scramble.0);
    out.push(0);
    out
}

/// OK: nothing affected, no warnings.
pub fn ok() -> Vec<u8> {
    let [low, high] = STATUS_AUTOCOMMIT.to_le_bytes();
    vec![0, 0, 0, low, high, 0, 0]
}

/// EOF: of column definitions, of rows, of a binlog that does not wait.
pub fn eof() -> Vec<u8> {
    let [low, high] = STATUS_AUTOCOMMIT.to_le_bytes();
    vec![0xfe, 0, 0, low, high]
}

/// ERR. `state` is the SQL state, five characters.
pub fn err(code: u16, state: &str, message: &str) -> Vec<u8> {
    let mut out = vec![0xff];
    out.extend(code.to_le_bytes());
    out.push(b'#');
    out.extend(state.bytes().chain(std::iter::repeat(b'0')).take(5));
    out.extend(message.as_bytes());
    out
}

/// The payloads of a result set of texts.
pub fn result_set(columns: &[&str], rows: &[&[&str]]) -> Vec<Vec<u8>> {
    let mut count = Vec::new();
    put_lenenc(&mut count, columns.len() as u64);
    let mut payloads = vec![count];
    payloads.extend(columns.iter().map(|name| column(name)));
    payloads.push(eof());
    for row in rows {
        let mut out = Vec::new();
        row.iter().for_each(|value| put_lenenc_bytes(&mut out, value.as_bytes()));
        payloads.push(out);
    }
    payloads.push(eof());
    payloads
}

/// A column definition: catalog, schema, table, original table, name, original name, then fixed
/// fields (character set u16, width u32, type u8, flags u16, decimals u8, 2 reserved).
fn column(name: &str) -> Vec<u8> {
    const VAR_STRING: u8 = 0xfd;
    let mut out = Vec::new();
    for part in ["def", "", "", "", name, name] {
        put_lenenc_bytes(&mut out, part.as_bytes());
    }
    out.push(0x0c);
    out.extend(u16::from(CHARSET_UTF8).to_le_bytes());
    out.extend(1024u32.to_le_bytes());
    out.extend([VAR_STRING, 0, 0, 0, 0, 0]);
    out
}

fn put_nul_terminated(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn text(bytes: &[u8], what: &'static str) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed(what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(flags: u32, rest: &[u8]) -> Vec<u8> {
        let mut out = flags.to_le_bytes().to_vec();
        out.extend([0; 28]);
        out.extend(rest);
        out
    }

    #[test]
    fn only_the_password_answers_the_challenge() {
        let scramble = Scramble::new([0; SCRAMBLE_BYTES]);
        assert_eq!(scramble.0, [b'w'; SCRAMBLE_BYTES]);
        let answer = scramble.answer("secret");
        assert!(scramble.proves(&answer, "secret"));
        assert!(!scramble.proves(&answer, "Secret"));
        assert!(!scramble.proves(&[], "secret"));
        assert!(!Scramble::new([7; SCRAMBLE_BYTES]).proves(&answer, "secret"));
    }

    #[test]
    fn logins_of_every_form_are_read() {
        use capability::{
            CONNECT_WITH_DB, LENENC_AUTH, PLUGIN_AUTH, PROTOCOL_41, SECURE_CONNECTION,
        };
        let plain = PROTOCOL_41 | SECURE_CONNECTION;
        let read = Login::parse(&login(plain, b"repl\0\x02ab")).expect("valid");
        assert_eq!(
            (&read.user[..], &read.answer[..], read.needs_switch()),
            ("repl", &b"ab"[..], false)
        );
        let flags = plain | CONNECT_WITH_DB | PLUGIN_AUTH | LENENC_AUTH;
        let read = Login::parse(&login(flags, b"u\0\x01xdb\0client_ed25519\0rest")).expect("valid");
        assert_eq!((&read.answer[..], read.needs_switch()), (&b"x"[..], true));
        assert!(Login::parse(&login(PROTOCOL_41 | capability::SSL, b"")).is_err());
        assert!(Login::parse(&login(0, b"u\0\0")).is_err());
    }

    proptest! {
        #[test]
        fn no_login_panics(flags in any::<u32>(), rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Login::parse(&login(flags | capability::PROTOCOL_41, &rest));
            let _ = Login::parse(&rest);
        }
    }
}
