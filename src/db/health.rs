//! Whether the local database answers: counted, so that one hiccup moves no leadership.

use std::time::Duration;

use super::mariadb::{DbError, MariaDb, Session};

/// Failures in a row after which a leader's database counts as unhealthy.
pub const UNHEALTHY_AFTER: u32 = 3;
/// How long one check may take; it cannot hang behind waiting commits.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a database at rest is checked.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Counts checks of one database.
#[derive(Debug, Default)]
pub struct Health {
    failures: u32,
}

impl Health {
    /// Checks over a new connection, and returns it. A database that accepts connections but
    /// cannot read a row in time is as bad as one that is gone.
    pub async fn check(&mut self, db: &MariaDb) -> Result<Session, DbError> {
        let checked = async {
            let mut session = db.session().await?;
            session.ping().await.map(|()| session)
        };
        let outcome = tokio::time::timeout(CHECK_TIMEOUT, checked).await.unwrap_or_else(|_| {
            let why = format!("no answer in {CHECK_TIMEOUT:?}");
            Err(DbError::Indeterminate { what: "health check", why })
        });
        self.count(outcome.is_ok());
        outcome
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn count(&mut self, good: bool) {
        self.failures = if good { 0 } else { self.failures.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_in_a_row() {
        let mut health = Health::default();
        for (good, failures) in [(false, 1), (false, 2), (true, 0), (false, 1)] {
            health.count(good);
            assert_eq!(health.failures(), failures);
        }
    }
}
