//! The replica core: who leads, what is committed. No I/O, no clock, no randomness.
//!
//! ```text
//!            ┌ step(envelope, now) ┐                 ┌ Write: entries, truncation, promise → committer
//!  inputs ───┤ tick(now)           ├─▶ Replica ─▶ Effect ┤ Send: a message (Append names a range; the host fills it)
//!            │ propose(drafts)     │                 │ Released, Role: watermarks and leadership
//!            └ written(ticket)     ┘                 └ Fatal: this must not go on
//! ```
//!
//! Safety rests on these rules, each asserted where it is applied:
//! 1. A term number is promised at most once, durably before anyone hears of it.
//! 2. After a promise nothing of an older term changes the log.
//! 3. A candidate leads only with the most advanced log of a quorum of promisers.
//! 4. A leader commits only by an entry of its own term that a quorum holds durably.
//! 5. What is committed is never truncated.
//! 6. A node that does not remember (§2.4) has a new incarnation, which neither promises nor stands,
//!    and which nobody counts, before a configuration in force names it.
//! 7. Membership changes one at a time, after an entry of the leader's own term is committed; every
//!    decision needs a quorum of each configuration from the last committed one to the log's end.

mod candidate;
mod effect;
mod election;
mod follower;
mod founding;
mod leader;
mod members;
mod peers;
mod read_index;
mod state;
#[cfg(test)]
mod tests;

pub use effect::{CommittedV1, Effect, Entries, HardState, Ticket, Write};
pub use follower::configuration_in;
pub use founding::FoundingPlan;
pub use members::ChangeRefused;
pub use peers::{Fitness, Peer};
pub use read_index::ReadTicket;
pub use state::{Replica, Start};
