//! Each safety rule of the core, broken on purpose by what others say.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::{
    clock::Moment,
    cluster::{change::Change, membership::Configuration},
    config::Timing,
    log::{
        Shape,
        entry::{Entry, EntryKind, Part},
    },
    replicate::{
        message::{
            Append, Appended, Envelope, Fetched, Heartbeat, HeartbeatReply, Message, PreVoteReply,
            Prepare, Promise, Run,
        },
        role::ReleasedByLeader,
    },
    types::{ChainHash, Incarnation, Lsn, NodeId, Position, Term},
};

const LIFE: Incarnation = Incarnation(1);
const NEXT_LIFE: Incarnation = Incarnation(8);

fn id(text: &str) -> NodeId {
    text.parse().expect("valid")
}

fn term(number: u64, leader: &str) -> Term {
    Term { number, leader: id(leader) }
}

fn configuration() -> Configuration {
    Configuration::of_members(&["n1", "n2", "n3"])
}

/// A node of a founded cluster of three, well after its start.
struct Node {
    replica: Replica,
    now: Moment,
}

impl Node {
    fn new(name: &str, terms: &[Term], hard: HardState, remembers: bool) -> Self {
        let mut shape = Shape::default();
        terms.iter().for_each(|term| shape.push(term));
        let mut replica = Replica::new(Start {
            id: id(name),
            // A life that does not remember has a new name.
            incarnation: if remembers { LIFE } else { NEXT_LIFE },
            remembers,
            timing: Timing::default(),
            shape,
            hard,
            committed: Lsn(1),
            configurations: vec![(Lsn(1), configuration())],
            initial_peers: Vec::new(),
            founding: None,
            now: Moment(0),
        });
        replica.set_fitness(Fitness::WITHOUT_DATABASE);
        Self { replica, now: Moment(10_000_000_000) }
    }

    fn hear(&mut self, from: &str, message: Message) -> Vec<Effect> {
        let (from, lineage) = (id(from), [0; 16]);
        let envelope = Envelope { from, incarnation: LIFE, lineage, message };
        self.replica.step(envelope, self.now);
        self.replica.take_effects(self.now)
    }

    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now = self.now + std::time::Duration::from_millis(ms);
        self.replica.tick(self.now);
        self.replica.take_effects(self.now)
    }

    fn written(&mut self) -> Vec<Effect> {
        self.replica.written(Ticket(u64::MAX), self.now);
        self.replica.take_effects(self.now)
    }

    /// Makes it the leader of term 2, with a promise of n2 that ends at `theirs`.
    fn elect(&mut self, theirs: Position) -> Vec<Effect> {
        self.hear("n2", heartbeat());
        self.pass(10);
        let reply = PreVoteReply { number: 2, granted: true, seen: 1, stands: false };
        self.hear("n2", Message::PreVoteReply(reply));
        self.written();
        let promise =
            Promise { term: term(2, "n1"), granted: true, seen: 2, last: theirs, founding: None };
        self.hear("n2", Message::Promise(promise))
    }
}

fn heartbeat() -> Message {
    Message::Heartbeat(Heartbeat {
        term: None,
        leads: false,
        sent_at: Moment(0),
        durable: Position::default(),
        committed: Lsn::ZERO,
        released: Lsn::ZERO,
        applied: Lsn::ZERO,
        eligible: false,
        cluster: None,
        database: 0,
        behind: 0,
    })
}

fn prepare(number: u64, leader: &str) -> Message {
    Message::Prepare(Prepare { term: term(number, leader), handover: false })
}

fn entry(lsn: u64, of: Term) -> Arc<Entry> {
    Arc::new(Entry {
        term: of,
        lsn: Lsn(lsn),
        kind: EntryKind::Noop,
        part: Part::WHOLE,
        request: None,
        chain: ChainHash::default(),
        body: bytes::Bytes::new(),
    })
}

fn append(of: Term, previous: Position, entries: Vec<Arc<Entry>>, committed: u64) -> Message {
    Message::Append(Append {
        term: of,
        previous,
        run: Run { chain: ChainHash::default(), entries },
        committed: Lsn(committed),
        released: Lsn(committed),
    })
}

fn at(lsn: u64, of: Term) -> Position {
    Position { term: Some(of), lsn: Lsn(lsn) }
}

fn granted(effects: &[Effect]) -> Option<bool> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(_, Message::Promise(promise)) => Some(promise.granted),
        _ => None,
    })
}

fn fatal(effects: &[Effect]) -> Option<&str> {
    effects.iter().find_map(|effect| match effect {
        Effect::Fatal(what) => Some(what.as_str()),
        _ => None,
    })
}

fn acknowledged(effects: &[Effect]) -> Option<Lsn> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(_, Message::Appended(Appended { result: Ok(up_to), .. })) => Some(*up_to),
        _ => None,
    })
}

fn leads(of: Term, released: u64) -> Message {
    let Message::Heartbeat(heartbeat) = heartbeat() else { unreachable!("it is one") };
    let released = Lsn(released);
    Message::Heartbeat(Heartbeat { term: Some(of), leads: true, released, ..heartbeat })
}

#[test]
fn what_is_released_is_known_from_this_terms_leader_only() {
    let known = |node: &Node| node.replica.released_by_leader();
    let of = |term: Term, released| Some(ReleasedByLeader { term, released: Lsn(released) });
    let (first, second) = (term(1, "n1"), term(2, "n2"));
    let mut node = Node::new("n3", std::slice::from_ref(&first), HardState::default(), true);
    assert_eq!(known(&node), None, "what it kept itself says nothing");
    node.hear("n1", leads(first.clone(), 90));
    assert_eq!(known(&node), of(first.clone(), 90), "far beyond what it holds");
    node.hear("n1", append(first.clone(), at(1, first.clone()), vec![], 95));
    node.hear("n1", leads(first.clone(), 90));
    assert_eq!(known(&node), of(first.clone(), 95), "an older word changes nothing");
    node.hear("n2", leads(second.clone(), 1));
    assert_eq!(known(&node), of(second.clone(), 1), "the next leader speaks for itself");
    node.hear("n1", leads(first, 99));
    assert_eq!(known(&node), of(second, 1), "the last one no more");
    node.pass(10_000);
    assert_eq!(known(&node), None, "nobody leads");
}

#[test]
fn a_term_number_is_promised_once_and_only_when_that_is_durable() {
    let mut node = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    let effects = node.hear("n1", prepare(2, "n1"));
    assert_eq!(granted(&effects), None, "not before it is durable");
    assert!(effects.iter().any(|e| matches!(e, Effect::Write(w) if w.hard.is_some())));
    assert_eq!(granted(&node.written()), Some(true));
    assert_eq!(granted(&node.hear("n2", prepare(2, "n2"))), Some(false));

    let kept = node.replica.hard_state().clone();
    let mut restarted = Node::new("n3", &[term(1, "n1")], kept, true);
    assert_eq!(granted(&restarted.hear("n2", prepare(2, "n2"))), Some(false));
    restarted.hear("n2", prepare(3, "n2"));
    assert_eq!(granted(&restarted.written()), Some(true), "a higher one is free");
}

#[test]
fn nothing_is_promised_while_a_leader_lives_nor_right_after_a_start() {
    let mut node = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    node.hear("n1", append(term(1, "n1"), at(1, term(1, "n1")), Vec::new(), 1));
    assert_eq!(granted(&node.hear("n2", prepare(2, "n2"))), Some(false));
    let mut started = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    started.now = Moment(1_000_000);
    assert_eq!(granted(&started.hear("n2", prepare(2, "n2"))), Some(false));
}

#[test]
fn after_a_promise_an_older_term_changes_nothing() {
    let mut node = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    node.hear("n2", prepare(2, "n2"));
    node.written();
    let previous = at(1, term(1, "n1"));
    let late = append(term(1, "n1"), previous, vec![entry(2, term(1, "n1"))], 2);
    let effects = node.hear("n1", late);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Write(_))), "{effects:?}");
    assert_eq!((acknowledged(&effects), node.replica.last().lsn), (None, Lsn(1)));
}

#[test]
fn entries_are_acknowledged_only_when_they_are_durable() {
    let mut node = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    let previous = at(1, term(1, "n1"));
    let sent = append(term(1, "n1"), previous, vec![entry(2, term(1, "n1"))], 1);
    assert_eq!(acknowledged(&node.hear("n1", sent)), None);
    assert_eq!(acknowledged(&node.written()), Some(Lsn(2)));
}

#[test]
fn a_candidate_leads_only_with_the_most_advanced_log_of_its_promisers() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
    let effects = node.elect(at(3, term(1, "n1")));
    assert!(!node.replica.role_view().leads(), "n2 holds more");
    let asks = effects.iter().any(|e| matches!(e, Effect::Send(_, Message::Fetch(_))));
    assert!(asks, "{effects:?}");
    let run = Run {
        chain: ChainHash::default(),
        entries: vec![entry(2, term(1, "n1")), entry(3, term(1, "n1"))],
    };
    let fetched = Fetched {
        term: term(2, "n1"),
        after: at(1, term(1, "n1")),
        result: Ok(run),
        last: at(3, term(1, "n1")),
    };
    node.hear("n2", Message::Fetched(fetched));
    assert!(node.replica.role_view().leads());
    assert_eq!(node.replica.role_view().term_start, Some(Lsn(4)));
}

#[test]
fn a_leader_commits_only_by_an_entry_of_its_own_term() {
    let old = term(1, "n1");
    let log = [old.clone(), old.clone(), old.clone()];
    let mut node = Node::new("n1", &log, HardState::default(), true);
    node.elect(at(3, old));
    assert!(node.replica.role_view().leads());
    node.written();
    let appended = |lsn| Message::Appended(Appended { term: term(2, "n1"), result: Ok(Lsn(lsn)) });
    node.hear("n2", appended(3));
    assert_eq!(node.replica.committed(), Lsn(1), "a quorum holds entry 3, which is of term 1");
    node.hear("n2", appended(4));
    assert_eq!(node.replica.committed(), Lsn(4));
}

#[test]
fn a_leader_does_not_count_what_it_has_not_yet_on_disk() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
    node.elect(at(1, term(1, "n1")));
    let appended = Appended { term: term(2, "n1"), result: Ok(Lsn(2)) };
    node.hear("n2", Message::Appended(appended));
    assert_eq!(node.replica.committed(), Lsn(1), "only n2 holds it durably");
    node.written();
    assert_eq!(node.replica.committed(), Lsn(2));
}

#[test]
fn acknowledgements_of_another_life_do_not_count() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
    node.elect(at(1, term(1, "n1")));
    node.written();
    let appended = Appended { term: term(2, "n1"), result: Ok(Lsn(2)) };
    let envelope = Envelope {
        from: id("n3"),
        incarnation: Incarnation(99),
        lineage: [0; 16],
        message: Message::Appended(appended),
    };
    node.replica.step(envelope, node.now);
    assert_eq!(node.replica.committed(), Lsn(1), "n3 lost its store: it only learns");
}

#[test]
fn what_is_committed_is_never_replaced() {
    let log = [term(1, "n1"), term(1, "n1")];
    let mut node = Node::new("n3", &log, HardState::default(), true);
    node.hear("n1", append(term(1, "n1"), at(2, term(1, "n1")), Vec::new(), 2));
    assert_eq!(node.replica.committed(), Lsn(2));
    let other = append(term(2, "n2"), at(1, term(1, "n1")), vec![entry(2, term(2, "n2"))], 2);
    let effects = node.hear("n2", other);
    assert!(fatal(&effects).is_some_and(|what| what.contains("committed")), "{effects:?}");
}

#[test]
fn two_leaders_of_one_term_stop_the_node() {
    let mut node = Node::new("n3", &[term(1, "n1")], HardState::default(), true);
    node.hear("n1", append(term(2, "n1"), at(1, term(1, "n1")), Vec::new(), 1));
    let effects = node.hear("n2", append(term(2, "n2"), at(1, term(1, "n1")), Vec::new(), 1));
    assert!(fatal(&effects).is_some_and(|what| what.contains("two leaders")), "{effects:?}");
}

#[test]
fn who_does_not_remember_neither_promises_nor_stands() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), false);
    assert_eq!(granted(&node.hear("n2", prepare(2, "n2"))), Some(false));
    for _ in 0..100 {
        let effects = node.pass(100);
        let stands = effects.iter().any(|e| matches!(e, Effect::Send(_, Message::PreVote(_))));
        assert!(!stands, "it must not stand");
    }
    let reborn = Change::Reborn { id: id("n1"), incarnation: NEXT_LIFE };
    let named = configuration().changed(&reborn).expect("a change");
    let entry = Entry {
        kind: EntryKind::Config,
        body: named.encode().into(),
        ..Entry::clone(&entry(2, term(2, "n2")))
    };
    node.hear("n2", append(term(2, "n2"), at(1, term(1, "n1")), vec![Arc::new(entry)], 1));
    assert!(node.replica.counts() && !node.replica.may_stand(), "named, it learns and may promise");
}

/// Storm 72 of the KV came to rest like this: two stood with one number, each refused by the other,
/// and both gave up before the third had answered, again and again.
#[test]
fn a_candidate_goes_on_while_the_others_can_make_a_quorum() {
    let stand = || {
        let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
        node.hear("n2", heartbeat());
        node.hear("n3", heartbeat());
        node.pass(10);
        let reply = PreVoteReply { number: 2, granted: true, seen: 1, stands: false };
        node.hear("n2", Message::PreVoteReply(reply));
        node.written();
        node
    };
    let answer = |granted| {
        let (term, last) = (term(2, "n1"), at(1, term(1, "n1")));
        Message::Promise(Promise { term, granted, seen: 2, last, founding: None })
    };
    let mut node = stand();
    node.hear("n3", answer(false));
    node.hear("n2", answer(true));
    assert!(node.replica.role_view().leads(), "n2's promise is enough");
    let mut node = stand();
    node.hear("n3", answer(false));
    node.hear("n2", answer(false));
    node.hear("n2", answer(true));
    assert!(!node.replica.role_view().leads(), "without a chance it has given up");
}

#[test]
fn a_leader_changes_one_thing_at_a_time_after_its_own_term_has_committed() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
    let drop = |name: &str| Change::Drop(BTreeSet::from([id(name)]));
    assert_eq!(node.replica.change(&drop("n3")), Err(ChangeRefused::NotLeader));
    node.elect(at(1, term(1, "n1")));
    node.written();
    assert_eq!(node.replica.change(&drop("n3")), Err(ChangeRefused::UnderWay), "nothing of term 2");
    let appended = |lsn| Message::Appended(Appended { term: term(2, "n1"), result: Ok(Lsn(lsn)) });
    node.hear("n2", appended(2));
    assert_eq!(node.replica.change(&drop("n3")), Ok(Lsn(3)));
    let again = Change::Return(id("n3"));
    assert_eq!(node.replica.change(&again), Err(ChangeRefused::UnderWay), "one at a time");
    node.pass(1);
    node.written();
    assert_eq!(
        node.replica.committed(),
        Lsn(2),
        "n1 alone is a quorum of the pair, not of the three"
    );
    node.hear("n2", appended(3));
    assert_eq!(node.replica.committed(), Lsn(3));
    assert_eq!(node.replica.change(&again), Ok(Lsn(4)));
}

#[test]
fn a_follower_commits_only_as_far_as_its_log_is_known_to_be_the_leaders() {
    let log = [term(1, "n1"), term(1, "n1"), term(1, "n1")];
    let mut node = Node::new("n3", &log, HardState::default(), true);
    node.hear("n2", append(term(2, "n2"), at(2, term(1, "n1")), Vec::new(), 3));
    assert_eq!(node.replica.committed(), Lsn(2), "entry 3 here may differ from the leader's");
}

#[test]
fn a_read_index_is_confirmed_by_a_round_that_was_sent_after_the_question() {
    let mut node = Node::new("n1", &[term(1, "n1")], HardState::default(), true);
    node.elect(Position { term: Some(term(1, "n1")), lsn: Lsn(1) });
    node.written();
    assert_eq!(node.replica.ask_read_index(node.now), None, "nothing of its term is committed");
    let stored = Appended { term: term(2, "n1"), result: Ok(Lsn(2)) };
    node.hear("n2", Message::Appended(stored));
    assert_eq!(node.replica.released(), Lsn(2));

    let follows = |sent_at, follows| {
        let term = Some(term(2, "n1"));
        Message::HeartbeatReply(HeartbeatReply { term, sent_at, follows })
    };
    node.pass(200);
    let before = node.now;
    node.pass(10);
    let asked_at = node.now;
    let ticket = node.replica.ask_read_index(asked_at).expect("it leads");
    let sent = node.replica.take_effects(asked_at);
    let beats = |effect: &&Effect| matches!(effect, Effect::Send(_, Message::Heartbeat(_)));
    assert_eq!(sent.iter().filter(beats).count(), 2, "it asks at once");
    node.hear("n2", follows(before, true));
    assert_eq!(node.replica.take_read_answers(), [], "that was sent before the question");
    node.hear("n2", follows(asked_at, false));
    assert_eq!(node.replica.take_read_answers(), [], "n2 follows another");
    node.hear("n2", follows(asked_at, true));
    assert_eq!(node.replica.take_read_answers(), [(ticket, Some(Lsn(2)))]);

    node.pass(10);
    let ticket = node.replica.ask_read_index(node.now).expect("it leads");
    node.hear(
        "n3",
        Message::HeartbeatReply(HeartbeatReply {
            term: Some(term(3, "n3")),
            sent_at: node.now,
            follows: false,
        }),
    );
    assert_eq!(node.replica.take_read_answers(), [(ticket, None)], "another leads now");
    assert_eq!(node.replica.ask_read_index(node.now), None);
}
