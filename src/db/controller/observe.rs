//! Looking: at the server, its process and the log.

use std::path::PathBuf;

use tokio::time::{Duration, Instant};

use super::{
    demote::HAND_OVER_WAIT,
    executor::{Controller, DOMAIN},
    observation::{At, DbSeen, LogSeen, Observation, Part, ServerSeen},
    start::FailedStarts,
};
use crate::{
    db::{
        gtid::Gtid,
        mariadb::{DbError, Positions, ReplicaStatus, ServerRun, Session},
        requirements::{self, CheckError, Finding},
    },
    replicate::role::{ReleasedByLeader, RoleView},
    store::StoreError,
    types::Position,
};

/// How often the settings of a misconfigured server are looked at again.
const RECHECK_AFTER: Duration = Duration::from_secs(3);

/// The outcome of the last check of the server's settings.
pub(super) struct Checked {
    pub run: Option<ServerRun>,
    pub at: Instant,
    pub version: String,
    /// Where it writes its error log.
    pub error_log: Option<PathBuf>,
    pub verdict: Result<Vec<Finding>, CheckError>,
}

impl Checked {
    fn stands(&self, run: Option<ServerRun>) -> bool {
        let fit = matches!(&self.verdict, Ok(findings) if findings.is_empty());
        let fresh = self.at.elapsed() < RECHECK_AFTER;
        let same_run = run.is_some() && self.run == run;
        fresh || (fit && same_run)
    }
}

/// How often the replica threads were started at one position.
#[derive(Debug, Default)]
pub(super) struct ReplicaProgress {
    pub sequence: u64,
    pub starts: u32,
    pub ahead_looks: u32,
}

impl ReplicaProgress {
    fn at(&mut self, sequence: u64) {
        if self.sequence != sequence {
            *self = Self { sequence, ..Self::default() };
        }
    }
}

impl Controller {
    /// Looks at everything. The server first, then the log: so what the server has applied is in
    /// what the log shows.
    pub(super) async fn observe(&mut self) -> Result<Observation, StoreError> {
        let looked = self.look().await;
        self.note_error_log().await?;
        if looked.is_ok() {
            self.failed_starts = FailedStarts::default();
        }
        let log = self.log_seen()?;
        let db = match looked {
            Ok(Look::Unfit(db)) => db,
            Ok(Look::Fit(fit)) => DbSeen::Up(self.server_seen(&log, fit).await?),
            Err(e) => DbSeen::Down(e.to_string()),
        };
        if let DbSeen::Up(server) = &db {
            self.replica.at(server.replica_at.sequence());
            let ahead = log.current && matches!(server.replica_at, At::Ahead(_));
            self.replica.ahead_looks = if ahead { self.replica.ahead_looks + 1 } else { 0 };
        }
        let process_runs = match db {
            DbSeen::Down(_) => self.settings.control.is_running().await,
            _ => Some(true),
        };
        Ok(Observation {
            role: self.inputs.role.borrow().clone(),
            log,
            part: self.part.clone(),
            migration: self.inputs.records.needs_migration()?,
            capture_ended: match self.part {
                Part::Leader { .. } => self.inputs.capture.ended(),
                Part::Follower => None,
            },
            process_runs,
            db,
            can_fence: self.settings.control.can_fence(),
            outlived_restart: self.outlived_restart,
            failed_start: self.failed_starts.newest(),
            replica_starts: self.replica.starts,
            replica_ahead_looks: self.replica.ahead_looks,
            resumes: self.resumes,
            failures: self.health.failures(),
            answered: self.checked.is_some(),
            hand_over_overdue: self.hand_over_failed
                || self.closed_at.is_some_and(|at| at.elapsed() > HAND_OVER_WAIT),
        })
    }

    /// Keeps in mind where it writes its error log, for the day when it does not start.
    async fn note_error_log(&self) -> Result<(), StoreError> {
        let said = self.checked.as_ref().and_then(|checked| checked.error_log.clone());
        let Some(said) = said else { return Ok(()) };
        if self.inputs.records.error_log()?.as_ref() == Some(&said) {
            return Ok(());
        }
        let records = self.inputs.records.clone();
        blocking(move || records.note_error_log(&said)).await
    }

    async fn look(&mut self) -> Result<Look, DbError> {
        let mut session = self.health.check(&self.db).await?;
        let positions = session.positions(DOMAIN).await?;
        if let Some(unfit) = self.check(&mut session, positions.run).await? {
            return Ok(Look::Unfit(unfit));
        }
        let replica = session.replica_status().await?;
        let waiting = session.waiting_commits().await?;
        Ok(Look::Fit(Fit { positions, replica, waiting }))
    }

    /// Checks the settings, unless this run of the server was found fit before.
    async fn check(
        &mut self,
        session: &mut Session,
        run: Option<ServerRun>,
    ) -> Result<Option<DbSeen>, DbError> {
        if !self.checked.as_ref().is_some_and(|c| c.stands(run)) {
            let (version, error_log) = (session.version().await?, session.error_log().await?);
            let verdict = match requirements::check(session, &self.settings.wanted).await {
                Err(CheckError::Db(e)) => return Err(e),
                verdict => verdict,
            };
            self.checked = Some(Checked { run, at: Instant::now(), version, error_log, verdict });
        }
        Ok(self.checked.as_ref().and_then(|checked| match &checked.verdict {
            Ok(findings) if findings.is_empty() => None,
            Ok(findings) => Some(DbSeen::Misconfigured(findings.clone())),
            Err(e) => Some(DbSeen::Unsupported(e.to_string())),
        }))
    }

    /// What the log shows here and now.
    pub(super) fn log_seen(&self) -> Result<LogSeen, StoreError> {
        // First what is told, then what is here: so the one cannot be ahead by the order of looks.
        let told = self.inputs.released_by_leader.borrow().clone();
        let released = self.inputs.released.at();
        let applied = self.inputs.applied.at();
        let role = self.inputs.role.borrow().clone();
        let newest = self.inputs.log.read(released, released, usize::MAX)?;
        let newest =
            newest.first().map(|entry| Position { term: Some(entry.term.clone()), lsn: entry.lsn });
        let decided = newest.is_some_and(|newest| decided(&role, &newest, told.as_ref()));
        let tail = self.inputs.index.tail()?.or(self.inputs.index.base());
        Ok(LogSeen { released, applied, current: decided && applied >= released, tail })
    }

    async fn server_seen(&self, log: &LogSeen, fit: Fit) -> Result<ServerSeen, StoreError> {
        let Fit { positions, replica, waiting } = fit;
        let feed = (self.settings.feed.host.clone(), self.settings.feed.port);
        let replica_at = self.place(log, newest(&positions.replica))?;
        Ok(ServerSeen {
            replica_at,
            binlog_at: self.place(log, newest(&positions.binlog))?,
            read_only: positions.read_only,
            waiting,
            relaxed: positions.relaxed,
            restarted: self.part_run.is_some() && self.part_run != positions.run,
            follows_feed: replica.as_ref().is_some_and(|r| r.by_slave_pos && r.endpoint == feed),
            replica,
            broken_ddl: self.fence(replica_at, positions.run).await?,
        })
    }

    /// Looks a position up in the log.
    pub(super) fn place(&self, log: &LogSeen, gtid: Option<Gtid>) -> Result<At, StoreError> {
        let Some(gtid) = gtid else { return Ok(At::Start) };
        let base = self.inputs.index.base();
        Ok(if base == Some(gtid) || self.inputs.index.holds(gtid)? {
            At::InLog(gtid)
        } else if gtid.sequence > log.tail.map_or(0, |tail| tail.sequence) {
            At::Ahead(gtid)
        } else {
            At::Errant(gtid)
        })
    }

    /// Lowers the DDL fence once the DDL is applied; tells of one that the server broke: it was
    /// restarted since, and its position is before it.
    async fn fence(&self, at: At, run: Option<ServerRun>) -> Result<Option<Gtid>, StoreError> {
        let Some(fence) = self.inputs.records.fence()? else { return Ok(None) };
        if at.sequence() >= fence.gtid.sequence {
            let records = self.inputs.records.clone();
            blocking(move || records.clear_fence()).await?;
            return Ok(None);
        }
        let restarted = run.and_then(ServerRun::started).is_some_and(|at| at > fence.raised);
        Ok(restarted.then_some(fence.gtid))
    }
}

/// Whether what is released here shows all that was decided before: the newest released entry is of
/// the term that is led now, and at or past what this term's leader says is released. Without a
/// leader, or with what was released in an earlier life, the database may be ahead of the log for
/// good reason: the others can have released what this node had sent but not yet written; and a
/// node that lost its log, or its end, once held more than it holds now.
fn decided(role: &RoleView, newest: &Position, told: Option<&ReleasedByLeader>) -> bool {
    let told = told.filter(|told| role.term.as_ref() == Some(&told.term));
    role.leader.is_some()
        && newest.term == role.term
        && told.is_some_and(|told| newest.lsn >= told.released)
}

enum Look {
    Unfit(DbSeen),
    Fit(Fit),
}

/// What a fit server says.
struct Fit {
    positions: Positions,
    replica: Option<ReplicaStatus>,
    waiting: u64,
}

/// The newest of a position in one domain (which holds one GTID a domain).
pub(super) fn newest(position: &[Gtid]) -> Option<Gtid> {
    position.iter().copied().max_by_key(|gtid| gtid.sequence)
}

/// Runs what waits for the disk off the async workers.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Lsn, Term};

    fn at(number: u64, lsn: u64) -> Position {
        let leader = if number % 2 == 1 { "n1" } else { "n2" };
        let term = Term { number, leader: leader.parse().expect("valid") };
        Position { term: Some(term), lsn: Lsn(lsn) }
    }

    fn follows(number: u64) -> RoleView {
        let term = at(number, 0).term;
        RoleView { leader: term.clone().map(|t| t.leader), term, ..RoleView::nobody() }
    }

    fn told(number: u64, released: u64) -> Option<ReleasedByLeader> {
        let term = at(number, 0).term.expect("a term");
        Some(ReleasedByLeader { term, released: Lsn(released) })
    }

    #[test]
    fn a_node_that_comes_back_learns_first_what_was_decided_without_it() {
        let knows = |role: &RoleView, newest, told: Option<ReleasedByLeader>| {
            decided(role, &newest, told.as_ref())
        };
        let alone = RoleView { leader: None, ..follows(1) };
        assert!(!knows(&alone, at(1, 57), told(1, 57)), "it led; nobody does now");
        assert!(!knows(&follows(2), at(1, 57), told(2, 57)), "the next leader is known, no more");
        assert!(!knows(&follows(2), at(2, 58), told(1, 57)), "it was the last leader who said so");
        assert!(!knows(&follows(2), at(2, 58), None), "the leader has said nothing yet");
        assert!(knows(&follows(2), at(2, 58), told(2, 58)), "the next leader's first entry");
        assert!(knows(&follows(2), at(2, 50), told(2, 50)), "its own tail was replaced");
    }

    #[test]
    fn a_follower_that_comes_back_in_the_same_term_catches_up_with_its_leader_first() {
        // Whatever it holds itself: it may have lost its log, and been killed while it caught up.
        for (lsn, knows) in [(40, false), (56, false), (57, true), (58, true)] {
            assert_eq!(decided(&follows(2), &at(2, lsn), told(2, 57).as_ref()), knows, "{lsn}");
        }
    }
}
