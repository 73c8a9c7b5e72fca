//! The durable identity of a node (DESIGN §2.4): a small file beside the log store.
//!
//! Two slots of 4 KiB, written in turn and in place, each fdatasync'ed before `save` returns:
//!
//! ```text
//! magic "WOLFIDEN" │ length u32 BE │ value (store::codec: version, flags, CRC, rkyv) │ zeroes
//! ```
//!
//! - The value carries a sequence number; the valid slot with the higher one counts. A torn slot is
//!   one whose write never returned, so falling back to the other forgets nothing acknowledged.
//! - A slot damaged *later* looks the same. So terms are kept in the log store too, and the later
//!   of the two records counts; [`IdentityFile::torn_slot`] tells that it is worth a warning.
//! - The first write makes both slots, in a file that gets its name when it is on disk. So a file
//!   without a valid slot is damaged, never new.
//! - Whoever truncates the log below the watermark, or trims it past it, saves the new one first.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    store::codec::{self, CodecError, Compress, Stored},
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, Term},
};

/// One slot; also the block that a disk writes at once.
pub const SLOT_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"WOLFIDEN";
const HEADER_BYTES: usize = MAGIC.len() + 4;

/// What a node must not forget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Which life of its store this is; random.
    pub incarnation: Incarnation,
    /// The node.
    pub node: NodeId,
    /// The cluster that it belongs to, once it does.
    pub cluster: Option<ClusterId>,
    /// The term of the leader whose entries it last took, or its own.
    pub accepted: Option<Term>,
    /// The highest term promised, its leader being whom it was promised to.
    pub promised: Option<Term>,
    /// The entry up to which its log was durable.
    pub durable: DurableMark,
}

/// A place in the log and the hash of the history up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DurableMark {
    /// LSN of the entry; zero for none.
    pub lsn: Lsn,
    /// Its chain hash.
    pub chain: ChainHash,
}

impl Identity {
    /// A node's first life, or its next one after it lost its store.
    pub fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            node,
            cluster: None,
            accepted: None,
            promised: None,
            durable: DurableMark::default(),
        }
    }
}

/// Whether a node's log is what it once acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is: the node may vote.
    Remembered,
    /// It is not: the node comes back as a learner, under a new incarnation.
    Amnesiac {
        /// What is missing.
        why: Amnesia,
    },
}

/// What a node without its memory lacks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Amnesia {
    /// The log ends before its watermark.
    #[error("the log ends at lsn {last}, yet it was durable up to lsn {durable}")]
    Shorter {
        /// Where the log ends.
        last: Lsn,
        /// Its watermark.
        durable: Lsn,
    },
    /// The log holds another history at its watermark.
    #[error("at lsn {lsn} the log holds the history {found}, yet {kept} was durable there")]
    OtherHistory {
        /// The watermark.
        lsn: Lsn,
        /// The chain hash that the identity keeps.
        kept: ChainHash,
        /// The chain hash in the log.
        found: ChainHash,
    },
    /// The log cannot say what its history was there.
    #[error("the log does not hold its history at lsn {lsn}, up to which it was durable")]
    Unknown {
        /// The watermark.
        lsn: Lsn,
    },
}

/// Judges a log that ends at `last`, by its chain hash at an LSN (`None`: trimmed, or not there).
/// A file that was just created says nothing about a log that is not empty: see
/// [`OpenedIdentity::created`].
pub fn verdict(
    identity: &Identity,
    last: Lsn,
    chain_at: impl FnOnce(Lsn) -> Option<ChainHash>,
) -> Verdict {
    let DurableMark { lsn, chain: kept } = identity.durable;
    if lsn == Lsn::ZERO {
        return Verdict::Remembered;
    }
    if last < lsn {
        return Verdict::Amnesiac { why: Amnesia::Shorter { last, durable: lsn } };
    }
    match chain_at(lsn) {
        Some(found) if found == kept => Verdict::Remembered,
        Some(found) => Verdict::Amnesiac { why: Amnesia::OtherHistory { lsn, kept, found } },
        None => Verdict::Amnesiac { why: Amnesia::Unknown { lsn } },
    }
}

/// Why an identity cannot be read or kept. All are fatal: the node must not go on without it.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system refused to read or write it. After a failed `save` it may or may not be kept.
    #[error("identity {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither slot is valid. Only a new life, as a learner, is safe.
    #[error(
        "identity {path}: both slots are damaged: first: {first}; second: {second}. The node may \
         have made promises that it no longer knows: set the file and the log store aside, and the \
         node comes back as a learner"
    )]
    BothTorn {
        /// The file.
        path: PathBuf,
        /// What is wrong with the first slot.
        first: String,
        /// What is wrong with the second slot.
        second: String,
    },
    /// Written by a newer program: its promises are not readable, so they could be broken.
    #[error("identity {path}: {source}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: CodecError,
    },
    /// An earlier `save` failed: what is on disk is not known any more.
    #[error("identity {path}: an earlier write failed")]
    Failed {
        /// The file.
        path: PathBuf,
    },
}

/// Where an identity is kept.
pub trait IdentityStore: Send {
    /// The identity that was last saved.
    fn load(&self) -> Result<Identity, IdentityError>;

    /// Keeps it durably before it returns.
    fn save(&mut self, identity: &Identity) -> Result<(), IdentityError>;
}

/// An identity kept in a file.
#[derive(Debug)]
pub struct IdentityFile {
    path: PathBuf,
    file: File,
    newest: Slot,
    newest_index: usize,
    torn: Option<String>,
    failed: bool,
}

/// An identity file, and whether it is new.
#[derive(Debug)]
pub struct OpenedIdentity {
    /// The file.
    pub file: IdentityFile,
    /// It was not there. If the log is not empty, the node lost its memory.
    pub created: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Slot {
    sequence: u64,
    identity: Identity,
}

impl IdentityFile {
    /// Opens the file, or creates it with what `first` returns.
    pub fn open_or_create(
        path: impl Into<PathBuf>,
        first: impl FnOnce() -> Identity,
    ) -> Result<OpenedIdentity, IdentityError> {
        let path = path.into();
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let created = !path.try_exists().map_err(failed)?;
        if created {
            create(&path, first()).map_err(failed)?;
        }
        Ok(OpenedIdentity { file: Self::open(path)?, created })
    }

    /// Opens an existing file.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let path = path.into();
        let failed = |source| IdentityError::Io { path: path.clone(), source };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let slots = [0, 1].map(|index| read_slot(&file, index));
        let [first, second] = slots;
        let (first, second) = (first.map_err(failed)?, second.map_err(failed)?);
        let (newest, newest_index, torn) = match (first, second) {
            (Err(SlotError::Newer(source)), _) | (_, Err(SlotError::Newer(source))) => {
                return Err(IdentityError::Newer { path, source });
            }
            (Ok(first), Ok(second)) if second.sequence > first.sequence => (second, 1, None),
            (Ok(first), Ok(_)) => (first, 0, None),
            (Ok(first), Err(torn)) => (first, 0, Some(torn.to_string())),
            (Err(torn), Ok(second)) => (second, 1, Some(torn.to_string())),
            (Err(first), Err(second)) => {
                let (first, second) = (first.to_string(), second.to_string());
                return Err(IdentityError::BothTorn { path, first, second });
            }
        };
        Ok(Self { path, file, newest, newest_index, torn, failed: false })
    }

    /// What is wrong with the slot that did not count, if it is not valid: a write that a crash
    /// cut short, or damage.
    pub fn torn_slot(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl IdentityStore for IdentityFile {
    fn load(&self) -> Result<Identity, IdentityError> {
        Ok(self.newest.identity.clone())
    }

    fn save(&mut self, identity: &Identity) -> Result<(), IdentityError> {
        if self.failed {
            return Err(IdentityError::Failed { path: self.path.clone() });
        }
        let slot = Slot { sequence: self.newest.sequence + 1, identity: identity.clone() };
        let index = 1 - self.newest_index;
        let written = write_slot(&self.file, index, &slot)
            .and_then(|()| Ok(rustix::fs::fdatasync(&self.file)?));
        if let Err(source) = written {
            self.failed = true;
            return Err(IdentityError::Io { path: self.path.clone(), source });
        }
        (self.newest, self.newest_index, self.torn) = (slot, index, None);
        Ok(())
    }
}

/// What goes wrong with the next save of a [`MemoryIdentity`]. Either way the caller hears of it,
/// and saving fails until the restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaveFault {
    /// It did not reach the disk: a power cut loses it.
    Lost,
    /// It happened, yet was reported as failed.
    Done,
}

/// An identity in memory, for simulation. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryIdentity(Arc<Mutex<Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    written: Identity,
    synced: Identity,
    fault: Option<SaveFault>,
    failed: bool,
}

impl MemoryIdentity {
    /// One that keeps `identity`.
    pub fn new(identity: Identity) -> Self {
        let kept = Kept { written: identity.clone(), synced: identity, fault: None, failed: false };
        Self(Arc::new(Mutex::new(kept)))
    }

    /// Makes the next save fail.
    pub fn fail_next_save(&self, fault: SaveFault) {
        self.kept().fault = Some(fault);
    }

    /// The machine loses power and starts again.
    pub fn power_cut(&self) {
        let mut kept = self.kept();
        kept.written = kept.synced.clone();
        kept.restart();
    }

    /// The process is killed and starts again: what was written is still there, synced or not.
    pub fn kill(&self) {
        self.kept().restart();
    }

    /// An independent copy of what is here now.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.kept().clone())))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn restart(&mut self) {
        self.fault = None;
        self.failed = false;
    }
}

impl IdentityStore for MemoryIdentity {
    fn load(&self) -> Result<Identity, IdentityError> {
        Ok(self.kept().written.clone())
    }

    fn save(&mut self, identity: &Identity) -> Result<(), IdentityError> {
        let mut kept = self.kept();
        if !kept.failed {
            kept.written = identity.clone();
            if kept.fault != Some(SaveFault::Lost) {
                kept.synced = identity.clone();
            }
            kept.failed = kept.fault.take().is_some();
            if !kept.failed {
                return Ok(());
            }
        }
        Err(IdentityError::Failed { path: PathBuf::from("memory") })
    }
}

/// Why a slot does not count.
#[derive(Debug, thiserror::Error)]
enum SlotError {
    #[error("the file ends within it")]
    Short,
    #[error("it does not begin with the magic of an identity")]
    Magic,
    #[error("its length is not possible")]
    Length,
    #[error("what follows the value is not zero")]
    Padding,
    #[error(transparent)]
    Value(CodecError),
    #[error(transparent)]
    Newer(CodecError),
}

fn create(path: &Path, identity: Identity) -> io::Result<()> {
    let unnamed = path.with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(&unnamed)?;
    for index in [0, 1] {
        write_slot(&file, index, &Slot { sequence: index as u64 + 1, identity: identity.clone() })?;
    }
    file.sync_all()?;
    fs::rename(&unnamed, path)?;
    let directory = path.canonicalize()?;
    directory.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn write_slot(file: &File, index: usize, slot: &Slot) -> io::Result<()> {
    file.write_all_at(&encode_slot(slot), (index * SLOT_BYTES) as u64)
}

fn read_slot(file: &File, index: usize) -> io::Result<Result<Slot, SlotError>> {
    let mut bytes = [0; SLOT_BYTES];
    match file.read_exact_at(&mut bytes, (index * SLOT_BYTES) as u64) {
        Ok(()) => Ok(decode_slot(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Err(SlotError::Short)),
        Err(e) => Err(e),
    }
}

fn encode_slot(slot: &Slot) -> [u8; SLOT_BYTES] {
    let value = codec::encode(&IdentityV1::from(slot), Compress::Never);
    let mut bytes = [0; SLOT_BYTES];
    let length = u32::try_from(value.len()).expect("three node IDs and fixed fields");
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    bytes[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(&value);
    bytes
}

fn decode_slot(bytes: &[u8; SLOT_BYTES]) -> Result<Slot, SlotError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(SlotError::Magic)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(SlotError::Length)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (value, padding) = rest.split_at_checked(length).ok_or(SlotError::Length)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(SlotError::Padding);
    }
    let stored: IdentityV1 = codec::decode(value).map_err(|e| match e {
        CodecError::Version { .. } => SlotError::Newer(e),
        other => SlotError::Value(other),
    })?;
    stored.try_into().map_err(SlotError::Value)
}

/// The stored form of an [`Identity`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct IdentityV1 {
    /// Grows with every write; the higher of two slots counts.
    pub sequence: u64,
    /// Which life of the store.
    pub incarnation: u64,
    /// Node ID.
    pub node: String,
    /// Cluster ID.
    pub cluster: Option<[u8; 16]>,
    /// Accepted term: number and leader.
    pub accepted: Option<(u64, String)>,
    /// Promised term: number and to whom.
    pub promised: Option<(u64, String)>,
    /// LSN of the durable watermark.
    pub durable_lsn: u64,
    /// Chain hash there.
    pub durable_chain: [u8; 32],
}

impl Stored for IdentityV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "identity";
}

impl From<&Slot> for IdentityV1 {
    fn from(slot: &Slot) -> Self {
        let term = |term: &Option<Term>| {
            term.as_ref().map(|term| (term.number, term.leader.as_str().to_owned()))
        };
        let identity = &slot.identity;
        Self {
            sequence: slot.sequence,
            incarnation: identity.incarnation.0,
            node: identity.node.as_str().to_owned(),
            cluster: identity.cluster.map(|cluster| cluster.0),
            accepted: term(&identity.accepted),
            promised: term(&identity.promised),
            durable_lsn: identity.durable.lsn.0,
            durable_chain: identity.durable.chain.0,
        }
    }
}

impl TryFrom<IdentityV1> for Slot {
    type Error = CodecError;

    fn try_from(stored: IdentityV1) -> Result<Self, CodecError> {
        let node = |text: String| {
            let invalid = |what| CodecError::Body { name: IdentityV1::NAME, what };
            text.parse::<NodeId>().map_err(|e| invalid(e.to_string()))
        };
        let term = |(number, leader)| Ok(Term { number, leader: node(leader)? });
        let identity = Identity {
            incarnation: Incarnation(stored.incarnation),
            node: node(stored.node)?,
            cluster: stored.cluster.map(ClusterId),
            accepted: stored.accepted.map(term).transpose()?,
            promised: stored.promised.map(term).transpose()?,
            durable: DurableMark {
                lsn: Lsn(stored.durable_lsn),
                chain: ChainHash(stored.durable_chain),
            },
        };
        Ok(Slot { sequence: stored.sequence, identity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(promised: u64) -> Identity {
        let node: NodeId = "n1".parse().expect("valid");
        let term = |number| Some(Term { number, leader: node.clone() });
        Identity {
            cluster: Some(ClusterId([7; 16])),
            accepted: term(promised - 1),
            promised: term(promised),
            durable: DurableMark { lsn: Lsn(9), chain: ChainHash([3; 32]) },
            ..Identity::new(node.clone(), Incarnation(0xfeed))
        }
    }

    fn opened(path: &Path) -> IdentityFile {
        IdentityFile::open(path).expect("opens")
    }

    #[test]
    fn the_last_save_is_loaded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("identity");
        let opened_new = IdentityFile::open_or_create(&path, || identity(2)).expect("creates");
        assert!(opened_new.created);
        let mut file = opened_new.file;
        assert_eq!(file.load().expect("loads"), identity(2));
        for promised in 3..8 {
            file.save(&identity(promised)).expect("saves");
            assert_eq!(opened(&path).load().expect("loads"), identity(promised));
        }
        let again = IdentityFile::open_or_create(&path, || identity(99)).expect("opens");
        assert!(!again.created);
        assert_eq!(again.file.load().expect("loads"), identity(7));
        assert_eq!(fs::metadata(&path).expect("is there").len(), 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn every_damaged_byte_of_a_slot_falls_back_to_the_other() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("identity");
        let mut file = IdentityFile::open_or_create(&path, || identity(2)).expect("creates").file;
        // The first slot is the newer one after this.
        file.save(&identity(3)).expect("saves");
        let good = fs::read(&path).expect("reads");
        for at in 0..2 * SLOT_BYTES {
            let damaged = opened_with_byte_changed(&path, &good, at);
            let expected = if at < SLOT_BYTES { identity(2) } else { identity(3) };
            assert_eq!(damaged.load().expect("loads"), expected, "byte {at}");
            assert!(damaged.torn_slot().is_some(), "byte {at}");
        }
    }

    fn opened_with_byte_changed(path: &Path, good: &[u8], at: usize) -> IdentityFile {
        let mut bad = good.to_vec();
        bad[at] ^= 0x40;
        fs::write(path, bad).expect("writes");
        opened(path)
    }

    #[test]
    fn a_torn_slot_is_written_over_and_two_are_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("identity");
        let mut file = IdentityFile::open_or_create(&path, || identity(2)).expect("creates").file;
        file.save(&identity(3)).expect("saves");
        let good = fs::read(&path).expect("reads");
        let mut damaged = opened_with_byte_changed(&path, &good, 100);
        damaged.save(&identity(5)).expect("saves");
        assert_eq!(opened(&path).load().expect("loads"), identity(5));
        assert_eq!(opened(&path).torn_slot(), None);

        for bad in [vec![0; 2 * SLOT_BYTES], vec![], good[..100].to_vec()] {
            fs::write(&path, bad).expect("writes");
            let error = IdentityFile::open_or_create(&path, || identity(2)).expect_err("damaged");
            assert!(matches!(error, IdentityError::BothTorn { .. }), "{error}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_although_the_other_slot_is_readable() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("identity");
        IdentityFile::open_or_create(&path, || identity(2)).expect("creates");
        let mut bytes = fs::read(&path).expect("reads");
        let value = SLOT_BYTES + HEADER_BYTES;
        let length =
            u32::from_be_bytes(bytes[value - 4..value].try_into().expect("four bytes")) as usize;
        bytes[value] = 2;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[value..value + 2]);
        crc.update(&bytes[value + 6..value + length]);
        bytes[value + 2..value + 6].copy_from_slice(&crc.finalize().to_be_bytes());
        fs::write(&path, bytes).expect("writes");
        let error = IdentityFile::open(&path).expect_err("newer");
        assert!(matches!(error, IdentityError::Newer { .. }), "{error}");
    }

    #[test]
    fn the_longest_identity_fits_a_slot() {
        let node: NodeId = "n".repeat(crate::types::NODE_ID_BYTES_MAX).parse().expect("valid");
        let term = Some(Term { number: u64::MAX, leader: node.clone() });
        let longest = Identity {
            cluster: Some(ClusterId([255; 16])),
            accepted: term.clone(),
            promised: term,
            ..Identity::new(node, Incarnation(u64::MAX))
        };
        let slot = Slot { sequence: u64::MAX, identity: longest };
        assert_eq!(decode_slot(&encode_slot(&slot)).expect("decodes"), slot);
    }

    #[test]
    fn only_the_history_that_was_durable_is_a_memory() {
        let mine = identity(2);
        let judge = |last, chain: Option<u8>| {
            verdict(&mine, Lsn(last), |lsn| {
                assert_eq!(lsn, Lsn(9));
                chain.map(|byte| ChainHash([byte; 32]))
            })
        };
        assert_eq!(judge(9, Some(3)), Verdict::Remembered);
        assert_eq!(judge(12, Some(3)), Verdict::Remembered);
        let why = |verdict| match verdict {
            Verdict::Amnesiac { why } => why,
            Verdict::Remembered => panic!("remembered"),
        };
        assert!(matches!(why(judge(8, Some(3))), Amnesia::Shorter { .. }));
        assert!(matches!(why(judge(0, None)), Amnesia::Shorter { .. }));
        assert!(matches!(why(judge(12, Some(4))), Amnesia::OtherHistory { .. }));
        assert!(matches!(why(judge(12, None)), Amnesia::Unknown { .. }));
        let new = Identity::new("n1".parse().expect("valid"), Incarnation(1));
        assert_eq!(verdict(&new, Lsn(0), |_| None), Verdict::Remembered);
    }

    #[test]
    fn in_memory_a_power_cut_keeps_what_was_saved() {
        let mut kept = MemoryIdentity::new(identity(2));
        kept.save(&identity(3)).expect("saves");
        kept.power_cut();
        assert_eq!(kept.load().expect("loads"), identity(3));

        kept.fail_next_save(SaveFault::Lost);
        kept.save(&identity(4)).expect_err("fails");
        kept.save(&identity(5)).expect_err("fails from then on");
        let image = kept.fork();
        kept.power_cut();
        assert_eq!(kept.load().expect("loads"), identity(3));
        image.kill();
        assert_eq!(image.load().expect("loads"), identity(4), "the page cache outlives a kill");

        kept.fail_next_save(SaveFault::Done);
        kept.save(&identity(6)).expect_err("fails");
        kept.power_cut();
        assert_eq!(kept.load().expect("loads"), identity(6));
        kept.save(&identity(7)).expect("saves again");
    }
}
