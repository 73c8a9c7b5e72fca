//! Tables of commands, the state and the results; two appliers of one log.

use std::sync::Arc;

use super::*;
use crate::{
    apply::{Applier, Outcome},
    kv::{
        TICK,
        limits::LEASE_KEYS_MAX,
        reader::{Event, HistoryError, KeyRange, KvReader},
        record::LeaseV1,
    },
    log::{
        EntrySource,
        entry::{Entry, Part},
    },
    store::{Direction, Durability, Engine, MemoryEngine, Rows, Space},
    types::{ChainHash, RequestId, Term},
};

/// A KV and its log's end.
struct Kv {
    engine: Arc<MemoryEngine>,
    machine: KvMachine,
    lsn: u64,
}

impl Kv {
    fn new() -> Self {
        Self { engine: Arc::default(), machine: KvMachine::default(), lsn: 0 }
    }

    fn with_history(events: u64, bytes: u64) -> Self {
        let machine = KvMachine::with_history(HistoryLimits { events, bytes });
        Self { machine, ..Self::new() }
    }

    fn reader(&self) -> KvReader {
        KvReader::new(self.engine.clone())
    }

    fn apply(&mut self, command: &KvCommand) -> KvOutcome {
        self.lsn += 1;
        let term = Term { number: 1, leader: "n1".parse().expect("valid") };
        let at = crate::types::Position { term: Some(term), lsn: Lsn(self.lsn) };
        let (kind, body) = (EntryKind::Kv, command.encode().into());
        let command = Command { kind, first: at.lsn, at, request: None, body };
        let mut view = View::new(&*self.engine);
        let result = self.machine.apply(&command, &mut view).expect("applies");
        self.engine.commit(view.into_batch(), Durability::Volatile).expect("memory");
        KvOutcome::decode(&result).expect("decodes")
    }

    /// The keys that are there, with their revisions.
    fn keys(&self) -> Vec<(String, u64)> {
        let (pairs, _) = self.reader().range(&KeyRange::default(), 100).expect("memory");
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).expect("text");
        pairs.iter().map(|pair| (text(&pair.key), pair.revision.0)).collect()
    }

    fn events(&self, from: u64) -> Result<Vec<Event>, HistoryError> {
        let page = self.reader().events(&KeyRange::default(), (Lsn(from), 0), Lsn(self.lsn))?;
        assert_eq!(page.next, (Lsn(self.lsn + 1), 0));
        Ok(page.events)
    }

    fn lease(&self, lease: u64) -> Option<LeaseV1> {
        let stored = self.engine.get(keys::KV_LEASES, &lease.to_be_bytes()).expect("memory");
        stored.map(|bytes| crate::store::codec::decode(&bytes).expect("decodes"))
    }
}

fn put(key: &str, lease: u64) -> KvCommand {
    let lease = (lease != 0).then_some(LeaseId(lease));
    KvCommand::Put { key: key.to_owned().into(), value: Bytes::from_static(b"v"), lease }
}

fn delete(key: &str) -> KvCommand {
    KvCommand::Delete { key: key.to_owned().into() }
}

fn cas(key: &str, expected: u64, value: Option<&'static str>) -> KvCommand {
    let (key, value) =
        (key.to_owned().into(), value.map(|value| Bytes::from_static(value.as_bytes())));
    KvCommand::CompareAndSet { key, expected: Lsn(expected), value, lease: None }
}

fn grant(lease: u64, ttl_ms: u64, now_ms: u64) -> KvCommand {
    KvCommand::LeaseGrant { lease: LeaseId(lease), ttl_ms, now_ms }
}

fn keep(lease: u64, now_ms: u64) -> KvCommand {
    KvCommand::LeaseKeepAlive { lease: LeaseId(lease), now_ms }
}

fn tick(now_ms: u64) -> KvCommand {
    KvCommand::LeaseKeepAlive { lease: TICK, now_ms }
}

fn revoke(lease: u64) -> KvCommand {
    KvCommand::LeaseRevoke { lease: LeaseId(lease) }
}

fn refused(refusal: KvRefusal) -> KvOutcome {
    KvOutcome::Refused(refusal)
}

/// Applies each command, compares its result, and then which keys are there.
fn table(kv: &mut Kv, rows: &[(KvCommand, KvOutcome)], keys: &[(&str, u64)]) {
    for (command, expected) in rows {
        let lsn = kv.lsn + 1;
        assert_eq!(kv.apply(command), *expected, "lsn {lsn}: {command:?}");
    }
    let keys: Vec<_> = keys.iter().map(|(key, at)| ((*key).to_owned(), *at)).collect();
    assert_eq!(kv.keys(), keys);
}

#[test]
fn put_delete_and_compare_and_set_tell_the_revision_before() {
    let mut kv = Kv::new();
    let before = |lsn| KvOutcome::Put { previous: Lsn(lsn) };
    let removed = |lsn| KvOutcome::Deleted { previous: Lsn(lsn) };
    let conflict = |lsn| KvOutcome::Conflict { present: Lsn(lsn) };
    let rows = [
        (put("a", 0), before(0)),
        (put("a", 0), before(1)),
        (delete("b"), removed(0)),
        (cas("a", 1, Some("x")), conflict(2)),
        (cas("a", 2, Some("x")), before(2)),
        (cas("b", 0, Some("y")), before(0)),
        (cas("b", 0, Some("z")), conflict(6)),
        (cas("c", 5, None), conflict(0)),
        (cas("a", 5, None), removed(5)),
        (cas("a", 5, Some("w")), conflict(0)),
        (delete("b"), removed(6)),
        (put("b", 0), before(0)),
        (put("", 0), refused(KvRefusal::KeyInvalid)),
        (put(&"k".repeat(KEY_BYTES_MAX + 1), 0), refused(KvRefusal::KeyInvalid)),
    ];
    table(&mut kv, &rows, &[("b", 12)]);
    let b = kv.reader().get(b"b").expect("memory").expect("is there");
    assert_eq!((b.created, b.revision), (Lsn(12), Lsn(12)), "it was absent before");
}

#[test]
fn the_largest_pair_is_taken_and_a_larger_one_harms_nothing() {
    let mut kv = Kv::new();
    // Noise, so that no compression makes it small.
    let noise = |bytes: usize| -> Bytes {
        let mut x = 1_u64;
        let mut next = || {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (x >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect::<Vec<_>>().into()
    };
    let key = noise(KEY_BYTES_MAX);
    let put = |bytes| KvCommand::Put { key: key.clone(), value: noise(bytes), lease: None };
    assert_eq!(kv.apply(&put(VALUE_BYTES_MAX)), KvOutcome::Put { previous: Lsn::ZERO });
    assert_eq!(kv.apply(&put(VALUE_BYTES_MAX + 1)), refused(KvRefusal::ValueTooLarge));
    let pair = kv.reader().get(&key).expect("memory").expect("is there");
    assert_eq!(pair.value, noise(VALUE_BYTES_MAX));
}

#[test]
fn a_lease_takes_its_keys_with_it() {
    let mut kv = Kv::new();
    let alive = |expires_ms| KvOutcome::LeaseAlive { expires_ms };
    let set = |lsn| KvOutcome::Put { previous: Lsn(lsn) };
    let rows = [
        (put("a", 7), refused(KvRefusal::LeaseUnknown)),
        (grant(7, 2_000, 10_000), alive(12_000)),
        (grant(7, 2_000, 10_500), alive(12_500)),
        (grant(7, 3_000, 10_500), refused(KvRefusal::LeaseExists)),
        (grant(0, 3_000, 10_500), refused(KvRefusal::LeaseUnknown)),
        (grant(8, 1, 10_000), alive(11_500)),
        (put("a", 7), set(0)),
        (put("b", 7), set(0)),
        (put("c", 8), set(0)),
        (put("d", 0), set(0)),
        (put("b", 8), set(8)),
        (put("a", 0), set(7)),
        (put("a", 7), set(12)),
        (put("a", 7), set(13)),
    ];
    table(&mut kv, &rows, &[("a", 14), ("b", 11), ("c", 9), ("d", 10)]);
    let counts = [kv.lease(7), kv.lease(8)].map(|lease| lease.expect("is there").keys);
    assert_eq!(counts, [1, 2]);
    table(&mut kv, &[(revoke(8), KvOutcome::LeaseEnded { keys: 2 })], &[("a", 14), ("d", 10)]);
    table(&mut kv, &[(revoke(8), KvOutcome::LeaseEnded { keys: 0 })], &[("a", 14), ("d", 10)]);
    let removed = kv.events(15).expect("kept");
    let removed: Vec<_> = removed.iter().map(|event| (&event.key[..], event.previous.0)).collect();
    assert_eq!(removed, [(&b"b"[..], 11), (&b"c"[..], 9)], "an event each, of one revision");
}

#[test]
fn leases_end_by_the_time_in_the_log_before_a_command_acts() {
    let mut kv = Kv::new();
    let alive = |expires_ms| KvOutcome::LeaseAlive { expires_ms };
    let set = |lsn| KvOutcome::Put { previous: Lsn(lsn) };
    let rows = [
        (grant(1, 1_000, 10_000), alive(11_000)),
        (grant(2, 5_000, 10_000), alive(15_000)),
        (put("a", 1), set(0)),
        (put("b", 2), set(0)),
        (tick(10_999), KvOutcome::Ticked),
        (put("c", 1), set(0)),
        (keep(1, 10_999), alive(11_999)),
        (keep(2, 500), alive(15_999)),
    ];
    table(&mut kv, &rows, &[("a", 3), ("b", 4), ("c", 6)]);
    // The command that brings the time finds the lease ended already, though it would prolong it.
    table(&mut kv, &[(keep(1, 11_999), refused(KvRefusal::LeaseUnknown))], &[("b", 4)]);
    table(&mut kv, &[(tick(15_998), KvOutcome::Ticked)], &[("b", 4)]);
    table(&mut kv, &[(grant(3, 1_000, 20_000), alive(21_000))], &[]);
    table(&mut kv, &[(tick(u64::MAX), KvOutcome::Ticked)], &[]);
    let left = |space: Space| {
        let all = kv.engine.scan(space, &[], &[0xff; 40], Direction::Forward, 9).expect("memory");
        all.len()
    };
    assert_eq!(left(keys::KV_LEASES) + left(keys::KV_LEASE_KEYS), 0);
    assert_eq!(left(keys::KV_LEASE_DEADLINES), 0);
}

#[test]
fn a_lease_has_a_bounded_number_of_keys() {
    let mut kv = Kv::new();
    kv.apply(&grant(u64::MAX, 60_000, 1));
    for n in 0..LEASE_KEYS_MAX {
        kv.apply(&put(&format!("k{n}"), u64::MAX));
    }
    assert_eq!(kv.apply(&put("more", u64::MAX)), refused(KvRefusal::LeaseFull));
    assert!(matches!(kv.apply(&put("k0", u64::MAX)), KvOutcome::Put { .. }), "it has it already");
    assert_eq!(kv.apply(&tick(60_001)), KvOutcome::Ticked);
    assert_eq!(kv.keys(), []);
    assert_eq!(kv.lease(u64::MAX), None);
}

#[test]
fn the_history_is_bounded_and_says_what_it_forgot() {
    let mut kv = Kv::with_history(5, u64::MAX);
    for n in 0..4 {
        kv.apply(&put(&format!("k{n}"), 0));
    }
    assert_eq!(kv.events(1).expect("kept").len(), 4);
    kv.apply(&grant(1, 1_000, 1));
    for n in 0..3 {
        kv.apply(&put(&format!("l{n}"), 1));
    }
    // 1 and 2 are forgotten; the end of the lease (LSN 9) makes three more events, so 3, 4 and 6 go.
    kv.apply(&revoke(1));
    let first = |from| match kv.events(from) {
        Err(HistoryError::Compacted { first }) => first,
        other => panic!("{other:?}"),
    };
    assert_eq!([first(1), first(6)], [Lsn(7), Lsn(7)]);
    let kept: Vec<_> = kv.events(7).expect("kept").iter().map(|event| event.revision.0).collect();
    assert_eq!(kept, [7, 8, 9, 9, 9]);
    assert_eq!(kv.events(10).expect("kept"), [], "from what is next on");

    let mut kv = Kv::with_history(u64::MAX, 1);
    kv.apply(&put("a", 0));
    assert!(matches!(kv.events(1), Err(HistoryError::Compacted { first: Lsn(2) })), "by bytes");
}

#[test]
fn ranges_are_read_in_pages() {
    let mut kv = Kv::new();
    for n in 0..7 {
        kv.apply(&put(&format!("k{n}"), 0));
    }
    kv.apply(&put("l", 0));
    let reader = kv.reader();
    let mut range = KeyRange::prefix(b"k");
    let mut pages = Vec::new();
    loop {
        let (pairs, next) = reader.range(&range, 3).expect("memory");
        pages.push(pairs.iter().map(|pair| pair.key[1] - b'0').collect::<Vec<_>>());
        let Some(next) = next else { break };
        range.from = next;
    }
    assert_eq!(pages, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    assert_eq!(reader.range(&KeyRange::default(), 100).expect("memory").0.len(), 8);
}

/// Entries with the right chain.
struct Source(Vec<Arc<Entry>>);

impl Source {
    fn push(&mut self, kind: EntryKind, request: Option<RequestId>, body: Vec<u8>) {
        let lsn = Lsn(self.0.len() as u64 + 1);
        let term = Term { number: 1, leader: "n1".parse().expect("valid") };
        let (part, chain) = (Part::WHOLE, ChainHash::default());
        let mut entry = Entry { term, lsn, kind, part, request, chain, body: body.into() };
        let before = self.0.last().map(|entry| entry.chain).unwrap_or_default();
        entry.chain = entry.chain_after(before);
        self.0.push(Arc::new(entry));
    }
}

impl EntrySource for Source {
    fn read(&self, from: Lsn, to: Lsn, _: usize) -> Result<Vec<Arc<Entry>>, StoreError> {
        let held = self.0.iter().filter(|entry| entry.lsn >= from && entry.lsn <= to);
        Ok(held.cloned().collect())
    }
}

/// A log of everything, in an order that no one would choose.
fn mixed_log(seed: u64) -> Source {
    use crate::apply::sessions::SessionCommand;
    let mut source = Source(Vec::new());
    let mut x = seed;
    let mut random = |below: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % below
    };
    for now in 0..600_u64 {
        let now_ms = now * 40;
        let session = [u8::try_from(random(3)).expect("small"); 16];
        if random(8) == 0 {
            let command = match random(3) {
                0 => SessionCommand::Open { session, ttl_ms: 2_000, now_ms },
                1 => SessionCommand::KeepAlive { session, answered: random(20), now_ms },
                _ => SessionCommand::Close { session, now_ms },
            };
            source.push(EntryKind::Session, None, command.encode());
            continue;
        }
        let request = (random(3) > 0).then(|| RequestId { session, number: 1 + random(30) });
        let (key, lease) = (format!("k{}", random(6)), random(4));
        let command = match random(7) {
            0 => delete(&key),
            1 | 2 => cas(&key, random(now + 1), [None, Some("x")][usize::from(random(2) == 1)]),
            3 => grant(lease, 1_000 + random(2) * 1_000, now_ms),
            4 => keep(lease, now_ms),
            5 => revoke(lease),
            _ => put(&key, lease),
        };
        source.push(EntryKind::Kv, request, command.encode());
    }
    source
}

/// Everything that a store holds.
fn contents(engine: &MemoryEngine) -> Vec<(u8, Rows)> {
    let scan = |space| engine.scan(Space(space), &[], &[0xff; 40], Direction::Forward, usize::MAX);
    (0..=0x3f).map(|space| (space, scan(space).expect("memory"))).collect()
}

#[test]
fn two_appliers_of_one_log_are_equal_to_the_byte_however_it_is_cut_into_batches() {
    for seed in 0..20 {
        let source = Arc::new(mixed_log(seed));
        let last = source.0.len() as u64;
        let run = |step: &mut dyn FnMut() -> u64| {
            let engine = MemoryEngine::new();
            let history = HistoryLimits { events: 40, bytes: u64::MAX };
            let machines: Vec<Box<dyn StateMachine>> =
                vec![Box::new(KvMachine::with_history(history))];
            let applier = Applier::open(source.clone(), Arc::new(engine.clone()), machines);
            let mut applier = applier.expect("opens");
            let mut at = 0;
            while at < last {
                at = (at + step()).min(last);
                applier.apply_some(Lsn(at)).expect("applies");
            }
            let outcomes = applier.outcomes();
            let outcomes: Vec<Option<Outcome>> =
                (1..=last).map(|lsn| outcomes.at(Lsn(lsn))).collect();
            (contents(&engine), outcomes)
        };
        let one_by_one = run(&mut || 1);
        assert_eq!(run(&mut || last), one_by_one, "seed {seed}: one batch");
        let mut n = seed;
        let mut uneven = || {
            n += 1;
            1 + n * 7 % 23
        };
        assert_eq!(run(&mut uneven), one_by_one, "seed {seed}: uneven batches");
        let executed = one_by_one.1.iter().flatten();
        let executed = executed.filter(|o| matches!(o, Outcome::Executed { .. })).count();
        assert!(executed > 100, "seed {seed}: only {executed} commands were executed");
    }
}
