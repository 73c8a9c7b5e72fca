//! Typed durations and sizes, as written in the file.

use std::time::Duration;

/// The units of a duration, longest name first where one starts with another.
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000)];

/// The units of a size, in bytes.
const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// The text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and ms, s, m or h, such as \"700ms\"")]
pub struct InvalidDuration(pub String);

/// The text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and B, KiB, MiB or GiB, such as \"64KiB\"")]
pub struct InvalidSize(pub String);

/// Parses `700ms`, `3s`, `5m` or `1h`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    with_unit(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| InvalidDuration(text.to_owned()))
}

/// Parses `512B`, `64KiB`, `16MiB` or `1GiB`, to bytes.
pub fn parse_size(text: &str) -> Result<u64, InvalidSize> {
    with_unit(text, &SIZE_UNITS).ok_or_else(|| InvalidSize(text.to_owned()))
}

/// The shortest text that [`parse_duration`] reads back; whole milliseconds.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (count, unit) = match millis {
        0 => (0, "ms"),
        _ if millis.is_multiple_of(3_600_000) => (millis / 3_600_000, "h"),
        _ if millis.is_multiple_of(60_000) => (millis / 60_000, "m"),
        _ if millis.is_multiple_of(1_000) => (millis / 1_000, "s"),
        _ => (millis, "ms"),
    };
    format!("{count}{unit}")
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [("700ms", 700), ("3s", 3_000), ("5m", 300_000), ("2 h", 7_200_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "ms", "1.5s", "-1s", "3 parsecs", "99999999999999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("512 B"), Ok(512));
        for bad in ["64", "64KB", "64k", "18446744073709551615GiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["0ms", "700ms", "1s", "90s", "5m", "2h"] {
            let parsed = parse_duration(text).expect("valid");
            assert_eq!(parse_duration(&show_duration(parsed)), Ok(parsed));
        }
        assert_eq!(show_duration(Duration::from_secs(300)), "5m");
    }
}
