//! Reading and writing the protocol's integers and strings, bounds checked.

/// The bytes end before the value does, or are no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Reads values from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Malformed(what))?;
        self.0 = rest;
        Ok(front)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.bytes(1, what)?[0])
    }

    /// A little-endian integer of `count` ≤ 8 bytes.
    pub fn uint(&mut self, count: usize, what: &'static str) -> Result<u64, Malformed> {
        let bytes = self.bytes(count, what)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// A little-endian u16.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::try_from(self.uint(2, what)?).expect("two bytes"))
    }

    /// A little-endian u32.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::try_from(self.uint(4, what)?).expect("four bytes"))
    }

    /// A little-endian u64.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.uint(8, what)
    }

    /// A length-encoded integer; NULL (251) is malformed here.
    pub fn lenenc(&mut self, what: &'static str) -> Result<u64, Malformed> {
        match self.u8(what)? {
            0xfc => self.uint(2, what),
            0xfd => self.uint(3, what),
            0xfe => self.uint(8, what),
            0xfb | 0xff => Err(Malformed(what)),
            small => Ok(u64::from(small)),
        }
    }

    /// Bytes with their length before them.
    pub fn lenenc_bytes(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let count = self.lenenc(what)?;
        self.bytes(usize::try_from(count).map_err(|_| Malformed(what))?, what)
    }

    /// Bytes up to a NUL, which is skipped.
    pub fn nul_terminated(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Malformed(what))?;
        let text = self.bytes(end, what)?;
        self.bytes(1, what)?;
        Ok(text)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a length-encoded integer.
pub fn put_lenenc(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_le_bytes();
    match value {
        0..=0xfa => out.push(bytes[0]),
        0xfb..=0xffff => out.extend([0xfc, bytes[0], bytes[1]]),
        0x1_0000..=0xff_ffff => out.extend([0xfd, bytes[0], bytes[1], bytes[2]]),
        _ => {
            out.push(0xfe);
            out.extend(bytes);
        }
    }
}

/// Appends bytes with their length before them.
pub fn put_lenenc_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_lenenc(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_encoded_integers_round_trip() {
        for value in [0, 250, 251, 252, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000, u64::MAX] {
            let mut out = Vec::new();
            put_lenenc(&mut out, value);
            let mut reader = Reader(&out);
            assert_eq!(reader.lenenc("x"), Ok(value));
            assert!(reader.is_empty());
            assert!(Reader(&out[..out.len() - 1]).lenenc("x").is_err(), "{value} cut short");
        }
    }
}
