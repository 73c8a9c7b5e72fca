//! What a disk entry of the log holds: one metadata operation.
//!
//! The proposer chooses everything that an applier must not: times and inode numbers. Names are
//! bytes, as the kernel gives them. An operation that turns out to be impossible (the name exists,
//! the directory is not empty) changes nothing, and its result says why; it is no error of apply.
//! Chunks named by a command are durable on the data nodes before it is proposed.

use bytes::Bytes;
use rkyv::{Archive, Deserialize, Serialize};

use crate::store::codec::{self, CodecError, Compress, Stored};

/// The largest content kept within an inode; more goes into chunks.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;

/// A command of kind [`crate::log::entry::EntryKind::Disk`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskCommand {
    /// The session of the mount that asked: it owns locks and open files.
    pub session: [u8; 16],
    /// The proposer's time, in nanoseconds since 1970: the times that the operation sets.
    pub now_ns: i64,
    /// Who asked.
    pub caller: Caller,
    /// What to do.
    pub operation: DiskOperation,
}

/// The process that asked, as the kernel says. Stored as it is: frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Caller {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Process ID on the node that asked.
    pub pid: u32,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Inode of the directory.
    pub parent: u64,
    /// The name.
    pub name: Bytes,
}

/// A new inode. Stored as it is: frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct NewInode {
    /// Its number, chosen by the proposer.
    pub inode: u64,
    /// File type and permissions, as in `st_mode`, with the umask applied.
    pub mode: u32,
    /// Device number, for device files.
    pub rdev: u32,
}

/// Changes of attributes: those given are set. Stored as it is: frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Attributes {
    /// Permissions.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time, in nanoseconds since 1970.
    pub atime_ns: Option<i64>,
    /// Modification time, in nanoseconds since 1970.
    pub mtime_ns: Option<i64>,
    /// Remove the set-user-ID and set-group-ID bits.
    pub kill_privileges: bool,
}

/// Where written bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// In the command itself; at most [`INLINE_BYTES_MAX`].
    Inline(Bytes),
    /// In a chunk, named by its SHA-256, from its first byte on.
    Chunk([u8; 32], u32),
    /// Nowhere: a hole of this many bytes.
    Hole(u64),
}

/// Bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Where they begin in the file; `None`: at its end, which apply decides (`O_APPEND`).
    pub offset: Option<u64>,
    /// Where they are.
    pub content: Content,
}

/// How `setxattr` treats a name that exists, or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum XattrMode {
    /// Set it either way.
    Any = 0,
    /// It must not exist.
    Create = 1,
    /// It must exist.
    Replace = 2,
}

impl XattrMode {
    fn from_u8(mode: u8) -> Option<Self> {
        [Self::Any, Self::Create, Self::Replace].into_iter().find(|known| *known as u8 == mode)
    }
}

/// A range of a file that is, or is to be, locked. Stored as it is: frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct LockRange {
    /// The file.
    pub inode: u64,
    /// Who holds it within the session, as the kernel says.
    pub owner: u64,
    /// A lock of the whole file by `flock`, apart from those by `fcntl`.
    pub flock: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOperation {
    /// A new file (or device, pipe, socket).
    Create {
        /// Its name.
        at: Place,
        /// Its inode.
        new: NewInode,
        /// It must not exist (`O_EXCL`).
        exclusive: bool,
    },
    /// A new directory.
    MakeDirectory {
        /// Its name.
        at: Place,
        /// Its inode.
        new: NewInode,
    },
    /// A new symbolic link.
    Symlink {
        /// Its name.
        at: Place,
        /// Its inode.
        new: NewInode,
        /// Where it points.
        target: Bytes,
    },
    /// Another name for a file.
    Link {
        /// The file.
        inode: u64,
        /// Its new name.
        at: Place,
    },
    /// Removes a name of a file.
    Unlink {
        /// The name.
        at: Place,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// The name.
        at: Place,
    },
    /// Moves a name.
    Rename {
        /// The old name.
        from: Place,
        /// The new one.
        to: Place,
        /// The new name must not exist (`RENAME_NOREPLACE`).
        keep: bool,
        /// Both exist and change places (`RENAME_EXCHANGE`).
        exchange: bool,
    },
    /// Changes attributes.
    SetAttributes {
        /// The inode.
        inode: u64,
        /// The changes.
        changes: Attributes,
    },
    /// Writes; all extents together, in order.
    WriteExtents {
        /// The file.
        inode: u64,
        /// What is written.
        extents: Vec<Extent>,
    },
    /// Sets a file's length.
    Truncate {
        /// The file.
        inode: u64,
        /// Its new length.
        length: u64,
    },
    /// Sets an extended attribute.
    SetXattr {
        /// The inode.
        inode: u64,
        /// The attribute's name.
        name: Bytes,
        /// Its value.
        value: Bytes,
        /// Whether it may, must or must not exist.
        mode: XattrMode,
    },
    /// Removes an extended attribute.
    RemoveXattr {
        /// The inode.
        inode: u64,
        /// The attribute's name.
        name: Bytes,
    },
    /// Takes a lock, or changes one that the owner holds.
    Lock {
        /// What to lock.
        range: LockRange,
        /// For writing.
        exclusive: bool,
        /// Queue behind those that hold it now.
        wait: bool,
    },
    /// Gives a lock back, or leaves the queue.
    Unlock {
        /// What to unlock.
        range: LockRange,
    },
    /// A mount begins: its session may own locks and open files.
    SessionOpen {
        /// How long it lasts without a sign of life, in milliseconds.
        ttl_ms: u64,
    },
    /// A mount ends: its locks are released, files without a name that it had open are removed.
    SessionClose,
}

impl DiskCommand {
    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&DiskCommandV1::from(self), Compress::WherePays)
    }

    /// The command that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<DiskCommandV1>(bytes)?.try_into()
    }
}

/// The stored form of [`DiskCommand`], frozen, with [`Caller`] in it.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct DiskCommandV1 {
    /// Session.
    pub session: [u8; 16],
    /// The proposer's time.
    pub now_ns: i64,
    /// Who asked.
    pub caller: Caller,
    /// What to do.
    pub operation: DiskOperationV1,
}

/// The stored form of a [`Place`], frozen: parent, name.
pub type PlaceV1 = (u64, Vec<u8>);

/// The stored form of an [`Extent`], frozen: offset, content.
pub type ExtentV1 = (Option<u64>, ContentV1);

/// The stored form of [`Content`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum ContentV1 {
    /// The bytes.
    Inline(Vec<u8>),
    /// SHA-256 and length.
    Chunk([u8; 32], u32),
    /// Length.
    Hole(u64),
}

/// The stored form of [`DiskOperation`], frozen, with [`NewInode`], [`Attributes`] and
/// [`LockRange`] in it. Fields are in the order of those of the operation.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub enum DiskOperationV1 {
    /// At, new, exclusive.
    Create(PlaceV1, NewInode, bool),
    /// At, new.
    MakeDirectory(PlaceV1, NewInode),
    /// At, new, target.
    Symlink(PlaceV1, NewInode, Vec<u8>),
    /// Inode, at.
    Link(u64, PlaceV1),
    /// At.
    Unlink(PlaceV1),
    /// At.
    RemoveDirectory(PlaceV1),
    /// From, to, keep, exchange.
    Rename(PlaceV1, PlaceV1, bool, bool),
    /// Inode, changes.
    SetAttributes(u64, Attributes),
    /// Inode, extents.
    WriteExtents(u64, Vec<ExtentV1>),
    /// Inode, length.
    Truncate(u64, u64),
    /// Inode, name, value, [`XattrMode`] discriminant.
    SetXattr(u64, Vec<u8>, Vec<u8>, u8),
    /// Inode, name.
    RemoveXattr(u64, Vec<u8>),
    /// Range, exclusive, wait.
    Lock(LockRange, bool, bool),
    /// Range.
    Unlock(LockRange),
    /// Time to live.
    SessionOpen(u64),
    /// Nothing.
    SessionClose,
}

impl Stored for DiskCommandV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "disk command";
}

impl From<&DiskCommand> for DiskCommandV1 {
    fn from(command: &DiskCommand) -> Self {
        Self {
            session: command.session,
            now_ns: command.now_ns,
            caller: command.caller,
            operation: store_operation(&command.operation),
        }
    }
}

impl TryFrom<DiskCommandV1> for DiskCommand {
    type Error = CodecError;

    fn try_from(stored: DiskCommandV1) -> Result<Self, CodecError> {
        Ok(Self {
            session: stored.session,
            now_ns: stored.now_ns,
            caller: stored.caller,
            operation: load_operation(stored.operation)?,
        })
    }
}

fn store_operation(operation: &DiskOperation) -> DiskOperationV1 {
    use DiskOperation as Op;
    use DiskOperationV1 as V1;
    match operation {
        Op::Create { at, new, exclusive } => V1::Create(store_place(at), *new, *exclusive),
        Op::MakeDirectory { at, new } => V1::MakeDirectory(store_place(at), *new),
        Op::Symlink { at, new, target } => V1::Symlink(store_place(at), *new, target.to_vec()),
        Op::Link { inode, at } => V1::Link(*inode, store_place(at)),
        Op::Unlink { at } => V1::Unlink(store_place(at)),
        Op::RemoveDirectory { at } => V1::RemoveDirectory(store_place(at)),
        Op::Rename { from, to, keep, exchange } => {
            V1::Rename(store_place(from), store_place(to), *keep, *exchange)
        }
        Op::SetAttributes { inode, changes } => V1::SetAttributes(*inode, *changes),
        Op::WriteExtents { inode, extents } => {
            V1::WriteExtents(*inode, extents.iter().map(store_extent).collect())
        }
        Op::Truncate { inode, length } => V1::Truncate(*inode, *length),
        Op::SetXattr { inode, name, value, mode } => {
            V1::SetXattr(*inode, name.to_vec(), value.to_vec(), *mode as u8)
        }
        Op::RemoveXattr { inode, name } => V1::RemoveXattr(*inode, name.to_vec()),
        Op::Lock { range, exclusive, wait } => V1::Lock(*range, *exclusive, *wait),
        Op::Unlock { range } => V1::Unlock(*range),
        Op::SessionOpen { ttl_ms } => V1::SessionOpen(*ttl_ms),
        Op::SessionClose => V1::SessionClose,
    }
}

fn load_operation(stored: DiskOperationV1) -> Result<DiskOperation, CodecError> {
    use DiskOperation as Op;
    use DiskOperationV1 as V1;
    Ok(match stored {
        V1::Create(at, new, exclusive) => Op::Create { at: load_place(at), new, exclusive },
        V1::MakeDirectory(at, new) => Op::MakeDirectory { at: load_place(at), new },
        V1::Symlink(at, new, target) => {
            Op::Symlink { at: load_place(at), new, target: target.into() }
        }
        V1::Link(inode, at) => Op::Link { inode, at: load_place(at) },
        V1::Unlink(at) => Op::Unlink { at: load_place(at) },
        V1::RemoveDirectory(at) => Op::RemoveDirectory { at: load_place(at) },
        V1::Rename(from, to, keep, exchange) => {
            Op::Rename { from: load_place(from), to: load_place(to), keep, exchange }
        }
        V1::SetAttributes(inode, changes) => Op::SetAttributes { inode, changes },
        V1::WriteExtents(inode, extents) => {
            let extents = extents.into_iter().map(load_extent).collect::<Result<_, _>>()?;
            Op::WriteExtents { inode, extents }
        }
        V1::Truncate(inode, length) => Op::Truncate { inode, length },
        V1::SetXattr(inode, name, value, mode) => Op::SetXattr {
            inode,
            name: name.into(),
            value: value.into(),
            mode: XattrMode::from_u8(mode)
                .ok_or_else(|| invalid(format!("unknown setxattr mode {mode}")))?,
        },
        V1::RemoveXattr(inode, name) => Op::RemoveXattr { inode, name: name.into() },
        V1::Lock(range, exclusive, wait) => Op::Lock { range, exclusive, wait },
        V1::Unlock(range) => Op::Unlock { range },
        V1::SessionOpen(ttl_ms) => Op::SessionOpen { ttl_ms },
        V1::SessionClose => Op::SessionClose,
    })
}

fn store_place(place: &Place) -> PlaceV1 {
    (place.parent, place.name.to_vec())
}

fn load_place((parent, name): PlaceV1) -> Place {
    Place { parent, name: name.into() }
}

fn store_extent(extent: &Extent) -> ExtentV1 {
    let content = match &extent.content {
        Content::Inline(bytes) => ContentV1::Inline(bytes.to_vec()),
        Content::Chunk(id, length) => ContentV1::Chunk(*id, *length),
        Content::Hole(length) => ContentV1::Hole(*length),
    };
    (extent.offset, content)
}

fn load_extent((offset, content): ExtentV1) -> Result<Extent, CodecError> {
    let content = match content {
        ContentV1::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
            let bytes = bytes.len();
            return Err(invalid(format!("{bytes} inline bytes are over {INLINE_BYTES_MAX}")));
        }
        ContentV1::Inline(bytes) => Content::Inline(bytes.into()),
        ContentV1::Chunk(id, length) => Content::Chunk(id, length),
        ContentV1::Hole(length) => Content::Hole(length),
    };
    Ok(Extent { offset, content })
}

fn invalid(what: String) -> CodecError {
    CodecError::Body { name: DiskCommandV1::NAME, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(bytes: usize) -> DiskCommand {
        let content = Content::Inline(vec![1; bytes].into());
        let extents = vec![Extent { offset: Some(0), content }];
        DiskCommand {
            session: [1; 16],
            now_ns: -1,
            caller: Caller { uid: 0, gid: 0, pid: 1 },
            operation: DiskOperation::WriteExtents { inode: 2, extents },
        }
    }

    #[test]
    fn inline_content_is_bounded() {
        let largest = write(INLINE_BYTES_MAX);
        assert_eq!(DiskCommand::decode(&largest.encode()).expect("decodes"), largest);
        let error = DiskCommand::decode(&write(INLINE_BYTES_MAX + 1).encode()).expect_err("over");
        assert!(error.to_string().contains("16385 inline bytes"), "{error}");
    }

    #[test]
    fn an_unknown_xattr_mode_is_an_error() {
        let mut stored = DiskCommandV1::from(&write(1));
        stored.operation = DiskOperationV1::SetXattr(1, vec![1], vec![], 3);
        let error = DiskCommand::try_from(stored).expect_err("unknown");
        assert!(error.to_string().contains("unknown setxattr mode 3"), "{error}");
    }
}
