//! The intervals that a cluster lives by (DESIGN §2.5).

use std::time::Duration;

/// The intervals of DESIGN §2.5; their inequalities hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Every node tells every other that it is there.
    pub heartbeat: Duration,
    /// Silence after which a node is taken for lost.
    pub suspect_after: Duration,
    /// How long nothing is promised to another after a leader's heartbeat.
    pub lease: Duration,
    /// A node stands so much later for each live one that ranks before it.
    pub stand_step: Duration,
    /// Silence after which a leader removes a member.
    pub drop_after: Duration,
    /// When a survivor without a quorum may go on.
    pub takeover_after: Duration,
    /// How long a returned lower ID must be stable before it is handed the leadership.
    pub preempt_after: Duration,
    /// When a member whose durable position does not move while entries wait counts as slow.
    pub slow_member_after: Duration,
    /// How long a cold start waits for all members.
    pub cold_start_wait: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            suspect_after: Duration::from_millis(500),
            lease: Duration::from_millis(400),
            stand_step: Duration::from_millis(150),
            drop_after: Duration::from_millis(700),
            takeover_after: Duration::from_secs(3),
            preempt_after: Duration::from_secs(10),
            slow_member_after: Duration::from_secs(1),
            cold_start_wait: Duration::from_secs(300),
        }
    }
}

impl Timing {
    /// The lease as its grantor counts it: clocks may differ in speed by a tenth.
    pub fn lease_granted(&self) -> Duration {
        self.lease + self.lease / 10
    }
}
