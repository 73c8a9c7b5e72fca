//! The intervals that the replica lives by (DESIGN §2.5).

use std::time::Duration;

/// Intervals of one cluster; all nodes should have the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Every node tells every other that it is there.
    pub heartbeat: Duration,
    /// Silence after which a node is taken for lost.
    pub suspect_after: Duration,
    /// For so long after a leader's heartbeat nothing is promised to another.
    pub lease: Duration,
    /// A node stands so much later for each live one that ranks before it.
    pub stand_step: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            suspect_after: Duration::from_millis(500),
            lease: Duration::from_millis(400),
            stand_step: Duration::from_millis(150),
        }
    }
}

impl Timing {
    /// The lease as its grantor counts it: clocks may differ in speed by a tenth.
    pub fn lease_granted(&self) -> Duration {
        self.lease + self.lease / 10
    }
}
