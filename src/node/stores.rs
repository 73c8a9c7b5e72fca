//! Opening what a node keeps on disk, and judging whether it is what it was.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::{error, info, warn};

use super::NodeError;
use crate::{
    apply::{StateCheck, check_state},
    cluster::identity::{Identity, IdentityFile, IdentityStore, Verdict, verdict},
    config::Config,
    log::Log,
    replicate::replica::HardState,
    store::{Engine, SledEngine, SledOptions, StoreError},
    types::{ClusterId, Incarnation, Lsn},
};

/// A node's stores, open.
pub(super) struct Stores {
    pub log_engine: Arc<dyn Engine>,
    pub log: Log,
    pub state: Arc<dyn Engine>,
    pub identity: IdentityFile,
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    pub hard: HardState,
    /// Whether the log is what this life of the store once acknowledged (DESIGN §2.4).
    pub remembers: bool,
    /// What an operator should know about it.
    pub notices: Vec<String>,
}

/// Opens all of it. Blocking.
pub(super) fn open(config: &Config) -> Result<Stores, NodeError> {
    let dir = &config.node.data_dir;
    std::fs::create_dir_all(dir)
        .map_err(|source| NodeError::DataDir { path: dir.clone(), source })?;
    let mut notices = Vec::new();
    let log_engine = open_or_set_aside(&dir.join("log"), &mut notices)?;
    let (log, recovery) = Log::open(log_engine.clone())?;
    info!(last = %log.shape().last(), verified = recovery.verified, "log opened");
    if let Some((lsn, what)) = recovery.damaged {
        let notice = format!("the log was cut before entry {lsn}: {what}");
        error!(notice, "damaged log");
        notices.push(notice);
    }
    let (identity, remembers) = open_identity(config, &log, &mut notices)?;
    let kept = identity.load()?;
    let state = open_state(&dir.join("state"), &log, &mut notices)?;
    Ok(Stores {
        log_engine,
        log,
        state,
        incarnation: kept.incarnation,
        cluster: kept.cluster,
        hard: HardState { promised: kept.promised, accepted: kept.accepted },
        identity,
        remembers,
        notices,
    })
}

fn open_identity(
    config: &Config,
    log: &Log,
    notices: &mut Vec<String>,
) -> Result<(IdentityFile, bool), NodeError> {
    let path = config.node.data_dir.join("identity");
    let incarnation = new_incarnation()?;
    let first = || Identity::new(config.node.id.clone(), incarnation);
    let opened = IdentityFile::open_or_create(&path, first)?;
    let (mut file, created) = (opened.file, opened.created);
    if let Some(torn) = file.torn_slot() {
        warn!(torn, "one slot of the identity file is torn; the other counts");
    }
    let mut identity = file.load()?;
    if identity.node != config.node.id {
        return Err(NodeError::OtherNode { path, kept: identity.node.to_string() });
    }
    let last = log.shape().last_lsn();
    let lost = match verdict(&identity, last, |lsn| log.chain_at(lsn).ok()) {
        Verdict::Remembered if created && last > Lsn::ZERO => {
            Some("its identity file is gone".to_owned())
        }
        Verdict::Remembered => None,
        Verdict::Amnesiac { why } => Some(why.to_string()),
    };
    let Some(lost) = lost else { return Ok((file, true)) };
    let notice = format!(
        "this node lost what it had acknowledged ({lost}); it receives the log again, under a new \
         incarnation, and counts when it has caught up; look into its disk: see \
         docs/operations.md, \"A node that lost its memory\""
    );
    error!(notice, "amnesia");
    notices.push(notice);
    let incarnation = if created { identity.incarnation } else { incarnation };
    identity = Identity { cluster: identity.cluster, ..Identity::new(identity.node, incarnation) };
    file.save(&identity)?;
    Ok((file, false))
}

/// The state store is made from the log: one that is damaged or does not fit is made again.
fn open_state(
    path: &Path,
    log: &Log,
    notices: &mut Vec<String>,
) -> Result<Arc<dyn Engine>, NodeError> {
    let state = open_or_set_aside(path, notices)?;
    if check_state(&log.reader(), &*state)? == StateCheck::Fits {
        return Ok(state);
    }
    warn!("the state store does not continue the log; it is set aside and made again");
    drop(state);
    set_aside(path)?;
    Ok(Arc::new(SledEngine::open(path, SledOptions::default())?))
}

fn open_or_set_aside(path: &Path, notices: &mut Vec<String>) -> Result<Arc<dyn Engine>, NodeError> {
    match SledEngine::open(path, SledOptions::default()) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(StoreError::Damaged { what, .. }) => {
            let aside = set_aside(path)?;
            let notice =
                format!("{} was damaged ({what}): see {}", path.display(), aside.display());
            error!(notice, "damaged store set aside");
            notices.push(notice);
            Ok(Arc::new(SledEngine::open(path, SledOptions::default())?))
        }
        Err(other) => Err(other.into()),
    }
}

fn set_aside(path: &Path) -> Result<PathBuf, NodeError> {
    let free = (1..).map(|n| path.with_extension(format!("set-aside-{n}")));
    let aside = free.into_iter().find(|path| !path.exists()).expect("numbers do not end");
    std::fs::rename(path, &aside)
        .map_err(|source| NodeError::DataDir { path: path.to_owned(), source })?;
    Ok(aside)
}

fn new_incarnation() -> Result<Incarnation, NodeError> {
    Ok(Incarnation(getrandom::u64()?))
}
