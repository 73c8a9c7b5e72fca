//! The contract of an applier.

use super::Command;
use crate::{
    log::entry::EntryKind,
    store::{Batch, StoreError, codec::CodecError},
};

/// Why a command of the log could not be applied. Both are fatal: every node would apply it alike,
/// so skipping it would hide a defect or damage.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command does not decode: written by a newer program, or damaged.
    #[error("apply lsn {lsn}: {source}")]
    Command {
        /// Where it is in the log.
        lsn: crate::types::Lsn,
        /// What is wrong with it.
        source: CodecError,
    },
}

/// A deterministic applier of one kind of command.
pub trait StateMachine: Send {
    /// The kind that it applies.
    fn kind(&self) -> EntryKind;

    /// Adds the command's changes to `batch`. Called once for each released command of its kind,
    /// in log order; after a crash again from the last durable applied LSN on.
    fn apply(&mut self, command: &Command, batch: &mut Batch) -> Result<(), ApplyError>;
}
