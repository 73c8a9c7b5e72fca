//! Applying the released log: deterministic state machines behind one driver.
//!
//! ```text
//! released entries ─▶ Assembler (parts → commands) ─▶ exactly once ─▶ StateMachine::apply ─▶ View ─▶ one batch ─▶ state store
//!                                                                                │ result
//!                                                                                └▶ Outcomes, for whoever proposed it
//! ```
//!
//! A state machine does no I/O of its own, reads no clock and no randomness: all that it needs is
//! in the command and in the state before it, and all that it does is in the batch, which carries
//! the applied LSN with it.

mod assemble;
mod driver;
mod exactly_once;
mod machine;
mod outcome;
pub mod sessions;
mod view;

pub use assemble::{Assembler, Command};
pub use driver::{AppliedV1, Applier, StateCheck, check_state};
pub use exactly_once::{
    ANSWERS_PER_SESSION_MAX, SESSION_TTL_MS, SESSIONS_MAX, SessionAnswerV1, SessionClockV1,
    SessionV1,
};
pub use machine::{ApplyError, StateMachine};
pub use outcome::{
    OUTCOME_BYTES_KEPT_MAX, OUTCOMES_KEPT_MAX, Outcome, Outcomes, Refusal, SessionOutcome,
};
pub use view::View;
