//! Whole clusters of one test binary run one after the other: each keeps the whole machine busy, and
//! one whose heartbeats starve loses its leader.

use std::sync::{Arc, LazyLock};

use tokio::sync::{Mutex, OwnedMutexGuard};

static TURN: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// A test's turn; it ends when this is dropped.
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turn {
    /// Waits for it.
    pub async fn come() -> Self {
        Self { _guard: TURN.clone().lock_owned().await }
    }

    /// Waits for it, in a test without a runtime.
    pub fn come_blocking() -> Self {
        Self { _guard: TURN.clone().blocking_lock_owned() }
    }
}
