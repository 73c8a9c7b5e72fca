//! Binlog events as far as groups, positions and formats are concerned; rows stay opaque.
//!
//! ```text
//! timestamp u32 │ type u8 │ server id u32 │ length u32 │ log_pos u32 │ flags u16 │ body │ CRC32 u32
//! ```
//!
//! All little-endian. The checksum (IEEE, over everything before it) is always there: capture
//! asks for it.

use super::value::{Malformed, Reader};
use crate::db::gtid::Gtid;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 19;
/// Bytes after it.
pub const CHECKSUM_BYTES: usize = 4;

/// Event types that capture and feed tell apart.
pub mod kind {
    /// A statement, or BEGIN/COMMIT.
    pub const QUERY: u8 = 2;
    /// The binlog goes on in another file.
    pub const ROTATE: u8 = 4;
    /// The format of what follows.
    pub const FORMAT_DESCRIPTION: u8 = 15;
    /// Commit of a transactional group.
    pub const XID: u8 = 16;
    /// Nothing happened.
    pub const HEARTBEAT: u8 = 27;
    /// XA PREPARE ends its group.
    pub const XA_PREPARE: u8 = 38;
    /// The text of the statement that the next row events come from.
    pub const ANNOTATE_ROWS: u8 = 160;
    /// A binlog file's name for crash recovery.
    pub const BINLOG_CHECKPOINT: u8 = 161;
    /// A group starts.
    pub const GTID: u8 = 162;
    /// Which GTIDs came before.
    pub const GTID_LIST: u8 = 163;
    /// Encrypted binlog.
    pub const START_ENCRYPTION: u8 = 164;
    /// A compressed statement.
    pub const QUERY_COMPRESSED: u8 = 165;
    /// The server shut down.
    pub const STOP: u8 = 3;
}

/// GTID event flag: the group is one statement without BEGIN and COMMIT.
pub const FLAG_STANDALONE: u8 = 1;
/// Event header flag: made up for the stream, not in the binlog.
pub const FLAG_ARTIFICIAL: u16 = 0x20;

/// The fixed part of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Seconds since 1970.
    pub timestamp: u32,
    /// One of [`kind`], or another.
    pub kind: u8,
    /// Who wrote it.
    pub server: u32,
    /// With header and checksum.
    pub length: u32,
    /// Where the next event starts; the lower 32 bits. Zero for made-up events.
    pub log_pos: u32,
    /// Flags.
    pub flags: u16,
}

impl Header {
    /// The header at the front of an event.
    pub fn parse(event: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(event);
        let header = Self {
            timestamp: reader.u32("event timestamp")?,
            kind: reader.u8("event type")?,
            server: reader.u32("event server id")?,
            length: reader.u32("event length")?,
            log_pos: reader.u32("event position")?,
            flags: reader.u16("event flags")?,
        };
        let least = HEADER_BYTES + CHECKSUM_BYTES;
        if (header.length as usize) < least {
            return Err(Malformed("event shorter than its header and checksum"));
        }
        Ok(header)
    }
}

/// Checks the length and checksum of an event, and returns its header.
pub fn checked(event: &[u8]) -> Result<Header, Malformed> {
    let header = Header::parse(event)?;
    if header.length as usize != event.len() {
        return Err(Malformed("event length"));
    }
    let (body, sum) = event.split_at(event.len() - CHECKSUM_BYTES);
    if crc32fast::hash(body).to_le_bytes() != sum {
        return Err(Malformed("event checksum"));
    }
    Ok(header)
}

/// Writes the checksum of an event anew after its bytes were changed.
pub fn seal(event: &mut [u8]) {
    let at = event.len() - CHECKSUM_BYTES;
    let sum = crc32fast::hash(&event[..at]).to_le_bytes();
    event[at..].copy_from_slice(&sum);
}

/// An event made from its parts.
pub fn build(
    kind: u8,
    timestamp: u32,
    server: u32,
    log_pos: u32,
    flags: u16,
    body: &[u8],
) -> Vec<u8> {
    let length = HEADER_BYTES + body.len() + CHECKSUM_BYTES;
    let mut event = Vec::with_capacity(length);
    event.extend_from_slice(&timestamp.to_le_bytes());
    event.push(kind);
    event.extend_from_slice(&server.to_le_bytes());
    event
        .extend_from_slice(&u32::try_from(length).expect("made-up events are small").to_le_bytes());
    event.extend_from_slice(&log_pos.to_le_bytes());
    event.extend_from_slice(&flags.to_le_bytes());
    event.extend_from_slice(body);
    event.extend_from_slice(&[0; CHECKSUM_BYTES]);
    seal(&mut event);
    event
}

/// What a GTID event says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GtidEvent {
    /// The group's GTID.
    pub gtid: Gtid,
    /// 1 standalone, 2 commit id follows, 4 transactional, 32 DDL, 64/128 XA.
    pub flags: u8,
}

/// Body: sequence u64, domain u32, flags u8. The server is the event's.
pub fn parse_gtid(header: &Header, event: &[u8]) -> Result<GtidEvent, Malformed> {
    let mut reader = Reader(event.get(HEADER_BYTES..).ok_or(Malformed("GTID event"))?);
    let sequence = reader.u64("GTID sequence")?;
    let domain = reader.u32("GTID domain")?;
    let flags = reader.u8("GTID flags")?;
    Ok(GtidEvent { gtid: Gtid { domain, server: header.server, sequence }, flags })
}

/// Body of a ROTATE event: position u64, file name to the end.
pub fn parse_rotate(event: &[u8]) -> Result<(u64, String), Malformed> {
    let end = event.len().checked_sub(CHECKSUM_BYTES).ok_or(Malformed("ROTATE event"))?;
    let mut reader = Reader(event.get(HEADER_BYTES..end).ok_or(Malformed("ROTATE event"))?);
    let position = reader.u64("ROTATE position")?;
    let name = std::str::from_utf8(reader.0).map_err(|_| Malformed("ROTATE file name"))?;
    Ok((position, name.to_owned()))
}

/// Whether the event ends its group, which is `standalone` or not.
///
/// A QUERY event's body: thread u32, seconds u32, database length u8, error u16, status length
/// u16, status variables, database NUL, text.
pub fn ends_group(header: &Header, event: &[u8], standalone: bool) -> Result<bool, Malformed> {
    Ok(match header.kind {
        kind::XID | kind::XA_PREPARE => true,
        kind::QUERY | kind::QUERY_COMPRESSED if standalone => true,
        kind::QUERY => matches!(query_text(event)?, b"COMMIT" | b"ROLLBACK"),
        _ => false,
    })
}

/// The statement of a QUERY event.
pub fn query_text(event: &[u8]) -> Result<&[u8], Malformed> {
    let end = event.len().checked_sub(CHECKSUM_BYTES).ok_or(Malformed("QUERY event"))?;
    let mut reader = Reader(event.get(HEADER_BYTES..end).ok_or(Malformed("QUERY event"))?);
    reader.bytes(8, "QUERY thread and time")?;
    let database = reader.u8("QUERY database length")?;
    reader.bytes(2, "QUERY error code")?;
    let status = reader.u16("QUERY status length")?;
    reader.bytes(usize::from(status), "QUERY status variables")?;
    reader.bytes(usize::from(database) + 1, "QUERY database")?;
    Ok(reader.0)
}

/// Splits concatenated events.
pub fn split(mut events: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    std::iter::from_fn(move || {
        if events.is_empty() {
            return None;
        }
        let length = match Header::parse(events) {
            Ok(header) => header.length as usize,
            Err(malformed) => {
                events = &[];
                return Some(Err(malformed));
            }
        };
        let Some((event, rest)) = events.split_at_checked(length) else {
            events = &[];
            return Some(Err(Malformed("event cut short")));
        };
        events = rest;
        Some(Ok(event))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(text: &str) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([2, 0, 0, 3, 0, 9, 9, 9]);
        body.extend(b"db\0");
        body.extend(text.as_bytes());
        build(kind::QUERY, 7, 1, 100, 0, &body)
    }

    #[test]
    fn groups_end_where_they_should() {
        let ends = |event: &[u8], standalone| {
            ends_group(&checked(event).expect("valid"), event, standalone).expect("valid")
        };
        assert!(ends(&query("COMMIT"), false));
        assert!(!ends(&query("BEGIN"), false));
        assert!(!ends(&query("SAVEPOINT a"), false));
        assert!(ends(&query("CREATE TABLE t (a INT)"), true));
        assert!(ends(&build(kind::XID, 1, 1, 1, 0, &[0; 8]), false));
    }

    #[test]
    fn gtid_events_are_read() {
        let mut body = 77u64.to_le_bytes().to_vec();
        body.extend(5u32.to_le_bytes());
        body.push(FLAG_STANDALONE | 32);
        let event = build(kind::GTID, 1, 3, 1, 0, &body);
        let parsed = parse_gtid(&checked(&event).expect("valid"), &event).expect("valid");
        assert_eq!(parsed.gtid, "5-3-77".parse().expect("valid"));
        assert_eq!(parsed.flags, 33);
    }

    #[test]
    fn a_changed_byte_breaks_the_checksum() {
        let mut event = query("COMMIT");
        event[30] ^= 1;
        assert_eq!(checked(&event), Err(Malformed("event checksum")));
        seal(&mut event);
        assert!(checked(&event).is_ok());
    }

    #[test]
    fn concatenated_events_come_apart() {
        let both = [query("BEGIN"), query("COMMIT")].concat();
        let parts: Vec<_> = split(&both).map(|part| part.expect("whole").to_vec()).collect();
        assert_eq!(parts, [query("BEGIN"), query("COMMIT")]);
        assert!(split(&both[..both.len() - 1]).any(|part| part.is_err()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = checked(&bytes);
            let _ = parse_rotate(&bytes);
            let _ = query_text(&bytes);
            if let Ok(header) = Header::parse(&bytes) {
                let _ = parse_gtid(&header, &bytes);
                let _ = ends_group(&header, &bytes, false);
            }
            split(&bytes).take(100).for_each(drop);
        }
    }
}
