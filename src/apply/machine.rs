//! The contract of an applier.

use bytes::Bytes;

use super::{Command, View};
use crate::{
    log::entry::EntryKind,
    store::{StoreError, codec::CodecError},
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

    /// Makes the command's changes through `state`, which shows those of all commands before it,
    /// also of the same batch. Returns its sealed result for whoever proposed it; empty if nobody
    /// asks for one. Called once for each released command of its kind, in log order; after a
    /// crash again from the last durable applied LSN on.
    ///
    /// What it does must depend on the log alone: not on where one batch ends and the next begins.
    fn apply(&mut self, command: &Command, state: &mut View<'_>) -> Result<Bytes, ApplyError>;
}
