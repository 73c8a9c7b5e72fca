//! The decisions: what to do next, from what is seen. No I/O, no clock.

use super::observation::{At, DbSeen, FailedStart, LogSeen, Observation, Part, ServerSeen};
use crate::{
    db::{
        control::StartRole,
        gtid::Gtid,
        health::UNHEALTHY_AFTER,
        mariadb::{Entrance, ReplicaStatus},
        status::DbState,
    },
    types::Term,
};

/// How often replica threads that stop with an error, without progress, are started again.
pub const REPLICA_STARTS_MAX: u32 = 5;
/// Failures in a row after which a live but silent database is killed and started again.
pub const KILL_AFTER_FAILURES: u32 = 20;
/// How often a lost capture is connected again in one term.
pub const RESUMES_MAX: u32 = 3;
/// Looks at which a replica may be ahead of a current log: the index may be about to show it.
pub const AHEAD_LOOKS_MAX: u32 = 50;
/// Errors that pass by themselves: connections, lock waits, deadlocks, and a temporary lack.
const TRANSIENT: [u16; 12] =
    [1040, 1053, 1158, 1159, 1160, 1161, 1205, 1213, 2002, 2003, 2006, 2013];

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing: this is how things are.
    Rest(DbState, String),
    /// Ask the node to give up the lead, because of this.
    StepDown(String),
    /// Start a database that does not run: as follower, unless it refused that.
    Launch(StartRole),
    /// Kill it and start it as follower: what was not acknowledged is cut off.
    Restart(String),
    /// Record that it must be migrated.
    Migrate(String),
    /// Set it read-only and as a follower.
    Protect,
    /// Point its replica threads to the feed and start them.
    Follow(Entrance),
    /// Start its replica threads again.
    StartReplica,
    /// Stop the replica, start capture and open writes, in this term.
    Promote {
        /// The term.
        term: Term,
        /// The log's last transaction: where capture starts.
        after: Option<Gtid>,
    },
    /// Capture was lost: connect it again, in the same term.
    ResumeCapture(String),
    /// Close writes while the lead is still ours: a graceful hand-over.
    CloseWrites,
    /// The hand-over did not come about: open writes again.
    Reopen,
    /// The lead is lost: cut off clients, settle what waits, and become a follower.
    Lose,
    /// Writes were closed and all is released: end capture and become a follower.
    Retire,
}

/// The next thing to do.
pub fn decide(seen: &Observation) -> Action {
    match &seen.part {
        Part::Leader { term, closed } => leader(seen, term, *closed),
        Part::Follower => follower(seen),
    }
}

fn leader(seen: &Observation, term: &Term, closed: bool) -> Action {
    let role = &seen.role;
    if !role.leads() || role.term.as_ref() != Some(term) {
        return if closed { Action::Retire } else { Action::Lose };
    }
    if let Some(reason) = cannot_lead(seen) {
        return Action::StepDown(reason);
    }
    if let Some(end) = &seen.capture_ended {
        return Action::ResumeCapture(end.why.clone());
    }
    match (closed, role.handing_over) {
        (false, true) => Action::CloseWrites,
        (true, false) if seen.hand_over_overdue => Action::Reopen,
        (true, _) => Action::Rest(DbState::Demoting, "handing over".into()),
        (false, false) => Action::Rest(DbState::Leading, String::new()),
    }
}

/// Why a database that leads must not go on.
fn cannot_lead(seen: &Observation) -> Option<String> {
    if let Some(reason) = &seen.migration {
        return Some(reason.clone());
    }
    if let Some(end) = seen.capture_ended.as_ref().filter(|_| !may_resume(seen)) {
        return Some(format!("capture ended: {}", end.why));
    }
    match &seen.db {
        DbSeen::Down(why) if unhealthy(seen) => Some(format!("the database is down: {why}")),
        DbSeen::Down(_) => None,
        DbSeen::Unsupported(why) => Some(why.clone()),
        DbSeen::Misconfigured(findings) => {
            Some(format!("the database has {} wrong settings", findings.len()))
        }
        DbSeen::Up(server) if server.restarted => Some("the database was restarted".into()),
        DbSeen::Up(_) => None,
    }
}

/// Whether a capture that ended may be connected again in this term: a connection was lost, and
/// nothing else. What waits in the database then is what nobody else has numbered.
fn may_resume(seen: &Observation) -> bool {
    let open = matches!(seen.part, Part::Leader { closed: false, .. }) && !seen.role.handing_over;
    let same_run = matches!(&seen.db, DbSeen::Up(server) if !server.restarted);
    let lost = seen.capture_ended.as_ref().is_some_and(|end| end.lost);
    open && same_run && lost && seen.resumes < RESUMES_MAX
}

fn unhealthy(seen: &Observation) -> bool {
    seen.process_runs == Some(false) || seen.failures >= UNHEALTHY_AFTER
}

fn follower(seen: &Observation) -> Action {
    let next = follow(seen);
    // A node beside a database that cannot be promoted must not hold the lead.
    let hopeless = match &next {
        Action::Rest(DbState::Misconfigured | DbState::NeedsMigration, why) => Some(why.clone()),
        Action::Migrate(_) => None, // recorded first; the next decision steps down
        Action::Launch(_) => {
            let failed = seen.failed_start.as_ref().map(|start| start.why.clone());
            Some(failed.unwrap_or("the database does not run".into()))
        }
        Action::Restart(why) => Some(why.clone()),
        Action::Rest(DbState::Unreachable, why) if unhealthy(seen) => Some(why.clone()),
        _ => None,
    };
    match hopeless {
        Some(reason) if seen.role.leads() => Action::StepDown(reason),
        _ => next,
    }
}

fn follow(seen: &Observation) -> Action {
    if let Some(reason) = &seen.migration {
        return Action::Rest(DbState::NeedsMigration, reason.clone());
    }
    match &seen.db {
        DbSeen::Down(why) => down(seen, why),
        DbSeen::Unsupported(why) => Action::Rest(DbState::Misconfigured, why.clone()),
        DbSeen::Misconfigured(findings) => {
            let detail = format!("{} settings must change, then a restart", findings.len());
            Action::Rest(DbState::Misconfigured, detail)
        }
        DbSeen::Up(server) => up(seen, server),
    }
}

fn down(seen: &Observation, why: &str) -> Action {
    let failed = seen.failed_start.as_ref();
    match seen.process_runs {
        Some(false) if seen.can_fence => launch(failed),
        Some(true) if seen.can_fence && seen.answered && seen.failures >= KILL_AFTER_FAILURES => {
            Action::Restart(format!("it runs but does not answer: {why}"))
        }
        _ => Action::Rest(DbState::Unreachable, failed.map_or(why, |f| &f.why).to_owned()),
    }
}

/// As follower, again and again, whatever is in the way: its default role would commit what the
/// cluster does not have. Only a server that itself says that it cannot cut that off gets it.
fn launch(failed: Option<&FailedStart>) -> Action {
    match failed {
        Some(start) if start.refuses_to_cut => Action::Launch(StartRole::Default),
        Some(start) if start.rests => Action::Rest(DbState::Unreachable, start.why.clone()),
        _ => Action::Launch(StartRole::Follower),
    }
}

fn up(seen: &Observation, server: &ServerSeen) -> Action {
    if let Some(gtid) = server.broken_ddl {
        return Action::Migrate(format!(
            "the database was restarted in the middle of a schema change ({gtid}): \
             nobody knows whether it was made"
        ));
    }
    if !server.read_only && server.waiting > 0 && seen.can_fence {
        // Setting it read-only would hang behind what waits.
        let why = "it takes writes of an earlier life of this node, and commits wait in it";
        return Action::Restart(why.into());
    }
    if !server.read_only || (!server.relaxed && !seen.role.leads()) {
        return Action::Protect;
    }
    surplus(seen, server)
        .or_else(|| rejoin(seen, server))
        .unwrap_or_else(|| promote_or_rest(seen, server))
}

/// What the database holds and the log does not.
fn surplus(seen: &Observation, server: &ServerSeen) -> Option<Action> {
    let lost = match server.replica_at {
        At::Errant(gtid) => Some(gtid),
        At::Ahead(gtid) if seen.replica_ahead_looks >= AHEAD_LOOKS_MAX => Some(gtid),
        At::Ahead(gtid) => return Some(waiting(seen, gtid)),
        _ => None,
    };
    if let Some(gtid) = lost {
        let why = format!("its replica position {gtid} is not in the cluster's log");
        return Some(Action::Migrate(why));
    }
    let errant = match server.binlog_at {
        At::Start | At::InLog(_) => return None,
        At::Errant(gtid) => gtid,
        At::Ahead(gtid) if seen.log.current => gtid,
        At::Ahead(gtid) => return Some(waiting(seen, gtid)),
    };
    let why = format!("transaction {errant} in its binlog is not in the cluster's log");
    Some(if seen.outlived_restart == Some(errant) {
        Action::Migrate(format!("{why}, and a restart as follower did not undo it"))
    } else if seen.can_fence {
        Action::Restart(why)
    } else {
        Action::Rest(
            DbState::Unreachable,
            format!("{why}: kill it (-9) and start it as follower, to undo that"),
        )
    })
}

fn waiting(seen: &Observation, gtid: Gtid) -> Action {
    let state = if seen.role.leads() { DbState::Promoting } else { DbState::Starting };
    Action::Rest(state, format!("waiting until the log shows whether {gtid} is in it"))
}

/// Makes the replica threads follow the feed, if they do not.
fn rejoin(seen: &Observation, server: &ServerSeen) -> Option<Action> {
    let led_later = server.binlog_at.sequence() > server.replica_at.sequence();
    let drained = server.replica_at.gtid() == seen.log.tail && !led_later;
    if drained && seen.role.leads() && !seen.role.handing_over {
        return None;
    }
    if led_later {
        return Some(Action::Follow(Entrance::Demote));
    }
    let replica = server.replica.as_ref().filter(|_| server.follows_feed);
    let Some(replica) = replica else {
        return Some(Action::Follow(Entrance::ReplicaPosition));
    };
    (!replica.io_running || !replica.sql_running).then(|| stopped(seen, replica))
}

fn stopped(seen: &Observation, replica: &ReplicaStatus) -> Action {
    let failed = [&replica.sql_error, &replica.io_error]
        .into_iter()
        .find(|(code, _)| *code != 0 && !TRANSIENT.contains(code));
    match failed {
        Some((code, text)) if seen.replica_starts >= REPLICA_STARTS_MAX => {
            Action::Migrate(format!("its replica threads stop with error {code}: {text}"))
        }
        _ => Action::StartReplica,
    }
}

fn promote_or_rest(seen: &Observation, server: &ServerSeen) -> Action {
    let role = &seen.role;
    let promoting = |why: &str| Action::Rest(DbState::Promoting, why.into());
    match (&role.term, role.term_start) {
        _ if !role.leads() || role.handing_over => {
            Action::Rest(DbState::Following, behind(&seen.log, server))
        }
        (Some(term), Some(start)) if seen.log.applied >= start => {
            if server.replica_at.gtid() == seen.log.tail {
                Action::Promote { term: term.clone(), after: seen.log.tail }
            } else {
                promoting("applying what is left of the log")
            }
        }
        _ => promoting("waiting until the first entry of its term is released"),
    }
}

/// Whether a database that had to be migrated may follow again, as far as can be seen: why it had to,
/// and the position that it follows from; else what is in the way. `own_binlog` is what its own
/// binlog holds, `fence` a schema change that it may have broken in and is not past.
pub fn take_back(
    seen: &Observation,
    own_binlog: &str,
    fence: Option<Gtid>,
) -> Result<(String, Option<Gtid>), String> {
    let Some(reason) = seen.migration.clone() else {
        return Err("this node's database is not in NeedsMigration: nothing was done".into());
    };
    let server = match &seen.db {
        DbSeen::Up(server) => server,
        DbSeen::Down(why) => return Err(format!("start the copy first: {why}")),
        DbSeen::Unsupported(why) => return Err(why.clone()),
        DbSeen::Misconfigured(findings) => {
            let many = findings.len();
            return Err(format!(
                "{many} of its settings must change first: see wolfctl db diagnose"
            ));
        }
    };
    if !own_binlog.is_empty() {
        return Err(format!(
            "its own binlog holds {own_binlog}; a copy has none of its own. If this is one: note \
             gtid_slave_pos, RESET MASTER, and set gtid_slave_pos again"
        ));
    }
    if !seen.log.current {
        return Err("this node does not hold all of the cluster's log yet, or knows no leader: \
                    nobody can say whether the copy belongs to it; try again"
            .into());
    }
    match server.replica_at {
        At::Start if seen.log.tail.is_some() => Err("its gtid_slave_pos is empty: \
             SET GLOBAL gtid_slave_pos to the position that the copy was taken at"
            .into()),
        At::Ahead(gtid) | At::Errant(gtid) => Err(format!(
            "its gtid_slave_pos {gtid} is not in the cluster's log: take a copy of a node that is"
        )),
        At::Start | At::InLog(_) => match fence {
            Some(ddl) => Err(format!(
                "the old database broke in the schema change {ddl}, and this one is not past it: \
                 take a newer copy"
            )),
            None => Ok((reason, server.replica_at.gtid())),
        },
    }
}

fn behind(log: &LogSeen, server: &ServerSeen) -> String {
    if let Some((code, text)) = server.replica.as_ref().map(|r| &r.io_error).filter(|e| e.0 != 0) {
        return format!("the feed is not reached: error {code}: {text}");
    }
    match transactions_behind(log, server) {
        0 => String::new(),
        many => format!("{many} transactions behind the log"),
    }
}

/// How many transactions of the log a follower's database has not applied yet.
pub fn transactions_behind(log: &LogSeen, server: &ServerSeen) -> u64 {
    let tail = log.tail.map_or(0, |gtid| gtid.sequence);
    tail.saturating_sub(server.replica_at.sequence().max(server.binlog_at.sequence()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        db::controller::seams::CaptureEnd,
        replicate::role::{Role, RoleView},
        types::Lsn,
    };

    fn gtid(text: &str) -> Gtid {
        text.parse().expect("valid")
    }

    fn term(number: u64) -> Term {
        Term { number, leader: "n1".parse().expect("valid") }
    }

    fn leads(number: u64) -> RoleView {
        RoleView {
            role: Role::Leader,
            term: Some(term(number)),
            leader: Some("n1".parse().expect("valid")),
            term_start: Some(Lsn(10)),
            handing_over: false,
        }
    }

    fn running() -> ReplicaStatus {
        ReplicaStatus { io_running: true, sql_running: true, ..Default::default() }
    }

    fn server() -> ServerSeen {
        ServerSeen {
            replica_at: At::InLog(gtid("0-1-5")),
            binlog_at: At::Start,
            read_only: true,
            waiting: 0,
            relaxed: true,
            restarted: false,
            replica: Some(running()),
            follows_feed: true,
            broken_ddl: None,
        }
    }

    /// A follower that has applied everything, of a healthy cluster.
    fn calm() -> Observation {
        Observation {
            role: RoleView::nobody(),
            log: LogSeen {
                released: Lsn(12),
                applied: Lsn(12),
                current: true,
                tail: Some(gtid("0-1-5")),
            },
            part: Part::Follower,
            db: DbSeen::Up(server()),
            migration: None,
            capture_ended: None,
            resumes: 0,
            process_runs: Some(true),
            can_fence: true,
            outlived_restart: None,
            failed_start: None,
            replica_starts: 0,
            replica_ahead_looks: 0,
            failures: 0,
            answered: true,
            hand_over_overdue: false,
        }
    }

    fn with(change: impl FnOnce(&mut ServerSeen)) -> Observation {
        let mut server = server();
        change(&mut server);
        Observation { db: DbSeen::Up(server), ..calm() }
    }

    fn leading() -> Observation {
        let part = Part::Leader { term: term(3), closed: false };
        Observation { role: leads(3), part, ..calm() }
    }

    fn state(action: &Action) -> Option<DbState> {
        match action {
            Action::Rest(state, _) => Some(*state),
            _ => None,
        }
    }

    #[test]
    fn a_calm_follower_follows() {
        assert_eq!(decide(&calm()), Action::Rest(DbState::Following, String::new()));
    }

    #[test]
    fn writes_open_only_when_drained_in_an_own_released_term() {
        let ready = Observation { role: leads(3), ..calm() };
        let promote = Action::Promote { term: term(3), after: Some(gtid("0-1-5")) };
        assert_eq!(decide(&ready), promote);

        let mut early = ready.clone();
        early.log.applied = Lsn(9);
        assert_eq!(state(&decide(&early)), Some(DbState::Promoting), "own entry not applied");

        let mut behind = ready.clone();
        behind.log.tail = Some(gtid("0-1-6"));
        assert_eq!(state(&decide(&behind)), Some(DbState::Promoting), "not drained");

        let mut stray = with(|s| s.binlog_at = At::Ahead(gtid("0-2-6")));
        stray.role = leads(3);
        assert!(matches!(decide(&stray), Action::StepDown(_)), "a stray write in its binlog");

        let mut ours = with(|s| s.binlog_at = At::InLog(gtid("0-1-5")));
        let DbSeen::Up(server) = &mut ours.db else { unreachable!("it is up") };
        server.replica_at = At::InLog(gtid("0-2-3"));
        ours.role = leads(3);
        assert_eq!(decide(&ours), Action::Follow(Entrance::Demote), "its own tail merges first");

        let empty = Observation {
            role: leads(3),
            log: LogSeen { tail: None, ..calm().log },
            ..with(|s| {
                s.replica_at = At::Start;
                s.replica = None;
                s.follows_feed = false;
            })
        };
        assert_eq!(decide(&empty), Action::Promote { term: term(3), after: None }, "a new cluster");
    }

    #[test]
    fn a_lost_lead_is_lost_whoever_leads_next() {
        assert_eq!(state(&decide(&leading())), Some(DbState::Leading));
        let lost = Observation { role: RoleView::nobody(), ..leading() };
        assert_eq!(decide(&lost), Action::Lose);
        let again = Observation { role: leads(4), ..leading() };
        assert_eq!(decide(&again), Action::Lose, "a term of its own, but another one");
        let closed = Part::Leader { term: term(3), closed: true };
        let retired = Observation { role: RoleView::nobody(), part: closed, ..leading() };
        assert_eq!(decide(&retired), Action::Retire);
    }

    #[test]
    fn a_leader_gives_up_when_its_database_fails() {
        let down = |failures, process_runs| Observation {
            db: DbSeen::Down("refused".into()),
            failures,
            process_runs,
            ..leading()
        };
        assert!(
            matches!(decide(&down(1, Some(false))), Action::StepDown(_)),
            "its process is gone"
        );
        assert_eq!(state(&decide(&down(1, Some(true)))), Some(DbState::Leading), "one hiccup");
        assert!(matches!(decide(&down(UNHEALTHY_AFTER, Some(true))), Action::StepDown(_)));
        let restarted = Observation { db: with(|s| s.restarted = true).db, ..leading() };
        assert!(matches!(decide(&restarted), Action::StepDown(_)));
    }

    #[test]
    fn a_lost_capture_is_resumed_in_its_term_and_only_if_nothing_else_happened() {
        let ended = |lost| Some(CaptureEnd { why: "closed".into(), lost });
        let deaf = Observation { capture_ended: ended(true), ..leading() };
        assert_eq!(decide(&deaf), Action::ResumeCapture("closed".into()));
        let tired = Observation { resumes: RESUMES_MAX, ..deaf.clone() };
        let refused = Observation { capture_ended: ended(false), ..deaf.clone() };
        let restarted = Observation { db: with(|s| s.restarted = true).db, ..deaf.clone() };
        let down = Observation { db: DbSeen::Down("refused".into()), ..deaf.clone() };
        let handing = RoleView { handing_over: true, ..leads(3) };
        let handing = Observation { role: handing, ..deaf.clone() };
        for seen in [tired, refused, restarted, down, handing] {
            assert!(matches!(decide(&seen), Action::StepDown(_)), "{seen:?}");
        }
        let next = Observation { role: leads(4), ..deaf };
        assert_eq!(decide(&next), Action::Lose, "another term may have numbered what waits");
    }

    #[test]
    fn handing_over_closes_writes_and_opens_them_again_if_nobody_takes_over() {
        let handing = RoleView { handing_over: true, ..leads(3) };
        let handing = Observation { role: handing, ..leading() };
        assert_eq!(decide(&handing), Action::CloseWrites);
        let part = Part::Leader { term: term(3), closed: true };
        let closed = Observation { part, ..leading() };
        assert_eq!(state(&decide(&closed)), Some(DbState::Demoting));
        let overdue = Observation { hand_over_overdue: true, ..closed };
        assert_eq!(decide(&overdue), Action::Reopen);
    }

    #[test]
    fn a_surplus_is_cut_off_by_a_restart_and_what_outlives_that_needs_migration() {
        let ahead = gtid("0-1-6");
        let surplus = with(|s| s.binlog_at = At::Ahead(ahead));
        assert!(matches!(decide(&surplus), Action::Restart(_)));
        let outlived = Observation { outlived_restart: Some(ahead), ..surplus.clone() };
        assert!(matches!(decide(&outlived), Action::Migrate(_)));
        let mut lagging = surplus.clone();
        lagging.log.current = false;
        assert_eq!(state(&decide(&lagging)), Some(DbState::Starting), "the log here may lag");
        let errant = Observation {
            log: LogSeen { current: false, ..calm().log },
            ..with(|s| s.binlog_at = At::Errant(gtid("0-1-4")))
        };
        assert!(matches!(decide(&errant), Action::Restart(_)), "the log went another way");
        let applied = with(|s| s.replica_at = At::Errant(gtid("0-1-4")));
        assert!(matches!(decide(&applied), Action::Migrate(_)));
        let mut early = with(|s| s.replica_at = At::Ahead(ahead));
        assert_eq!(state(&decide(&early)), Some(DbState::Starting), "the index may lag a moment");
        early.replica_ahead_looks = AHEAD_LOOKS_MAX;
        assert!(matches!(decide(&early), Action::Migrate(_)));
        let helpless = Observation { can_fence: false, ..surplus };
        assert_eq!(state(&decide(&helpless)), Some(DbState::Unreachable));
    }

    #[test]
    fn a_former_leader_demotes_and_others_follow_from_their_replica_position() {
        let led = with(|s| s.binlog_at = At::InLog(gtid("0-1-6")));
        assert_eq!(decide(&led), Action::Follow(Entrance::Demote));
        let fresh = with(|s| {
            s.follows_feed = false;
            s.replica = None;
        });
        assert_eq!(decide(&fresh), Action::Follow(Entrance::ReplicaPosition));
        assert_eq!(decide(&with(|s| s.read_only = false)), Action::Protect);
        let waits = with(|s| (s.read_only, s.waiting) = (false, 1));
        assert!(matches!(decide(&waits), Action::Restart(_)), "read_only would hang");
        assert_eq!(decide(&with(|s| s.relaxed = false)), Action::Protect);
    }

    #[test]
    fn stopped_replica_threads_are_started_until_an_error_proves_lasting() {
        let stopped = |code: u16, starts| Observation {
            replica_starts: starts,
            ..with(|s| {
                let sql_error = (code, "words".to_owned());
                s.replica = Some(ReplicaStatus { sql_running: false, sql_error, ..running() });
            })
        };
        assert_eq!(decide(&stopped(0, 99)), Action::StartReplica);
        assert_eq!(decide(&stopped(1205, 99)), Action::StartReplica, "a lock wait passes");
        assert_eq!(decide(&stopped(1062, 0)), Action::StartReplica);
        assert!(matches!(decide(&stopped(1062, REPLICA_STARTS_MAX)), Action::Migrate(_)));
    }

    #[test]
    fn a_database_that_is_down_is_started_and_one_that_hangs_is_killed() {
        let down = |failures, process_runs, can_fence| Observation {
            db: DbSeen::Down("refused".into()),
            failures,
            process_runs,
            can_fence,
            ..calm()
        };
        assert_eq!(decide(&down(1, Some(false), true)), Action::Launch(StartRole::Follower));
        assert_eq!(state(&decide(&down(1, Some(true), true))), Some(DbState::Unreachable));
        assert!(matches!(decide(&down(KILL_AFTER_FAILURES, Some(true), true)), Action::Restart(_)));
        assert_eq!(state(&decide(&down(99, Some(false), false))), Some(DbState::Unreachable));
        let recovering = Observation { answered: false, ..down(99, Some(true), true) };
        assert_eq!(state(&decide(&recovering)), Some(DbState::Unreachable), "let it recover");
    }

    #[test]
    fn only_a_server_that_refuses_to_cut_off_its_tail_is_started_with_the_default_role() {
        let failed = |refuses_to_cut, rests| {
            let why = "[ERROR] unknown variable".to_owned();
            decide(&Observation {
                db: DbSeen::Down("refused".into()),
                failures: 99,
                process_runs: Some(false),
                failed_start: Some(FailedStart { why, refuses_to_cut, rests }),
                ..calm()
            })
        };
        assert_eq!(failed(false, false), Action::Launch(StartRole::Follower), "as ever");
        let rest = Action::Rest(DbState::Unreachable, "[ERROR] unknown variable".into());
        assert_eq!(failed(false, true), rest, "the operator reads why");
        assert_eq!(failed(true, true), Action::Launch(StartRole::Default));
    }

    #[test]
    fn hopeless_databases_do_not_lead() {
        let cases = [
            Observation { migration: Some("errant".into()), ..calm() },
            Observation { db: DbSeen::Misconfigured(vec![]), ..calm() },
            Observation { db: DbSeen::Unsupported("MySQL".into()), ..calm() },
            Observation {
                db: DbSeen::Down("refused".into()),
                process_runs: Some(false),
                failures: 1,
                ..calm()
            },
        ];
        for seen in cases {
            assert!(
                !matches!(decide(&seen), Action::StepDown(_)),
                "a follower has no lead to give"
            );
            let leads = Observation { role: leads(3), ..seen };
            assert!(matches!(decide(&leads), Action::StepDown(_)), "{leads:?}");
        }
    }

    #[test]
    fn an_unclean_stop_in_a_schema_change_needs_migration() {
        let broken = with(|s| s.broken_ddl = Some(gtid("0-1-6")));
        assert!(matches!(decide(&broken), Action::Migrate(_)));
    }

    #[test]
    fn a_rebuilt_database_returns_only_if_nothing_speaks_against_it() {
        let marked = |seen: Observation| Observation { migration: Some("broken".into()), ..seen };
        let at = |replica_at| marked(with(|server| server.replica_at = replica_at));
        let copy = at(At::InLog(gtid("0-1-3")));
        let taken = Ok(("broken".to_owned(), Some(gtid("0-1-3"))));
        assert_eq!(take_back(&copy, "", None), taken);

        let lagging = LogSeen { current: false, ..calm().log };
        let refusals = [
            (take_back(&calm(), "", None), "not in NeedsMigration"),
            (take_back(&copy, "0-1-3", None), "RESET MASTER"),
            (take_back(&copy, "", Some(gtid("0-1-4"))), "not past it"),
            (take_back(&Observation { log: lagging, ..copy.clone() }, "", None), "try again"),
            (take_back(&at(At::Start), "", None), "gtid_slave_pos is empty"),
            (take_back(&at(At::Ahead(gtid("0-1-9"))), "", None), "0-1-9 is not in"),
            (take_back(&at(At::Errant(gtid("0-2-4"))), "", None), "0-2-4 is not in"),
        ];
        for (outcome, words) in refusals {
            let why = outcome.expect_err(words);
            assert!(why.contains(words), "{why}");
        }
        for (db, words) in [
            (DbSeen::Down("refused".into()), "start the copy first"),
            (DbSeen::Unsupported("MySQL".into()), "MySQL"),
            (DbSeen::Misconfigured(vec![]), "db diagnose"),
        ] {
            let why = take_back(&marked(Observation { db, ..calm() }), "", None);
            assert!(why.clone().expect_err(words).contains(words), "{why:?}");
        }
        let empty = LogSeen { tail: None, ..calm().log };
        let first = Observation { log: empty, ..at(At::Start) };
        assert_eq!(take_back(&first, "", None), Ok(("broken".to_owned(), None)));
    }
}
