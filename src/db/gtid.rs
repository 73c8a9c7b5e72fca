//! MariaDB global transaction IDs: `domain-server-sequence`.

use std::{fmt, str::FromStr};

/// A MariaDB GTID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Gtid {
    /// Replication domain; the cluster uses one.
    pub domain: u32,
    /// Server that committed it first.
    pub server: u32,
    /// Sequence, continuing across leaders.
    pub sequence: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

/// The text is no GTID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GTID (domain-server-sequence)")]
pub struct InvalidGtid(String);

impl FromStr for Gtid {
    type Err = InvalidGtid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('-');
        let parsed = (|| {
            Some(Gtid {
                domain: parts.next()?.parse().ok()?,
                server: parts.next()?.parse().ok()?,
                sequence: parts.next()?.parse().ok()?,
            })
        })();
        parsed.filter(|_| parts.next().is_none()).ok_or_else(|| InvalidGtid(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        let gtid = Gtid { domain: 0, server: 2, sequence: 75_720 };
        assert_eq!(gtid.to_string(), "0-2-75720");
        assert_eq!("0-2-75720".parse(), Ok(gtid));
        for bad in ["", "0-1", "0-1-2-3", "a-1-2", "0-1-"] {
            assert!(bad.parse::<Gtid>().is_err(), "{bad:?}");
        }
    }
}
