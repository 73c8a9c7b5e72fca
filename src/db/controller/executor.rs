//! The task that observes, decides and acts, one action at a time.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    decide::{Action, decide, transactions_behind},
    handle::{CloseError, ControllerHandle, REQUESTS_WAITING_MAX, Request, StepDown},
    observation::{DbSeen, Observation, Part},
    observe::{Checked, ReplicaProgress},
    seams::{CaptureControl, CaptureError, GtidIndex},
    start::FailedStarts,
};
use crate::{
    db::{
        control::{Control, ControlError},
        ddl_fence::DbRecords,
        gtid::Gtid,
        health::{CHECK_INTERVAL, Health},
        mariadb::{AdminSettings, DbError, FeedEndpoint, MariaDb, ServerRun},
        requirements::Wanted,
        status::{DbState, DbStatus},
    },
    log::{EntrySource, watermark::Watermark},
    replicate::role::{ReleasedByLeader, RoleView},
    store::StoreError,
    tasks::{OnEnd, Tasks},
    types::Term,
};

/// The cluster's only GTID domain.
pub(super) const DOMAIN: u32 = 0;
/// Failed promotions in a row after which the lead is given up.
const PROMOTIONS_FAILED_MAX: u32 = 5;
/// How often the node is asked again to give up the lead: an heir may be eligible by then.
const STEP_DOWN_EVERY: Duration = Duration::from_secs(1);
/// How long the node may keep a lead that it was asked to give up. Within one term the database
/// cannot be promoted again, as proposals of the old capture may still be on their way.
const STEP_DOWN_PATIENCE: Duration = Duration::from_secs(8);
/// What to do about a database that must be migrated.
const REBUILD: &str = "rebuild it from a copy of another node's (docs/operations.md, \"Rebuilding a \
                       database\"), then: wolfctl db rebuilt";
/// The pace while something is awaited that takes milliseconds.
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

/// What the controller is told once.
#[derive(Clone, Debug)]
pub struct ControllerSettings {
    /// How the server is administered.
    pub admin: AdminSettings,
    /// How it is started and killed.
    pub control: Control,
    /// What it must be set to.
    pub wanted: Wanted,
    /// Where its replica threads find the feed.
    pub feed: FeedEndpoint,
    /// Whether events run on the leader.
    pub event_scheduler: bool,
    /// How long a start with recovery may take.
    pub start_timeout: Duration,
}

/// What the controller watches and drives.
pub struct Inputs {
    /// The node's part.
    pub role: watch::Receiver<RoleView>,
    /// Released entries.
    pub released: Watermark,
    /// Applied entries; the index holds these.
    pub applied: Watermark,
    /// The log.
    pub log: Arc<dyn EntrySource>,
    /// How far the leader of the term says that its log is released.
    pub released_by_leader: watch::Receiver<Option<ReleasedByLeader>>,
    /// The GTIDs in it.
    pub index: Arc<dyn GtidIndex>,
    /// Capture.
    pub capture: Box<dyn CaptureControl>,
    /// Durable facts about the database.
    pub records: DbRecords,
}

/// Why a step was not done; it is decided anew, soon.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("{0}")]
    Moved(String),
    /// Fatal.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Fatal: the node holds a lead that its database cannot serve. Its next life begins as follower.
    #[error("the lead is not given up after {STEP_DOWN_PATIENCE:?}, although {0}")]
    Stuck(String),
}

impl StepError {
    fn is_fatal(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Stuck(_))
    }
}

/// The controller.
pub struct Controller {
    pub(super) settings: ControllerSettings,
    pub(super) inputs: Inputs,
    pub(super) db: MariaDb,
    pub(super) health: Health,
    pub(super) part: Part,
    /// Which run of the server was given its part.
    pub(super) part_run: Option<ServerRun>,
    pub(super) closed_at: Option<Instant>,
    /// The node said that nobody takes the lead.
    pub(super) hand_over_failed: bool,
    pub(super) checked: Option<Checked>,
    pub(super) outlived_restart: Option<Gtid>,
    pub(super) failed_starts: FailedStarts,
    pub(super) replica: ReplicaProgress,
    /// How often capture was lost in this term.
    pub(super) resumes: u32,
    promotions_failed: u32,
    /// Since when this term's lead should be given up.
    step_down_since: Option<(Term, Instant)>,
    step_down_at: Option<Instant>,
    status_tx: watch::Sender<DbStatus>,
    step_down_tx: watch::Sender<Option<StepDown>>,
    requests_rx: mpsc::Receiver<Request>,
}

impl Controller {
    /// Starts the controller as a task of the node.
    pub fn spawn(settings: ControllerSettings, inputs: Inputs, tasks: &Tasks) -> ControllerHandle {
        let (status_tx, status_rx) = watch::channel(DbStatus::starting());
        let (step_down_tx, step_down_rx) = watch::channel(None);
        let (requests_tx, requests_rx) = mpsc::channel(REQUESTS_WAITING_MAX);
        let mut controller = Self {
            db: MariaDb::new(settings.admin.clone()),
            settings,
            inputs,
            health: Health::default(),
            part: Part::Follower,
            part_run: None,
            closed_at: None,
            hand_over_failed: false,
            checked: None,
            outlived_restart: None,
            failed_starts: FailedStarts::default(),
            replica: ReplicaProgress::default(),
            resumes: 0,
            promotions_failed: 0,
            step_down_since: None,
            step_down_at: None,
            status_tx,
            step_down_tx,
            requests_rx,
        };
        let (stop, all) = (tasks.stopping(), tasks.clone());
        tasks.spawn("db-controller", OnEnd::StopNode, async move {
            if let Err(e) = controller.run(stop).await {
                all.fail(format!("database controller: {e}"));
            }
            controller.retire_at_stop().await;
        });
        ControllerHandle { status_rx, step_down_rx, requests_tx }
    }

    async fn run(&mut self, stop: CancellationToken) -> Result<(), StepError> {
        let mut role_rx = self.inputs.role.clone();
        while !stop.is_cancelled() {
            role_rx.mark_unchanged();
            let seen = self.observe().await?;
            let action = decide(&seen);
            self.publish(&seen, &action);
            let pause = match self.act(&seen, action).await {
                Ok(pause) => pause,
                Err(e) if e.is_fatal() => return Err(e),
                Err(e) => {
                    warn!(error = %e, "the database was not brought on; trying again");
                    CHECK_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => (),
                changed = role_rx.changed() => if changed.is_err() { break },
                request = self.requests_rx.recv() => self.serve(request).await?,
                () = tokio::time::sleep(pause) => (),
            }
        }
        Ok(())
    }

    async fn act(&mut self, seen: &Observation, action: Action) -> Result<Duration, StepError> {
        if !matches!(action, Action::Rest(..) | Action::StepDown(_)) {
            info!(?action, "database");
        }
        match action {
            Action::Rest(DbState::Promoting | DbState::Demoting | DbState::Starting, _) => {
                return Ok(BUSY_INTERVAL);
            }
            Action::Rest(..) => return Ok(CHECK_INTERVAL),
            Action::StepDown(reason) => {
                self.insist(seen.role.clone(), reason)?;
                return Ok(BUSY_INTERVAL);
            }
            Action::Launch(role) => self.launch(role).await?,
            Action::Restart(why) => self.restart(&why).await?,
            Action::Migrate(reason) => self.migrate(reason).await?,
            Action::Protect => self.protect().await?,
            Action::Follow(entrance) => self.follow(entrance).await?,
            Action::StartReplica => {
                self.start_replica().await?;
                return Ok(CHECK_INTERVAL);
            }
            Action::Promote { term, after } => {
                let promoted = self.promote(term, after).await;
                self.promotions_failed = match &promoted {
                    Err(_) => self.promotions_failed + 1,
                    Ok(()) => 0,
                };
                if let Err(e) = &promoted
                    && self.promotions_failed >= PROMOTIONS_FAILED_MAX
                {
                    self.promotions_failed = 0;
                    self.ask_step_down(seen.role.clone(), format!("cannot be promoted: {e}"));
                }
                promoted?;
            }
            Action::ResumeCapture(why) => self.resume_capture(&why).await,
            Action::CloseWrites => self.close_writes().await?,
            Action::Reopen => self.reopen().await?,
            Action::Lose => self.lose().await?,
            Action::Retire => self.retire().await,
        }
        Ok(BUSY_INTERVAL)
    }

    async fn serve(&mut self, request: Option<Request>) -> Result<(), StepError> {
        match request {
            Some(Request::OpenWrites) => self.hand_over_failed = self.closed_at.is_some(),
            Some(Request::CloseWrites(answer)) => {
                let _nobody_waits = answer.send(self.asked_to_close().await?);
            }
            Some(Request::TakeBack(answer)) => {
                let _nobody_waits = answer.send(self.take_back().await?);
            }
            // All handles are gone, so nobody will ask: do not spin on the closed channel.
            None => tokio::time::sleep(CHECK_INTERVAL).await,
        }
        Ok(())
    }

    async fn asked_to_close(&mut self) -> Result<Result<(), CloseError>, StoreError> {
        Ok(match &self.part {
            Part::Leader { closed: true, .. } => Ok(()),
            Part::Follower => Err(CloseError::NotLeading),
            Part::Leader { closed: false, .. } => match self.close_writes().await {
                Ok(()) => Ok(()),
                Err(StepError::Store(e)) => return Err(e),
                Err(e) => Err(CloseError::Failed(e.to_string())),
            },
        })
    }

    /// Asks the node to give up the lead, again and again, but not for ever.
    fn insist(&mut self, role: RoleView, reason: String) -> Result<(), StepError> {
        let Some(term) = role.term.clone() else { return Ok(()) };
        let since = match &self.step_down_since {
            Some((asked, since)) if *asked == term => *since,
            _ => Instant::now(),
        };
        self.step_down_since = Some((term, since));
        if since.elapsed() > STEP_DOWN_PATIENCE {
            return Err(StepError::Stuck(reason));
        }
        if self.step_down_at.is_none_or(|at| at.elapsed() > STEP_DOWN_EVERY) {
            self.ask_step_down(role, reason);
        }
        Ok(())
    }

    pub(super) fn ask_step_down(&mut self, role: RoleView, reason: String) {
        let Some(term) = role.term.filter(|_| role.role == crate::replicate::role::Role::Leader)
        else {
            return;
        };
        warn!(reason, %term, "asking the node to give up the lead");
        self.step_down_at = Some(Instant::now());
        self.step_down_tx.send_replace(Some(StepDown { term, reason }));
    }

    fn publish(&self, seen: &Observation, action: &Action) {
        let (state, detail) = self.state_of(seen, action);
        let advice = match &seen.db {
            _ if state == DbState::NeedsMigration => vec![REBUILD.into()],
            DbSeen::Misconfigured(findings) => findings.iter().map(|f| f.advice()).collect(),
            _ => Vec::new(),
        };
        let position = match &seen.db {
            DbSeen::Up(server) => {
                let at = [server.replica_at.gtid(), server.binlog_at.gtid()];
                at.into_iter().flatten().max_by_key(|gtid| gtid.sequence)
            }
            _ => self.status_tx.borrow().position,
        };
        let version = self.checked.as_ref().map(|c| c.version.clone());
        let behind = match &seen.db {
            DbSeen::Up(server) => transactions_behind(&seen.log, server),
            _ => u64::MAX,
        };
        let status = DbStatus { state, detail, advice, version, position, behind };
        self.status_tx.send_if_modified(|now| {
            if now.state != status.state {
                info!(from = ?now.state, to = ?status.state, detail = status.detail, "database");
            } else if *now != status {
                debug!(?status, "database");
            }
            let changed = *now != status;
            *now = status;
            changed
        });
    }

    fn state_of(&self, seen: &Observation, action: &Action) -> (DbState, String) {
        let before = self.status_tx.borrow().state;
        match action {
            Action::Rest(state, detail) => (*state, detail.clone()),
            Action::StepDown(why) => {
                let state = match &seen.db {
                    _ if seen.migration.is_some() => DbState::NeedsMigration,
                    DbSeen::Misconfigured(_) | DbSeen::Unsupported(_) => DbState::Misconfigured,
                    DbSeen::Down(_) => DbState::Unreachable,
                    DbSeen::Up(_) => DbState::Demoting,
                };
                (state, why.clone())
            }
            Action::Launch(_) => {
                let failed = seen.failed_start.as_ref().map(|start| start.why.clone());
                (DbState::Unreachable, failed.unwrap_or("it does not run: starting it".into()))
            }
            Action::Restart(why) => (DbState::Unreachable, format!("restarting it: {why}")),
            Action::Migrate(why) => (DbState::NeedsMigration, why.clone()),
            // Commits wait a little longer; it is still the leader's database.
            Action::ResumeCapture(_) => (DbState::Leading, "connecting capture again".into()),
            // A hiccup of the replica threads takes no eligibility away.
            Action::StartReplica if before == DbState::Following => (before, String::new()),
            _ if matches!(seen.part, Part::Leader { .. }) => (DbState::Demoting, String::new()),
            _ if seen.role.leads() => (DbState::Promoting, String::new()),
            _ => (DbState::Starting, String::new()),
        }
    }
}
