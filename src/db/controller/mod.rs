//! The controller of the local database's part: it follows, is promoted, is demoted, rejoins.
//!
//! ```text
//!  role, watermarks, index ─┐
//!                           ├─▶ Observation ─▶ decide ─▶ Action ─▶ executor ─▶ SQL, control, capture
//!  server, its process ─────┘   (plain data)   (pure)              promote · demote · rejoin
//! ```
//!
//! Invariants:
//! - Every start of the database is as follower, unless the server itself refuses to cut off its
//!   tail; it takes writes only between `promote` and `lose`.
//! - Writes open only when the own term's first entry is released, the replica has applied the
//!   log's last transaction exactly, and capture is connected there. Else a sequence number would
//!   be used twice, and no GTID would show it.
//! - Nothing is acknowledged that the cluster does not have: what waits at the end of a lead is
//!   acknowledged only if the log holds it, else the database is killed and cuts it off.
//! - What a restart does not undo is recorded (`NeedsMigration`), and such a database never leads,
//!   nor does it follow, until an operator says that it was rebuilt and nothing speaks against that.
//!
//! It does not elect, propose or serve: it asks the node to step down, and drives capture.

mod cut;
mod decide;
mod demote;
mod executor;
mod founding;
mod handle;
mod local_capture;
mod observation;
mod observe;
mod promote;
mod rebuilt;
mod rejoin;
mod resume;
mod seams;
mod start;

pub use decide::{Action, KILL_AFTER_FAILURES, REPLICA_STARTS_MAX, RESUMES_MAX, decide, take_back};
pub use demote::{CLOSE_WAIT, SUCCESSOR_WAIT};
pub use executor::{Controller, ControllerSettings, Inputs};
pub use founding::{Founding, probe};
pub use handle::{CloseError, ControllerHandle, StepDown};
pub use local_capture::LocalCapture;
pub use observation::{At, DbSeen, FailedStart, LogSeen, Observation, Part, ServerSeen};
pub use rebuilt::{Rebuilt, RebuiltError};
pub use seams::{CaptureControl, CaptureEnd, CaptureError, GtidIndex};
