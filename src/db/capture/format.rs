//! The part of a FORMAT_DESCRIPTION event that says how to read the events after it.

use bytes::Bytes;

use crate::db::protocol::{
    event::{self, CHECKSUM_BYTES, HEADER_BYTES},
    value::Malformed,
};

/// Bytes of the body before `created`: binlog version u16, server version [50].
const CREATED_AT: usize = HEADER_BYTES + 2 + 50;
const CREATED_BYTES: usize = 4;

/// The event without what differs between two files of one server: times, server, position and
/// flags are zero. Two formats are equal if these are.
pub fn canonical_format(event: &[u8]) -> Result<Bytes, Malformed> {
    event::checked(event)?;
    if event.len() < CREATED_AT + CREATED_BYTES + CHECKSUM_BYTES {
        return Err(Malformed("FORMAT_DESCRIPTION event"));
    }
    let mut canonical = event.to_vec();
    let zeroed = [0..4, 5..9, 13..HEADER_BYTES, CREATED_AT..CREATED_AT + CREATED_BYTES];
    zeroed.into_iter().for_each(|range| canonical[range].fill(0));
    event::seal(&mut canonical);
    Ok(canonical.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::protocol::event::{build, kind};

    fn format(timestamp: u32, server: u32, created: u32, version: &str) -> Vec<u8> {
        let mut body = 4u16.to_le_bytes().to_vec();
        let mut name = version.as_bytes().to_vec();
        name.resize(50, 0);
        body.extend(name);
        body.extend(created.to_le_bytes());
        body.extend([19, 1, 2, 3]);
        build(kind::FORMAT_DESCRIPTION, timestamp, server, 256, 1, &body)
    }

    #[test]
    fn only_what_matters_makes_a_difference() {
        let canonical = |event: &[u8]| canonical_format(event).expect("valid");
        let one = canonical(&format(1, 1, 5, "10.11.19"));
        assert_eq!(one, canonical(&format(2, 3, 0, "10.11.19")));
        assert_ne!(one, canonical(&format(1, 1, 5, "10.11.20")));
        assert_eq!(canonical(&one), one);
        assert!(canonical_format(&one[..60]).is_err());
    }
}
