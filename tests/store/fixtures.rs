//! Bytes of every stored format, kept for good.
//!
//! Each file under `fixtures/` was written by the program that introduced its format. Every later
//! program must read it, and write it again byte for byte.
//!
//! To add one: add its value to [`fixtures`], run
//! `WOLFSCALE_NEW_FIXTURES=1 cargo test --test store fixtures`, name it in
//! `docs/storage-format.md` and commit the file. Files that exist are never written again: a test
//! that fails here says that stored data would not be read any more. Give the changed struct the
//! next version instead, keep reading the old one, and add a fixture for the new.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::Once,
};

use bytes::Bytes;
use wolfscale::{
    apply::{AppliedV1, SessionAnswerV1, SessionClockV1, SessionV1, sessions::SessionCommand},
    cluster::{
        identity::{DurableMark, Identity, IdentityFile, IdentityStore},
        membership::{Configuration, Fork, Member, Policy, Standing},
    },
    db::{
        command::{DbCommand, Transaction},
        ddl_fence::{DdlFenceV1, ErrorLogV1, NeedsMigrationV1},
        gtid::Gtid,
        index::DbPlaceV1,
    },
    disk::command::{
        Attributes, Caller, Content, DiskCommand, DiskOperation, Extent, LockRange, NewInode,
        Place, XattrMode,
    },
    kv::{
        command::{KvCommand, LeaseId},
        outcome::{KvOutcome, KvRefusal},
        record::{EventV1, HistoryV1, KvClockV1, LeaseV1, PairV1},
    },
    log::{
        TermRunV1,
        entry::{Entry, EntryKind, Part},
    },
    replicate::replica::{CommittedV1, HardState},
    store::{
        codec::{self, Compress, Stored},
        keys,
    },
    types::{ChainHash, ClusterId, Incarnation, Lsn, NodeId, RequestId, Term},
};

/// Set to write those files that do not exist yet.
const WRITE_NEW: &str = "WOLFSCALE_NEW_FIXTURES";

struct Fixture {
    name: String,
    bytes: Vec<u8>,
    /// Asserts that bytes hold the fixture's value.
    check: Check,
}

type Check = Box<dyn Fn(&[u8])>;

fn fixture<T, E>(
    name: impl Into<String>,
    value: T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, E> + 'static,
) -> Fixture
where
    T: PartialEq + Debug + 'static,
    E: Debug,
{
    let name = name.into();
    let bytes = encode(&value);
    let of = name.clone();
    let check = move |bytes: &[u8]| {
        let found = decode(bytes).unwrap_or_else(|e| panic!("{of} is not readable: {e:?}"));
        assert_eq!(found, value, "{of} reads as something else");
    };
    Fixture { name, bytes, check: Box::new(check) }
}

fn fixtures() -> Vec<Fixture> {
    let mut all = entries();
    all.push(fixture("identity-v1", identity(), write_identity, read_identity));
    all.extend(clusters());
    all.extend(states());
    all.extend(session_states());
    all.extend(kv_states());
    all.extend(kv_outcomes().map(|(name, outcome)| {
        let name = format!("kv-outcome-{name}-v1");
        fixture(name, outcome, KvOutcome::encode, KvOutcome::decode)
    }));
    all.extend(databases());
    all.extend(sessions().map(|(name, command)| {
        let name = format!("session-{name}-v1");
        fixture(name, command, SessionCommand::encode, SessionCommand::decode)
    }));
    all.extend(kv().map(|(name, command)| {
        fixture(format!("kv-{name}-v1"), command, KvCommand::encode, KvCommand::decode)
    }));
    all.extend(disk().map(|(name, operation)| {
        let command = DiskCommand {
            session: [0xab; 16],
            now_ns: 1_700_000_000_123_456_789,
            caller: Caller { uid: 1000, gid: 100, pid: 4321 },
            operation,
        };
        fixture(format!("disk-{name}-v1"), command, DiskCommand::encode, DiskCommand::decode)
    }));
    all
}

#[test]
fn every_format_is_read_and_written_as_ever() {
    write_new();
    for fixture in fixtures() {
        let path = path(&fixture.name);
        let stored = fs::read(&path)
            .unwrap_or_else(|e| panic!("{}: {e}; if it is new, set {WRITE_NEW}=1", path.display()));
        (fixture.check)(&stored);
        assert!(stored == fixture.bytes, "{} is written in another form now", fixture.name);
    }
}

#[test]
fn every_fixture_is_tested_and_documented() {
    write_new();
    let files = fs::read_dir(directory()).expect("is there").map(|file| {
        let name = file.expect("is readable").file_name().into_string().expect("UTF-8");
        name.strip_suffix(".bin").expect("only fixtures are there").to_owned()
    });
    let tested: BTreeSet<_> = fixtures().into_iter().map(|fixture| fixture.name).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), tested);
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/storage-format.md");
    let manual = fs::read_to_string(manual).expect("is there");
    for name in tested {
        assert!(manual.contains(&format!("`{name}`")), "docs/storage-format.md lacks {name}");
    }
}

#[test]
fn keys_are_laid_out_as_ever() {
    assert_eq!(keys::lsn(Lsn(0x0102_0304)), [0, 0, 0, 0, 1, 2, 3, 4]);
    assert_eq!(keys::parse_lsn(&[0, 0, 0, 0, 1, 2, 3, 4]), Some(Lsn(0x0102_0304)));
    assert_eq!(keys::gtid(5, 0x0607), [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 6, 7]);
    let answer = [&[9_u8; 16][..], &[0, 0, 0, 0, 0, 0, 0, 3]].concat();
    assert_eq!(keys::session_answer([9; 16], 3).to_vec(), answer);
    assert_eq!(keys::deadline(0x0102, b"x"), [0, 0, 0, 0, 0, 0, 1, 2, b'x']);
    assert_eq!(keys::deadline_of(&keys::deadline(7, b"x")), Some((7, &b"x"[..])));
    assert_eq!(keys::lease_key(5, b"k"), [0, 0, 0, 0, 0, 0, 0, 5, b'k']);
    assert_eq!(keys::event(Lsn(6), 7), [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 7]);
    assert_eq!(keys::parse_event(&keys::event(Lsn(6), 7)), Some((Lsn(6), 7)));
    let spaces = [
        keys::SESSIONS,
        keys::SESSION_ANSWERS,
        keys::SESSION_DEADLINES,
        keys::SESSION_META,
        keys::KV_PAIRS,
        keys::KV_LEASES,
        keys::KV_LEASE_KEYS,
        keys::KV_LEASE_DEADLINES,
        keys::KV_HISTORY,
        keys::KV_META,
    ];
    let numbers = [0x11, 0x12, 0x13, 0x14, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35];
    assert_eq!(spaces.map(|space| space.0), numbers);
    let spaces = [
        keys::ENTRIES,
        keys::LOG_META,
        keys::TERM_RUNS,
        keys::CONFIGURATIONS,
        keys::APPLIED,
        keys::DB_GTIDS,
        keys::DB_FORMATS,
        keys::DB_META,
    ];
    assert_eq!(spaces.map(|space| space.0), [1, 2, 3, 4, 0x10, 0x20, 0x21, 0x22]);
}

/// Writes the files that do not exist, if asked to.
fn write_new() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os(WRITE_NEW).is_none() {
            return;
        }
        for fixture in fixtures() {
            let path = path(&fixture.name);
            if !path.exists() {
                let mut file = File::create_new(&path).expect("is new");
                file.write_all(&fixture.bytes).expect("writes");
            }
        }
    });
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/fixtures")
}

fn path(name: &str) -> PathBuf {
    directory().join(format!("{name}.bin"))
}

fn node(id: &str) -> NodeId {
    id.parse().expect("valid")
}

fn term(number: u64, leader: &str) -> Term {
    Term { number, leader: node(leader) }
}

fn request() -> RequestId {
    RequestId { session: [0x5e; 16], number: 77 }
}

/// The chain hash is computed, so that a change of its rule shows here.
fn entries() -> Vec<Fixture> {
    let whole = Entry {
        term: term(3, "node-01"),
        lsn: Lsn(42),
        kind: EntryKind::Db,
        part: Part::WHOLE,
        request: Some(request()),
        chain: ChainHash::default(),
        body: Bytes::from_static(b"a sealed command"),
    };
    let part = Entry {
        part: Part { index: 2, last: true },
        request: None,
        kind: EntryKind::Kv,
        ..whole.clone()
    };
    let noop = Entry {
        term: term(u64::MAX, "n"),
        lsn: Lsn(u64::MAX),
        kind: EntryKind::Noop,
        body: Bytes::new(),
        ..part.clone()
    };
    [("entry-whole-v1", whole), ("entry-part-v1", part), ("entry-noop-v1", noop)]
        .map(|(name, entry)| {
            let chain = entry.chain_after(ChainHash([0x11; 32]));
            fixture(name, Entry { chain, ..entry }, Entry::encode, Entry::decode)
        })
        .into()
}

fn identity() -> Identity {
    Identity {
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
        node: node("node-01"),
        cluster: Some(ClusterId([0xc1; 16])),
        accepted: Some(term(6, "node-02")),
        promised: Some(term(7, "node-01")),
        durable: DurableMark { lsn: Lsn(4711), chain: ChainHash([0xd0; 32]) },
    }
}

/// The whole file: the first slot newer than the second.
fn write_identity(identity: &Identity) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("identity");
    let first = || Identity::new(identity.node.clone(), identity.incarnation);
    let mut file = IdentityFile::open_or_create(&path, first).expect("creates").file;
    file.save(identity).expect("saves");
    fs::read(path).expect("reads")
}

fn read_identity(bytes: &[u8]) -> anyhow::Result<Identity> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("identity");
    fs::write(&path, bytes)?;
    let file = IdentityFile::open(path)?;
    anyhow::ensure!(file.torn_slot().is_none(), "{:?}", file.torn_slot());
    Ok(file.load()?)
}

fn configuration() -> Configuration {
    let member = |id: &str, standing, demoted: bool| Member {
        id: node(id),
        address: format!("{id}.example:8080"),
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
        standing,
        never_leader: !demoted,
        demoted,
    };
    Configuration {
        cluster: ClusterId([0xc1; 16]),
        policy: Policy::Survivor,
        min_active: 1,
        members: vec![
            member("node-01", Standing::Member, true),
            member("node-02", Standing::Learner, false),
            member("node-03", Standing::Witness, false),
        ],
        preferred_leader: Some(node("node-02")),
        base_gtid: Some("0-1-5,1-2-7".to_owned()),
    }
}

fn clusters() -> [Fixture; 4] {
    let majority = Configuration {
        policy: Policy::Majority,
        preferred_leader: None,
        base_gtid: None,
        ..configuration()
    };
    let fork = Fork { forcer: node("node-01"), committed_lsn: 41, configuration: configuration() };
    let hard = HardState { promised: Some(term(7, "node-01")), accepted: Some(term(6, "node-02")) };
    let plain = |configuration, name| {
        fixture(name, configuration, Configuration::encode, Configuration::decode)
    };
    [
        plain(configuration(), "configuration-survivor-v1"),
        plain(majority, "configuration-majority-v1"),
        fixture("fork-v1", fork, Fork::encode, Fork::decode),
        fixture("hard-state-v1", hard, HardState::encode, HardState::decode),
    ]
}

/// Values that are stored as they are.
fn states() -> [Fixture; 7] {
    let run = TermRunV1 { number: 7, leader: "node-01".to_owned(), lineage: [0x1e; 16] };
    let applied = AppliedV1 { lsn: 4711, chain: [0xd0; 32], open_since: 4709 };
    let place =
        DbPlaceV1 { domain: 1, server: 2, sequence: 75_720, first: 4700, last: 4711, term: 7 };
    let fence = DdlFenceV1 {
        domain: 1,
        server: 2,
        sequence: 75_721,
        lsn: 4712,
        raised_unix_ms: 1_700_000_000_123,
    };
    let migration = NeedsMigrationV1 { reason: "transaction 0-1-9 is not in the log".to_owned() };
    [
        stored("term-run-v1", run),
        stored("committed-v1", CommittedV1 { lsn: 4710 }),
        stored("applied-v1", applied),
        stored("db-place-v1", place),
        stored("ddl-fence-v1", fence),
        stored("needs-migration-v1", migration),
        stored("error-log-v1", ErrorLogV1 { path: "/var/log/mysql/error.log".to_owned() }),
    ]
}

fn session_states() -> [Fixture; 3] {
    let session = SessionV1 { ttl_ms: 30_000, expires_ms: 1_700_000_030_123, answered: 7, kept: 3 };
    [
        stored("session-v1", session),
        stored("session-answer-v1", SessionAnswerV1 { lsn: 4711, result: b"a result".to_vec() }),
        stored("session-clock-v1", SessionClockV1 { now_ms: 1_700_000_000_123, open: 12 }),
    ]
}

fn kv_states() -> [Fixture; 5] {
    let (key, value) = (b"config/limit".to_vec(), b"value".to_vec());
    let lease = 0xfeed_beef;
    let pair = PairV1 { value: value.clone(), revision: 4711, created: 4700, lease };
    let event = EventV1 { key, value: Some(value), lease, previous: 4705 };
    let history =
        HistoryV1 { compacted: 4600, compacted_index: 2, events: 65_536, bytes: 12_345_678 };
    [
        stored("kv-pair-v1", pair),
        stored("kv-lease-v1", LeaseV1 { ttl_ms: 10_000, expires_ms: 1_700_000_010_123, keys: 2 }),
        stored("kv-event-v1", event),
        stored("kv-clock-v1", KvClockV1 { now_ms: 1_700_000_000_123, leases: 3 }),
        stored("kv-history-v1", history),
    ]
}

fn kv_outcomes() -> [(&'static str, KvOutcome); 12] {
    let at = Lsn(4705);
    [
        ("put", KvOutcome::Put { previous: at }),
        ("deleted", KvOutcome::Deleted { previous: at }),
        ("conflict", KvOutcome::Conflict { present: at }),
        ("lease-alive", KvOutcome::LeaseAlive { expires_ms: 1_700_000_010_123 }),
        ("lease-ended", KvOutcome::LeaseEnded { keys: 2 }),
        ("ticked", KvOutcome::Ticked),
        ("lease-unknown", KvOutcome::Refused(KvRefusal::LeaseUnknown)),
        ("lease-exists", KvOutcome::Refused(KvRefusal::LeaseExists)),
        ("lease-full", KvOutcome::Refused(KvRefusal::LeaseFull)),
        ("too-many-leases", KvOutcome::Refused(KvRefusal::TooManyLeases)),
        ("key-invalid", KvOutcome::Refused(KvRefusal::KeyInvalid)),
        ("value-too-large", KvOutcome::Refused(KvRefusal::ValueTooLarge)),
    ]
}

fn stored<T: Stored + PartialEq + Debug + 'static>(name: &str, value: T) -> Fixture {
    fixture(name, value, |value| codec::encode(value, Compress::Never), codec::decode::<T>)
}

fn databases() -> [Fixture; 3] {
    let transaction = |events: Vec<u8>| {
        DbCommand::Transaction(Transaction {
            gtid: Gtid { domain: 1, server: 2, sequence: 75_720 },
            flags: 4,
            events: events.into(),
        })
    };
    let format = DbCommand::Format(Bytes::from_static(b"a FORMAT_DESCRIPTION event"));
    let plain = transaction(b"a GTID event and others".to_vec());
    let packed = transaction(b"rows ".repeat(200));
    [("format", format), ("transaction", plain), ("transaction-lz4", packed)].map(
        |(name, command)| {
            fixture(format!("db-{name}-v1"), command, DbCommand::encode, DbCommand::decode)
        },
    )
}

fn sessions() -> [(&'static str, SessionCommand); 3] {
    let (session, now_ms) = ([0x5e; 16], 1_700_000_000_123);
    [
        ("open", SessionCommand::Open { session, ttl_ms: 30_000, now_ms }),
        ("keep-alive", SessionCommand::KeepAlive { session, answered: 12, now_ms }),
        ("close", SessionCommand::Close { session, now_ms }),
    ]
}

fn kv() -> [(&'static str, KvCommand); 7] {
    let key = || Bytes::from_static(b"config/limit");
    let (lease, now_ms) = (LeaseId(0xfeed_beef), 1_700_000_000_123);
    let value = Bytes::from_static(b"value");
    [
        ("put", KvCommand::Put { key: key(), value: value.clone(), lease: Some(lease) }),
        ("delete", KvCommand::Delete { key: key() }),
        (
            "compare-and-set",
            KvCommand::CompareAndSet {
                key: key(),
                expected: Lsn(99),
                value: Some(value),
                lease: None,
            },
        ),
        (
            "compare-and-delete",
            KvCommand::CompareAndSet { key: key(), expected: Lsn(99), value: None, lease: None },
        ),
        ("lease-grant", KvCommand::LeaseGrant { lease, ttl_ms: 10_000, now_ms }),
        ("lease-keep-alive", KvCommand::LeaseKeepAlive { lease, now_ms }),
        ("lease-revoke", KvCommand::LeaseRevoke { lease }),
    ]
}

fn disk() -> [(&'static str, DiskOperation); 16] {
    use DiskOperation as Op;
    let at = |name: &'static [u8]| Place { parent: 1, name: Bytes::from_static(name) };
    let new = NewInode { inode: 1234, mode: 0o100_640, rdev: 0x0801 };
    let range =
        LockRange { inode: 1234, owner: 0xdead_beef, flock: false, start: 10, end: u64::MAX };
    let changes = Attributes {
        mode: Some(0o600),
        uid: None,
        gid: Some(5),
        atime_ns: None,
        mtime_ns: Some(-1),
        kill_privileges: true,
    };
    let extents = vec![
        Extent { offset: Some(0), content: Content::Inline(Bytes::from_static(b"small")) },
        Extent { offset: None, content: Content::Chunk([0xcc; 32], 65_536) },
        Extent { offset: Some(1 << 40), content: Content::Hole(1 << 20) },
    ];
    let name = Bytes::from_static(b"user.colour");
    let value = Bytes::from_static(b"\x00\xff");
    let target = Bytes::from_static(b"../elsewhere");
    [
        ("create", Op::Create { at: at(b"file"), new, exclusive: true }),
        ("make-directory", Op::MakeDirectory { at: at(b"directory"), new }),
        ("symlink", Op::Symlink { at: at(b"link"), new, target }),
        ("link", Op::Link { inode: 1234, at: at(b"other name") }),
        ("unlink", Op::Unlink { at: at(b"not UTF-8: \xff") }),
        ("remove-directory", Op::RemoveDirectory { at: at(b"directory") }),
        ("rename", Op::Rename { from: at(b"a"), to: at(b"b"), keep: true, exchange: false }),
        ("set-attributes", Op::SetAttributes { inode: 1234, changes }),
        ("write-extents", Op::WriteExtents { inode: 1234, extents }),
        ("truncate", Op::Truncate { inode: 1234, length: 77 }),
        (
            "set-xattr",
            Op::SetXattr { inode: 1234, name: name.clone(), value, mode: XattrMode::Replace },
        ),
        ("remove-xattr", Op::RemoveXattr { inode: 1234, name }),
        ("lock", Op::Lock { range, exclusive: true, wait: false }),
        ("unlock", Op::Unlock { range }),
        ("session-open", Op::SessionOpen { ttl_ms: 30_000 }),
        ("session-close", Op::SessionClose),
    ]
}
