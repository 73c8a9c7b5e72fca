//! Starting the database, and saying why it does not start.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    executor::{Controller, DOMAIN, StepError},
    observation::FailedStart,
    observe::newest,
};
use crate::db::{
    control::{ControlError, StartRole},
    server_log::{StartLog, Words},
};

/// How often a starting server is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a start may show no process before it counts as failed.
const NO_PROCESS_WAIT: Duration = Duration::from_secs(5);
/// After the first failure; doubled by each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two tries: an operator who has mended something waits for it.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Starts that failed in a row.
#[derive(Debug, Default)]
pub(super) struct FailedStarts {
    count: u32,
    newest: Option<(FailedStart, Instant)>,
}

impl FailedStarts {
    /// The newest one, as of now.
    pub fn newest(&self) -> Option<FailedStart> {
        let (start, retry_at) = self.newest.as_ref()?;
        Some(FailedStart { rests: Instant::now() < *retry_at, ..start.clone() })
    }

    fn add(&mut self, role: StartRole, error: &StepError, said: &Words) {
        let words = said.errors();
        let why = match words.as_str() {
            "" => format!("it does not start: {error}; look into its error log"),
            words => format!("it does not start: {words}"),
        };
        warn!(why, ?role, %error, "the database does not start");
        let refuses_to_cut = role == StartRole::Follower && said.refuse_to_cut();
        let start = FailedStart { why, refuses_to_cut, rests: true };
        self.newest = Some((start, Instant::now() + pause_after(self.count)));
        self.count += 1;
    }
}

impl Controller {
    /// Starts a database that does not run. One that fails to start is recorded as that, with what
    /// it says; one that is only slow is left to recover.
    pub(super) async fn launch(&mut self, role: StartRole) -> Result<(), StepError> {
        if role == StartRole::Default {
            warn!("the database keeps what was not acknowledged: it cannot cut that off");
        }
        let error_log = self.inputs.records.error_log()?;
        let log = StartLog::begin(&self.settings.control, error_log.as_deref()).await;
        match self.start(role).await {
            Err(error) if self.settings.control.is_running().await != Some(true) => {
                self.failed_starts.add(role, &error, &log.words().await);
                Ok(())
            }
            started => started,
        }
    }

    /// Kills it and starts it as follower, which cuts off what was not acknowledged.
    pub(super) async fn restart(&mut self, why: &str) -> Result<(), StepError> {
        warn!(why, "killing the database and starting it as follower");
        self.settings.control.kill().await?;
        self.launch(StartRole::Follower).await
    }

    async fn start(&mut self, role: StartRole) -> Result<(), StepError> {
        self.checked = None;
        let mut launched = self.settings.control.start(role).await?;
        let begun = Instant::now();
        loop {
            if let Ok(mut session) = self.db.session().await {
                let positions = session.positions(DOMAIN).await?;
                // Whatever it still holds now, a start as follower did not rid it of.
                self.outlived_restart = newest(&positions.binlog);
                info!(?role, took = ?begun.elapsed(), "the database is up");
                return Ok(());
            }
            if let Some(e) = launched.failure() {
                return Err(e.into());
            }
            let gone = self.settings.control.is_running().await == Some(false);
            let after = if gone { NO_PROCESS_WAIT } else { self.settings.start_timeout };
            if begun.elapsed() > after {
                return Err(ControlError::Timeout { what: "start database", after }.into());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// The pause after that many failures before this one.
fn pause_after(failures: u32) -> Duration {
    RETRY_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let seconds = [0, 1, 2, 3, 4, 99].map(|failures| pause_after(failures).as_secs());
        assert_eq!(seconds, [1, 2, 4, 8, 15, 15]);
    }
}
