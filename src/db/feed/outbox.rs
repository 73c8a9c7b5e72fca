//! Events on their way to a replica: new coordinates, new checksum, packets, few writes.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use super::coordinates::{Coordinates, file_name};
use crate::db::protocol::{
    event::{self, CHECKSUM_BYTES, FLAG_ARTIFICIAL, HEADER_BYTES, kind},
    packet::PACKET_BYTES_MAX,
    value::Malformed,
};

/// What is ready goes out in writes of about so many bytes.
const WRITE_BYTES: usize = 256 << 10;

/// What the replica wants of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    /// Events with checksums.
    pub checksum: bool,
    /// Every event behind a semi-synchronous header (that asks for no reply).
    pub semi_sync: bool,
    /// ANNOTATE_ROWS events too.
    pub annotate: bool,
    /// Silence at most so long; zero for ever.
    pub heartbeat: Duration,
}

/// The sending side of a stream.
pub struct Outbox<W> {
    writer: W,
    out: Vec<u8>,
    sequence: u8,
    style: Style,
    server_id: u32,
    file: u64,
    /// Where the replica believes to be: a heartbeat that says less is an error to it.
    replica_at: u64,
    written_at: Instant,
}

impl<W: AsyncWrite + Unpin> Outbox<W> {
    /// A stream whose first packet has that sequence number.
    pub fn new(writer: W, sequence: u8, style: Style, server_id: u32) -> Self {
        let (out, file, replica_at) = (Vec::new(), 0, 0);
        let written_at = Instant::now();
        Self { writer, out, sequence, style, server_id, file, replica_at, written_at }
    }

    /// The file that the replica believes to read.
    pub fn file(&self) -> u64 {
        self.file
    }

    /// When the next heartbeat is due; `None` if the replica wants none.
    pub fn heartbeat_at(&self) -> Option<Instant> {
        let period = self.style.heartbeat;
        (!period.is_zero()).then(|| self.written_at + period)
    }

    /// The stream goes on at these coordinates. A format must follow.
    pub async fn rotate(&mut self, to: Coordinates) -> io::Result<()> {
        self.rotate_to(to.file(), to.start()).await
    }

    /// The format of what follows.
    pub async fn format(&mut self, format: &Format) -> io::Result<()> {
        let event = format.event(self.server_id, self.style.checksum);
        self.put(&event, 0, true).await
    }

    /// An event of a transaction, but for annotations that the replica does not want.
    pub async fn event(&mut self, event: &[u8], log_pos: u32) -> io::Result<()> {
        if event[4] == kind::ANNOTATE_ROWS && !self.style.annotate {
            return Ok(());
        }
        self.put(event, log_pos, self.style.checksum).await?;
        self.replica_at = (self.replica_at + event.len() as u64).max(u64::from(log_pos));
        Ok(())
    }

    /// Tells the replica that nothing happens.
    pub async fn heartbeat(&mut self, format: &Format) -> io::Result<()> {
        let at = match u32::try_from(self.replica_at) {
            Ok(at) => at,
            Err(_) => {
                // Positions of four bytes have overflowed in a huge transaction: count anew.
                self.rotate_to(self.file, 4).await?;
                self.format(format).await?;
                4
            }
        };
        let name = file_name(self.file);
        let event = event::build(kind::HEARTBEAT, 0, self.server_id, at, 0, name.as_bytes());
        self.put(&event, at, self.style.checksum).await?;
        self.flush().await
    }

    /// A payload that is no event: EOF or an error.
    pub async fn plain(&mut self, payload: &[u8]) -> io::Result<()> {
        self.payload(&[payload]).await?;
        self.flush().await
    }

    /// Sends what is waiting.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out).await?;
            self.out.clear();
            self.written_at = Instant::now();
        }
        Ok(())
    }

    /// The writer and the next sequence number.
    pub fn into_parts(self) -> (W, u8) {
        (self.writer, self.sequence)
    }

    async fn rotate_to(&mut self, file: u64, position: u64) -> io::Result<()> {
        (self.file, self.replica_at) = (file, position);
        let mut body = position.to_le_bytes().to_vec();
        body.extend(file_name(file).bytes());
        let event = event::build(kind::ROTATE, 0, self.server_id, 0, FLAG_ARTIFICIAL, &body);
        self.put(&event, 0, self.style.checksum).await
    }

    /// Puts an event with that position, and with its checksum made anew or left out.
    async fn put(&mut self, event: &[u8], log_pos: u32, checksum: bool) -> io::Result<()> {
        let (front, rest) = event.split_at(HEADER_BYTES);
        let body = &rest[..rest.len() - CHECKSUM_BYTES];
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(front);
        let length = event.len() - if checksum { 0 } else { CHECKSUM_BYTES };
        let length = u32::try_from(length).expect("an event's length has four bytes");
        header[9..13].copy_from_slice(&length.to_le_bytes());
        header[13..17].copy_from_slice(&log_pos.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header);
        hasher.update(body);
        let sum = hasher.finalize().to_le_bytes();
        let prefix: &[u8] = if self.style.semi_sync { &[0, 0xef, 0] } else { &[0] };
        let sum: &[u8] = if checksum { &sum } else { &[] };
        self.payload(&[prefix, &header, body, sum]).await
    }

    /// Puts a payload, made of pieces, into packets; never holds more than a write's worth of it.
    async fn payload(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        let mut left: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut pieces = pieces.iter().copied();
        let mut piece: &[u8] = &[];
        loop {
            let length = left.min(PACKET_BYTES_MAX);
            let bytes = u32::try_from(length).expect("at most 16 MiB").to_le_bytes();
            self.out.extend([bytes[0], bytes[1], bytes[2], self.sequence]);
            self.sequence = self.sequence.wrapping_add(1);
            let mut missing = length;
            while missing > 0 {
                while piece.is_empty() {
                    piece = pieces.next().expect("the pieces are as long as their sum");
                }
                let (part, rest) = piece.split_at(piece.len().min(missing).min(WRITE_BYTES));
                self.out.extend_from_slice(part);
                (piece, missing) = (rest, missing - part.len());
                if self.out.len() >= WRITE_BYTES {
                    self.flush().await?;
                }
            }
            left -= length;
            if length < PACKET_BYTES_MAX {
                return Ok(());
            }
        }
    }
}

/// A binlog format: a FORMAT_DESCRIPTION event without what is only true where it was written.
///
/// Its body: binlog version u16, server version [50], created u32, header length u8, lengths of
/// the types' fixed parts, checksum algorithm u8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Format(Bytes);

impl Format {
    const CREATED: std::ops::Range<usize> = HEADER_BYTES + 52..HEADER_BYTES + 56;

    /// The format of an event. Its time of creation is cleared: a replica drops temporary tables
    /// when its primary restarts, and the feed is none.
    pub fn new(event: &[u8]) -> Result<Self, Malformed> {
        let header = event::checked(event)?;
        if header.kind != kind::FORMAT_DESCRIPTION || event.len() < Self::CREATED.end + 6 {
            return Err(Malformed("binlog format"));
        }
        let mut event = event.to_vec();
        event[Self::CREATED].fill(0);
        event[..4].fill(0);
        event[5..9].fill(0);
        event[13..HEADER_BYTES].fill(0);
        event::seal(&mut event);
        Ok(Self(event.into()))
    }

    fn event(&self, server_id: u32, checksum: bool) -> Vec<u8> {
        let mut event = self.0.to_vec();
        event[5..9].copy_from_slice(&server_id.to_le_bytes());
        let algorithm = event.len() - CHECKSUM_BYTES - 1;
        event[algorithm] = u8::from(checksum);
        event
    }
}
