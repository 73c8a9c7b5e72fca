//! The replicated key-value store: an applier like the others, the smallest one.
//!
//! ```text
//! put, delete, compare-and-set, leases ─▶ command.rs ─▶ front.rs: propose ─▶ log ─▶ machine.rs ─▶ spaces 30–35
//!                                                          ▲ outcome                   │
//! get, range, watch ◀─ reader.rs, watch.rs ◀─ applied      └───────────────────────────┘
//! ```
//!
//! A key's *revision* is the LSN of the command that last set it. Leases (`lease.rs`) end by the
//! proposer's time in the log; the leader proposes the time (`ticker.rs`) when one is due. A read is no
//! command: it waits for the applied LSN that its consistency asks for (`read_index.rs`). Requests with
//! a session are executed once; that is the work of `apply/`, for all state machines alike.
//!
//! What it does not do: transactions over several keys, and reads of older revisions.

pub mod command;
pub mod error;
pub mod front;
pub mod history;
mod lease;
pub mod limits;
pub mod machine;
pub mod outcome;
pub mod read_index;
pub mod reader;
pub mod record;
pub mod ticker;
pub mod watch;

pub use error::{KvError, Rejection};
pub use front::{Applied, FrontParts, KvFront};
pub use lease::TICK;
pub use machine::KvMachine;
