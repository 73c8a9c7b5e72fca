//! Capture: the node as the only semi-synchronous replica of the leader's database.
//!
//! ```text
//! binlog stream ─▶ Groups (events → GTID groups) ─▶ seal ─▶ Proposer ─▶ log
//!                                                              │
//!            semi-sync ACK ◀── acknowledger ◀── released ◀─────┘
//! ```
//!
//! Rules:
//! - A COMMIT returns to its client only when its group is *released*: nothing else is ACKed.
//! - ACKs are cumulative, so they go out in order, and only the newest.
//! - It connects at the last transaction of the log: connecting past a pending commit would
//!   acknowledge it.
//! - One capture is one epoch of one term. The first answer other than "released" ends it: what was
//!   received later is not proposed. The connection is kept, unacknowledged, until the controller
//!   says which of the groups on their way the log holds after all, or closes it.
//!
//! - One that was lost while its epoch ran may be resumed in the same term, once all that it proposed
//!   is released: behind its last ACK. What the log holds comes first, is compared GTID by GTID, and
//!   is acknowledged; what comes then waits for its ACK, stands right behind the log's tail, and is
//!   captured.
//!
//! It opens no writes, judges no position and never reconnects by itself: the controller does.

mod acknowledge;
mod connect;
mod format;
mod groups;
mod handle;
mod ingest;

pub use connect::{CaptureError, CaptureSettings};
pub use format::canonical_format;
pub use groups::{Captured, Group, Groups};
pub use handle::{AckError, Beginning, Capture, CaptureHandle, CaptureState};

/// The largest group: it is one command of the log.
pub const GROUP_BYTES_MAX: usize = (1 << 30) - (1 << 20);
/// Groups on their way to the log at once.
pub const IN_FLIGHT_MAX: usize = 1024;
/// About how many bytes of groups are on their way at once; one larger group goes alone.
pub const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
