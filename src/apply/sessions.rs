//! What a session entry of the log holds: a client's session makes its retries happen once.
//!
//! Sessions expire by the proposer's time in the log: every node expires the same ones at the same
//! entry, whatever its clock says.

use rkyv::{Archive, Deserialize, Serialize};

use crate::store::codec::{self, CodecError, Compress, Stored};

/// A command of kind [`crate::log::entry::EntryKind::Session`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionCommand {
    /// Opens a session.
    Open {
        /// The session, random.
        session: [u8; 16],
        /// How long it lasts without a sign of life, in milliseconds.
        ttl_ms: u64,
        /// The proposer's time, in milliseconds since 1970.
        now_ms: u64,
    },
    /// A sign of life; it also tells which answers need not be remembered any more.
    KeepAlive {
        /// The session.
        session: [u8; 16],
        /// The client has the answers of all its requests up to this number.
        answered: u64,
        /// The proposer's time, in milliseconds since 1970.
        now_ms: u64,
    },
    /// Ends a session; absent is fine.
    Close {
        /// The session.
        session: [u8; 16],
        /// The proposer's time, in milliseconds since 1970.
        now_ms: u64,
    },
}

impl SessionCommand {
    /// The proposer's time, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let (Self::Open { now_ms, .. }
        | Self::KeepAlive { now_ms, .. }
        | Self::Close { now_ms, .. }) = self;
        *now_ms
    }

    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        let stored = match *self {
            Self::Open { session, ttl_ms, now_ms } => {
                SessionCommandV1::Open(session, ttl_ms, now_ms)
            }
            Self::KeepAlive { session, answered, now_ms } => {
                SessionCommandV1::KeepAlive(session, answered, now_ms)
            }
            Self::Close { session, now_ms } => SessionCommandV1::Close(session, now_ms),
        };
        codec::encode(&stored, Compress::Never)
    }

    /// The command that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode(bytes)? {
            SessionCommandV1::Open(session, ttl_ms, now_ms) => {
                Self::Open { session, ttl_ms, now_ms }
            }
            SessionCommandV1::KeepAlive(session, answered, now_ms) => {
                Self::KeepAlive { session, answered, now_ms }
            }
            SessionCommandV1::Close(session, now_ms) => Self::Close { session, now_ms },
        })
    }
}

/// The stored form of [`SessionCommand`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum SessionCommandV1 {
    /// Session, time to live, now.
    Open([u8; 16], u64, u64),
    /// Session, answered up to, now.
    KeepAlive([u8; 16], u64, u64),
    /// Session, now.
    Close([u8; 16], u64),
}

impl Stored for SessionCommandV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "session command";
}
