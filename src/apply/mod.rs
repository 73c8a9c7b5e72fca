//! Applying the released log: deterministic state machines behind one driver.
//!
//! ```text
//! released entries ─▶ Assembler (parts → commands) ─▶ StateMachine::apply ─▶ one Batch ─▶ state store
//! ```
//!
//! A state machine does no I/O of its own, reads no clock and no randomness: all that it needs is
//! in the command, and all that it does is in the batch, which carries the applied LSN with it.

mod assemble;
mod driver;
mod machine;
pub mod sessions;

pub use assemble::{Assembler, Command};
pub use driver::{AppliedV1, Applier, StateCheck, check_state};
pub use machine::{ApplyError, StateMachine};
