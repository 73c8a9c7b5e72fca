//! The embedded store, sealed: only `sled.rs` names sled.
//!
//! ```text
//!   log ─┐                          ┌─ sled.rs    flush + our own fdatasync
//! state ─┼─▶ Engine (get, scan, ────┤
//! chunks ┘   atomic commit, sync)   └─ memory.rs  the twin for simulation, loses what was not synced
//! ```
//!
//! `keys.rs` shows every space and key on one screen; `codec.rs` is the envelope of every value.
//! The store knows nothing of terms, members or commands.

pub mod codec;
mod engine;
pub mod keys;
mod memory;
mod sled;

pub use engine::{
    Batch, Change, Direction, Durability, Engine, Reclaimed, Rows, Space, StoreError,
    VALUE_BYTES_MAX, check_values,
};
pub use memory::{MemoryEngine, SyncFault};
pub use sled::{SledEngine, SledOptions};
