//! Binlog events to GTID groups, and where each ends in the server's binlog.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{GROUP_BYTES_MAX, canonical_format};
use crate::db::{
    gtid::Gtid,
    protocol::{
        event::{self, FLAG_STANDALONE, Header, kind},
        value::Malformed,
    },
};

/// One GTID group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its GTID.
    pub gtid: Gtid,
    /// Flags of its GTID event.
    pub flags: u8,
    /// Its events, byte for byte.
    pub events: Bytes,
    /// The binlog file that it is in.
    pub file: Arc<str>,
    /// Where it ends there.
    pub end: u64,
}

/// What an event completed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Captured {
    /// A binlog format, in its canonical form.
    Format(Bytes),
    /// A group.
    Group(Group),
}

/// Assembles groups.
///
/// Invariant: `position` is the end of the last event in `file`, in 64 bits; headers carry only
/// the lower 32.
#[derive(Debug)]
pub struct Groups {
    file: Arc<str>,
    position: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    gtid: Gtid,
    flags: u8,
    events: BytesMut,
}

impl Default for Groups {
    fn default() -> Self {
        Self { file: "".into(), position: 0, open: None }
    }
}

impl Groups {
    /// Takes the next event of the stream. An error means that the stream cannot be trusted.
    pub fn push(&mut self, event: &[u8]) -> Result<Option<Captured>, Malformed> {
        let header = event::checked(event)?;
        match header.kind {
            kind::ROTATE => self.rotate(&header, event).map(|()| None),
            kind::FORMAT_DESCRIPTION => {
                self.advance(&header);
                self.outside("a format inside a group")?;
                Ok(Some(Captured::Format(canonical_format(event)?)))
            }
            kind::HEARTBEAT => Ok(None),
            kind::GTID_LIST | kind::BINLOG_CHECKPOINT | kind::STOP => {
                self.advance(&header);
                Ok(None)
            }
            kind::START_ENCRYPTION => Err(Malformed("the binlog is sent encrypted")),
            kind::GTID => {
                self.outside("a group inside a group")?;
                let opened = event::parse_gtid(&header, event)?;
                let (gtid, flags) = (opened.gtid, opened.flags);
                self.open = Some(Open { gtid, flags, events: BytesMut::new() });
                self.append(&header, event)
            }
            _ => self.append(&header, event),
        }
    }

    fn append(&mut self, header: &Header, event: &[u8]) -> Result<Option<Captured>, Malformed> {
        self.advance(header);
        let open = self.open.as_mut().ok_or(Malformed("an event outside of any group"))?;
        if open.events.len() + event.len() > GROUP_BYTES_MAX {
            return Err(Malformed("a transaction over 1 GiB, more than the log carries"));
        }
        open.events.extend_from_slice(event);
        if !ends(header, event, open.flags & FLAG_STANDALONE != 0)? {
            return Ok(None);
        }
        let done = self.open.take().ok_or(Malformed("an event outside of any group"))?;
        Ok(Some(Captured::Group(Group {
            gtid: done.gtid,
            flags: done.flags,
            events: done.events.freeze(),
            file: self.file.clone(),
            end: self.position,
        })))
    }

    /// Only made-up ROTATEs name the file that comes; the one at a file's end is its last event.
    fn rotate(&mut self, header: &Header, event: &[u8]) -> Result<(), Malformed> {
        self.outside("a new file inside a group")?;
        if header.log_pos != 0 && header.flags & event::FLAG_ARTIFICIAL == 0 {
            self.advance(header);
            return Ok(());
        }
        let (position, file) = event::parse_rotate(event)?;
        self.file = file.into();
        self.position = position;
        Ok(())
    }

    fn outside(&self, what: &'static str) -> Result<(), Malformed> {
        if self.open.is_some() { Err(Malformed(what)) } else { Ok(()) }
    }

    /// The least position past the last one that has the header's lower 32 bits: the server skips
    /// what this replica has, but never 4 GiB of it, since a file is cut at 1 GiB.
    fn advance(&mut self, header: &Header) {
        if header.log_pos == 0 {
            return;
        }
        let low = u64::from(header.log_pos);
        let same = (self.position & !0xffff_ffff) | low;
        self.position = if same >= self.position { same } else { same + (1 << 32) };
    }
}

/// XA COMMIT and XA ROLLBACK end a group that is theirs alone.
fn ends(header: &Header, event: &[u8], standalone: bool) -> Result<bool, Malformed> {
    if event::ends_group(header, event, standalone)? {
        return Ok(true);
    }
    if header.kind != kind::QUERY {
        return Ok(false);
    }
    let text = event::query_text(event)?;
    Ok(text.starts_with(b"XA COMMIT") || text.starts_with(b"XA ROLLBACK"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::protocol::event::build;

    fn gtid_event(sequence: u64, flags: u8, log_pos: u32) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend(0u32.to_le_bytes());
        body.push(flags);
        build(kind::GTID, 1, 7, log_pos, 0, &body)
    }

    fn query(text: &str, log_pos: u32) -> Vec<u8> {
        let mut body = vec![0; 8];
        body.extend([1, 0, 0, 0, 0, b'd', 0]);
        body.extend(text.as_bytes());
        build(kind::QUERY, 1, 7, log_pos, 0, &body)
    }

    fn rotate(position: u64, file: &str) -> Vec<u8> {
        let body = [&position.to_le_bytes()[..], file.as_bytes()].concat();
        build(kind::ROTATE, 0, 7, 0, event::FLAG_ARTIFICIAL, &body)
    }

    fn group(groups: &mut Groups, events: &[Vec<u8>]) -> Group {
        let (last, before) = events.split_last().expect("not empty");
        for event in before {
            assert_eq!(groups.push(event).expect("valid"), None);
        }
        match groups.push(last).expect("valid") {
            Some(Captured::Group(group)) => group,
            other => panic!("no group: {other:?}"),
        }
    }

    #[test]
    fn groups_carry_their_events_and_their_end() {
        let mut groups = Groups::default();
        groups.push(&rotate(4, "bin.000001")).expect("valid");
        let ddl = [gtid_event(1, FLAG_STANDALONE, 300), query("CREATE TABLE t (a INT)", 400)];
        let first = group(&mut groups, &ddl);
        assert_eq!((first.gtid, first.end), ("0-7-1".parse().expect("valid"), 400));
        assert_eq!(first.events, ddl.concat());
        let xid = build(kind::XID, 1, 7, 700, 0, &[0; 8]);
        let rows = build(23, 1, 7, 600, 0, b"rows");
        let second = group(&mut groups, &[gtid_event(2, 4, 500), rows, xid]);
        assert_eq!((&*second.file, second.end), ("bin.000001", 700));
        let xa = group(&mut groups, &[gtid_event(3, 128, 800), query("XA COMMIT 'x'", 900)]);
        assert_eq!(xa.end, 900);
        groups.push(&rotate(4, "bin.000002")).expect("valid");
        let third = group(&mut groups, &[gtid_event(4, 4, 400), query("COMMIT", 500)]);
        assert_eq!((&*third.file, third.end), ("bin.000002", 500));
    }

    #[test]
    fn positions_go_past_four_gibibytes() {
        let mut groups = Groups::default();
        groups.push(&rotate(4, "bin.000001")).expect("valid");
        group(&mut groups, &[gtid_event(1, 4, 0xffff_0000), query("COMMIT", 0xffff_ff00)]);
        let far = group(&mut groups, &[gtid_event(2, 4, 0x100), query("COMMIT", 0x200)]);
        assert_eq!(far.end, 0x1_0000_0200);
    }

    #[test]
    fn what_is_out_of_place_is_an_error() {
        let mut groups = Groups::default();
        assert!(groups.push(&query("COMMIT", 100)).is_err(), "outside of any group");
        groups.push(&gtid_event(1, 4, 100)).expect("valid");
        assert!(groups.push(&gtid_event(2, 4, 200)).is_err(), "a group in a group");
        assert!(groups.push(&rotate(4, "x")).is_err(), "a file in a group");
        let mut damaged = query("COMMIT", 300);
        damaged[25] ^= 1;
        assert!(groups.push(&damaged).is_err(), "a flipped bit");
    }

    proptest! {
        #[test]
        fn no_events_panic(
            events in proptest::collection::vec(
                (any::<u8>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..20)
        ) {
            let mut groups = Groups::default();
            for (kind, log_pos, body) in events {
                let _ = groups.push(&build(kind, 1, 1, log_pos, 0, &body));
            }
        }
    }
}
