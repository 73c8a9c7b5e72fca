//! Framing: payloads of any size as packets of at most 16 MiB − 1, each with a sequence number.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::value::{Malformed, Reader};

/// The largest part of a payload that one packet carries; exactly so many mean that more follow.
pub const PACKET_BYTES_MAX: usize = 0xff_ffff;
/// The largest payload that is accepted: a binlog event is at most 1 GiB.
pub const PAYLOAD_BYTES_MAX: usize = (1 << 30) + 1024;
const READ_BUFFER_BYTES: usize = 64 << 10;

/// Why the conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection is gone.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The other side says something that is no protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The server refused a request.
    #[error("server error {code}: {message}")]
    Server {
        /// MySQL error number.
        code: u16,
        /// What it says.
        message: String,
    },
}

/// One direction of a connection, read as payloads.
#[derive(Debug)]
pub struct PayloadReader<R> {
    inner: R,
    buffer: BytesMut,
    /// Sequence number of the last packet read.
    pub sequence: u8,
}

impl<R: AsyncRead + Unpin> PayloadReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::with_capacity(READ_BUFFER_BYTES), sequence: 0 }
    }

    /// The next payload, joined from its packets.
    ///
    /// Cancel safe: what was read of it is kept, but for a payload of several packets.
    pub async fn read(&mut self) -> Result<Bytes, WireError> {
        let first = self.packet().await?;
        if first.len() < PACKET_BYTES_MAX {
            return Ok(first);
        }
        let mut whole = BytesMut::from(&first[..]);
        loop {
            let part = self.packet().await?;
            whole.extend_from_slice(&part);
            if whole.len() > PAYLOAD_BYTES_MAX {
                return Err(Malformed("payload over 1 GiB").into());
            }
            if part.len() < PACKET_BYTES_MAX {
                return Ok(whole.freeze());
            }
        }
    }

    /// Whether a whole packet is buffered already, so that `read` would not wait.
    pub fn has_packet(&self) -> bool {
        self.buffer.len() >= 4 && self.buffer.len() >= 4 + self.length()
    }

    async fn packet(&mut self) -> Result<Bytes, WireError> {
        while !self.has_packet() {
            self.buffer.reserve(READ_BUFFER_BYTES);
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let length = self.length();
        let header = self.buffer.split_to(4);
        self.sequence = header[3];
        Ok(self.buffer.split_to(length).freeze())
    }

    fn length(&self) -> usize {
        usize::from(self.buffer[0])
            | usize::from(self.buffer[1]) << 8
            | usize::from(self.buffer[2]) << 16
    }
}

/// Appends a payload as packets, counting `sequence` on.
pub fn put_payload(out: &mut Vec<u8>, sequence: &mut u8, payload: &[u8]) {
    let mut rest = payload;
    loop {
        let (part, after) = rest.split_at(rest.len().min(PACKET_BYTES_MAX));
        let length = u32::try_from(part.len()).expect("at most 16 MiB");
        out.extend_from_slice(&length.to_le_bytes()[..3]);
        out.push(*sequence);
        out.extend_from_slice(part);
        *sequence = sequence.wrapping_add(1);
        if part.len() < PACKET_BYTES_MAX {
            return;
        }
        rest = after;
    }
}

/// Sends one payload with that sequence number.
pub async fn write_payload<W: AsyncWrite + Unpin>(
    to: &mut W,
    mut sequence: u8,
    payload: &[u8],
) -> Result<(), WireError> {
    let mut out = Vec::with_capacity(payload.len() + 4);
    put_payload(&mut out, &mut sequence, payload);
    to.write_all(&out).await?;
    to.flush().await?;
    Ok(())
}

/// The error in an ERR payload (`ff`, code u16, optionally `#` and five of SQL state, message).
pub fn server_error(payload: &[u8]) -> WireError {
    let parse = || -> Result<(u16, String), Malformed> {
        let mut reader = Reader(payload);
        reader.u8("error marker")?;
        let code = reader.u16("error code")?;
        if reader.0.first() == Some(&b'#') {
            reader.bytes(6, "SQL state")?;
        }
        Ok((code, String::from_utf8_lossy(reader.0).into_owned()))
    };
    match parse() {
        Ok((code, message)) => WireError::Server { code, message },
        Err(malformed) => malformed.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn payloads_of_every_size_come_back_whole() {
        for bytes in [0, 1, 70_000, PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 5] {
            let payload: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            let mut out = Vec::new();
            let mut sequence = 254;
            put_payload(&mut out, &mut sequence, &payload);
            let mut reader = PayloadReader::new(&out[..]);
            assert_eq!(reader.read().await.expect("whole"), payload, "{bytes} bytes");
            assert_eq!(reader.sequence.wrapping_add(1), sequence);
            let cut = &out[..out.len() - 1];
            assert!(PayloadReader::new(cut).read().await.is_err(), "{bytes} bytes cut short");
        }
    }

    #[test]
    fn errors_are_read_with_and_without_sql_state() {
        for payload in [&b"\xff\x15\x04#28000Access denied"[..], b"\xff\x15\x04Access denied"] {
            let error = server_error(payload).to_string();
            assert_eq!(error, "server error 1045: Access denied");
        }
        assert!(matches!(server_error(b"\xff"), WireError::Malformed(_)));
    }
}
