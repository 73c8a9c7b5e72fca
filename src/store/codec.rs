//! The envelope of every stored value:
//!
//! ```text
//! version u8 │ flags u8 │ crc32 u32 BE │ [raw length u32 BE, if LZ4] │ body
//! ```
//!
//! The CRC (IEEE) covers version, flags and everything after itself. The body is rkyv (validated
//! by bytecheck on every read), compressed by LZ4 where that gains 12 % or more. Each version is
//! one frozen struct: bytecheck passes an all-integer struct of another shape, so a struct that
//! was once released never changes; a new one gets the next version number.

use rkyv::{
    Archive, Deserialize, Serialize,
    api::high::{HighDeserializer, HighSerializer, HighValidator},
    bytecheck::CheckBytes,
    rancor::Error,
    ser::allocator::ArenaHandle,
    util::AlignedVec,
};

const FLAG_LZ4: u8 = 1;
const HEADER_BYTES: usize = 6;
/// Bodies below this are never compressed: the length field alone eats the gain.
const COMPRESS_BYTES_MIN: usize = 128;
/// The largest body that decoding will allocate for.
pub const RAW_BYTES_MAX: usize = 1 << 30;

/// Why bytes are not the value that was expected there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than its envelope.
    #[error("{name}: {bytes} bytes are too few for a stored value")]
    Truncated {
        /// What was expected.
        name: &'static str,
        /// What was there.
        bytes: usize,
    },
    /// Written by a newer program, or not a value of this kind at all.
    #[error("{name}: version {found} is unknown to this program (it knows up to {known})")]
    Version {
        /// What was expected.
        name: &'static str,
        /// The version byte.
        found: u8,
        /// The newest known.
        known: u8,
    },
    /// The bytes changed since they were written.
    #[error("{name}: checksum does not match: the bytes are damaged")]
    Checksum {
        /// What was expected.
        name: &'static str,
    },
    /// The checksum holds, yet the body is no valid value.
    #[error("{name}: invalid body: {what}")]
    Body {
        /// What was expected.
        name: &'static str,
        /// What the decoder said.
        what: String,
    },
}

/// A frozen struct that can be stored.
pub trait Stored:
    Archive<
        Archived: for<'a> CheckBytes<HighValidator<'a, Error>>
                      + Deserialize<Self, HighDeserializer<Error>>,
    > + for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, Error>>
    + Sized
{
    /// The version byte of this struct.
    const VERSION: u8;
    /// What it is, for messages.
    const NAME: &'static str;
}

/// Whether a value may be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compress {
    /// LZ4 if it gains 12 % or more.
    WherePays,
    /// As it is: it holds compressed bytes already.
    Never,
}

/// The stored form of a value.
pub fn encode<T: Stored>(value: &T, compress: Compress) -> Vec<u8> {
    let body = rkyv::to_bytes::<Error>(value).expect("serializing to memory cannot fail");
    let packed = match compress {
        Compress::WherePays if body.len() >= COMPRESS_BYTES_MIN => {
            let packed = lz4_flex::block::compress(&body);
            (packed.len() * 100 <= body.len() * 88).then_some(packed)
        }
        _ => None,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 + body.len());
    out.extend_from_slice(&[T::VERSION, if packed.is_some() { FLAG_LZ4 } else { 0 }, 0, 0, 0, 0]);
    match packed {
        Some(packed) => {
            let raw = u32::try_from(body.len()).expect("bodies stay below RAW_BYTES_MAX");
            out.extend_from_slice(&raw.to_be_bytes());
            out.extend_from_slice(&packed);
        }
        None => out.extend_from_slice(&body),
    }
    let crc = checksum(&out);
    out[2..6].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The value that `encode` was given.
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, CodecError> {
    let name = T::NAME;
    let [version, flags, c0, c1, c2, c3, rest @ ..] = bytes else {
        return Err(CodecError::Truncated { name, bytes: bytes.len() });
    };
    if checksum(bytes) != u32::from_be_bytes([*c0, *c1, *c2, *c3]) {
        return Err(CodecError::Checksum { name });
    }
    if *version != T::VERSION {
        return Err(CodecError::Version { name, found: *version, known: T::VERSION });
    }
    let invalid = |what: String| CodecError::Body { name, what };
    if flags & FLAG_LZ4 == 0 {
        return rkyv::from_bytes::<T, Error>(rest).map_err(|e| invalid(e.to_string()));
    }
    let [l0, l1, l2, l3, packed @ ..] = rest else {
        return Err(CodecError::Truncated { name, bytes: bytes.len() });
    };
    let raw = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
    if raw > RAW_BYTES_MAX {
        return Err(invalid(format!("it claims {raw} bytes, over {RAW_BYTES_MAX}")));
    }
    let body = lz4_flex::block::decompress(packed, raw).map_err(|e| invalid(e.to_string()))?;
    rkyv::from_bytes::<T, Error>(&body).map_err(|e| invalid(e.to_string()))
}

fn checksum(envelope: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&envelope[..2]);
    hasher.update(&envelope[HEADER_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
    struct SampleV1 {
        text: String,
        bytes: Vec<u8>,
    }

    impl Stored for SampleV1 {
        const VERSION: u8 = 1;
        const NAME: &'static str = "sample";
    }

    fn sample(bytes: Vec<u8>) -> SampleV1 {
        SampleV1 { text: "wolf".into(), bytes }
    }

    #[test]
    fn round_trips_and_compresses_only_where_it_pays() {
        let dull = sample(vec![7; 4096]);
        let packed = encode(&dull, Compress::WherePays);
        assert!(packed.len() < 200, "{}", packed.len());
        assert_eq!(decode::<SampleV1>(&packed).expect("decodes"), dull);
        let plain = encode(&dull, Compress::Never);
        assert!(plain.len() > 4096);
        assert_eq!(decode::<SampleV1>(&plain).expect("decodes"), dull);

        let noise = sample(
            (0u32..1024).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect(),
        );
        assert_eq!(encode(&noise, Compress::WherePays)[1], 0, "noise stays as it is");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let good = encode(&sample(vec![1; 300]), Compress::WherePays);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode::<SampleV1>(&bad).is_err(), "bit flipped in byte {at}");
            assert!(decode::<SampleV1>(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut newer = encode(&sample(vec![]), Compress::Never);
        newer[0] = 9;
        let crc = checksum(&newer);
        newer[2..6].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(
            decode::<SampleV1>(&newer),
            Err(CodecError::Version { name: "sample", found: 9, known: 1 })
        );
    }
}
