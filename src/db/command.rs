//! What a database entry of the log holds: raw binlog events, so that nothing is lost on the way.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use super::gtid::Gtid;
use crate::store::codec::{self, CodecError, Compress, Stored};

/// A command of kind [`crate::log::entry::EntryKind::Db`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DbCommand {
    /// The binlog format (FORMAT_DESCRIPTION event, with its checksum) of the transactions that
    /// follow in the log. Entered whenever the leader's differs from the newest in the log.
    Format(Bytes),
    /// One GTID group: a transaction or a standalone statement.
    Transaction(Transaction),
}

/// One GTID group of the leader's binlog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    /// Its GTID.
    pub gtid: Gtid,
    /// The flags of its GTID event (1 standalone, 4 transactional, 32 DDL, 64/128 XA).
    pub flags: u8,
    /// Its events, GTID event first, each byte for byte with its checksum, concatenated.
    pub events: Bytes,
}

/// GTID event flag: a DDL statement.
pub const FLAG_DDL: u8 = 32;

impl Transaction {
    /// Whether it changes the schema. MariaDB's DDL is not atomic with its replica position.
    pub fn is_ddl(&self) -> bool {
        self.flags & FLAG_DDL != 0
    }
}

impl DbCommand {
    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        let stored = match self {
            Self::Format(event) => DbCommandV1::Format(event.to_vec()),
            Self::Transaction(t) => DbCommandV1::Transaction(TransactionV1 {
                domain: t.gtid.domain,
                server: t.gtid.server,
                sequence: t.gtid.sequence,
                flags: t.flags,
                token: None,
                events: t.events.to_vec(),
            }),
        };
        codec::encode(&stored, Compress::WherePays)
    }

    /// The command that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(match codec::decode(bytes)? {
            DbCommandV1::Format(event) => Self::Format(event.into()),
            DbCommandV1::Transaction(t) => Self::Transaction(Transaction {
                gtid: Gtid { domain: t.domain, server: t.server, sequence: t.sequence },
                flags: t.flags,
                events: t.events.into(),
            }),
        })
    }
}

/// The stored form of [`DbCommand`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum DbCommandV1 {
    /// A binlog format: the FORMAT_DESCRIPTION event.
    Format(Vec<u8>),
    /// A GTID group.
    Transaction(TransactionV1),
}

/// The stored form of [`Transaction`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct TransactionV1 {
    /// GTID domain.
    pub domain: u32,
    /// GTID server.
    pub server: u32,
    /// GTID sequence.
    pub sequence: u64,
    /// GTID event flags.
    pub flags: u8,
    /// The token that a proxy put into the transaction's first write, to resolve a lost answer.
    pub token: Option<[u8; 16]>,
    /// The events.
    pub events: Vec<u8>,
}

impl Stored for DbCommandV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "database command";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let transaction = DbCommand::Transaction(Transaction {
            gtid: "0-1-5".parse().expect("valid"),
            flags: 4,
            events: Bytes::from(vec![3; 1000]),
        });
        for command in [DbCommand::Format(Bytes::from_static(b"fde")), transaction] {
            assert_eq!(DbCommand::decode(&command.encode()).expect("decodes"), command);
        }
    }
}
