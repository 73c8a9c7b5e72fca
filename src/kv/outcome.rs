//! What a KV command did: sealed by the applier, kept with the session of its request, and opened
//! by whoever proposed it.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    store::codec::{self, CodecError, Compress, Stored},
    types::Lsn,
};

/// The result of a command that was executed. Where it could do nothing, it says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvOutcome {
    /// The key is set; its revision is the LSN of the command.
    Put {
        /// Its revision before; zero if it was absent.
        previous: Lsn,
    },
    /// The key is absent.
    Deleted {
        /// Its revision before; zero if it was absent already.
        previous: Lsn,
    },
    /// A compare-and-set found another revision than it expected, and changed nothing.
    Conflict {
        /// The revision of the key; zero if it is absent.
        present: Lsn,
    },
    /// The lease is there, and its time has begun anew.
    LeaseAlive {
        /// When it expires, in log time: milliseconds since 1970.
        expires_ms: u64,
    },
    /// The lease is not there any more.
    LeaseEnded {
        /// How many keys were removed with it.
        keys: u32,
    },
    /// Log time has moved on.
    Ticked,
    /// Nothing changed.
    Refused(KvRefusal),
}

/// Why a command changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvRefusal {
    /// There is no such lease (any more).
    LeaseUnknown,
    /// A lease with that ID is there already, with another time to live.
    LeaseExists,
    /// The lease has as many keys as it may.
    LeaseFull,
    /// There are as many leases as there may be.
    TooManyLeases,
    /// The key is empty or too long.
    KeyInvalid,
    /// The value is too long.
    ValueTooLarge,
}

impl KvOutcome {
    /// The sealed form.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&KvOutcomeV1::from(*self), Compress::Never)
    }

    /// The outcome that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<KvOutcomeV1>(bytes).map(Self::from)
    }
}

/// The stored form of [`KvOutcome`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum KvOutcomeV1 {
    /// Revision before.
    Put(u64),
    /// Revision before.
    Deleted(u64),
    /// Present revision.
    Conflict(u64),
    /// Deadline.
    LeaseAlive(u64),
    /// Keys removed.
    LeaseEnded(u32),
    /// Nothing.
    Ticked,
    /// Refused: the lease is unknown.
    LeaseUnknown,
    /// Refused: the lease exists.
    LeaseExists,
    /// Refused: the lease is full.
    LeaseFull,
    /// Refused: too many leases.
    TooManyLeases,
    /// Refused: the key is invalid.
    KeyInvalid,
    /// Refused: the value is too large.
    ValueTooLarge,
}

impl Stored for KvOutcomeV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "KV outcome";
}

impl From<KvOutcome> for KvOutcomeV1 {
    fn from(outcome: KvOutcome) -> Self {
        match outcome {
            KvOutcome::Put { previous } => Self::Put(previous.0),
            KvOutcome::Deleted { previous } => Self::Deleted(previous.0),
            KvOutcome::Conflict { present } => Self::Conflict(present.0),
            KvOutcome::LeaseAlive { expires_ms } => Self::LeaseAlive(expires_ms),
            KvOutcome::LeaseEnded { keys } => Self::LeaseEnded(keys),
            KvOutcome::Ticked => Self::Ticked,
            KvOutcome::Refused(KvRefusal::LeaseUnknown) => Self::LeaseUnknown,
            KvOutcome::Refused(KvRefusal::LeaseExists) => Self::LeaseExists,
            KvOutcome::Refused(KvRefusal::LeaseFull) => Self::LeaseFull,
            KvOutcome::Refused(KvRefusal::TooManyLeases) => Self::TooManyLeases,
            KvOutcome::Refused(KvRefusal::KeyInvalid) => Self::KeyInvalid,
            KvOutcome::Refused(KvRefusal::ValueTooLarge) => Self::ValueTooLarge,
        }
    }
}

impl From<KvOutcomeV1> for KvOutcome {
    fn from(stored: KvOutcomeV1) -> Self {
        match stored {
            KvOutcomeV1::Put(previous) => Self::Put { previous: Lsn(previous) },
            KvOutcomeV1::Deleted(previous) => Self::Deleted { previous: Lsn(previous) },
            KvOutcomeV1::Conflict(present) => Self::Conflict { present: Lsn(present) },
            KvOutcomeV1::LeaseAlive(expires_ms) => Self::LeaseAlive { expires_ms },
            KvOutcomeV1::LeaseEnded(keys) => Self::LeaseEnded { keys },
            KvOutcomeV1::Ticked => Self::Ticked,
            KvOutcomeV1::LeaseUnknown => Self::Refused(KvRefusal::LeaseUnknown),
            KvOutcomeV1::LeaseExists => Self::Refused(KvRefusal::LeaseExists),
            KvOutcomeV1::LeaseFull => Self::Refused(KvRefusal::LeaseFull),
            KvOutcomeV1::TooManyLeases => Self::Refused(KvRefusal::TooManyLeases),
            KvOutcomeV1::KeyInvalid => Self::Refused(KvRefusal::KeyInvalid),
            KvOutcomeV1::ValueTooLarge => Self::Refused(KvRefusal::ValueTooLarge),
        }
    }
}
