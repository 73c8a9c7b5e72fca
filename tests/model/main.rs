//! A model of the rules by which the cluster keeps its promises: who may lead, what may be released, who
//! may go on alone, and whose history wins when two meet. It does not use the library; `rules.rs` is
//! what the library's decisions are to agree with.
//!
//! ```text
//!   scopes ──▶ walk (seeds, weights) ──▶ step::take ──▶ invariant::check ──▶ heal ──▶ shrink, explain
//!     what      or search (stateright)    one atomic      every state         every     a counter-example
//!     may                                 step, by rules  and its history     walk      that a human reads
//! ```
//!
//! # What a step is
//!
//! Messages are not modelled as such. A step is what one message or one answer brings about, at once:
//! an append that reaches memory, or the disk, or whose answer comes back (`Depth`); a commit index
//! told, with or without its record heard of; an election with the promises of whoever was reached, or
//! one that stops there. What a leader knows of others is kept apart from what is so (`Ack`), and may be
//! old: a leader may act on answers of a node that has long gone elsewhere. Loss is a step that does not
//! happen, delay one that happens later. A message that arrives after its receiver has promised to
//! another is refused in the product; one that arrives before that could as well have been at once.
//! Partitions are a choice: a step names the nodes that are reached, any set of them. In scopes without
//! partitions it is everyone who runs.
//!
//! Time is not modelled. A detector may err at will (under partitions), and a lease ends when the model
//! says so, but the grants that it rests on bind for as long as it may be believed: that is what the
//! time-outs and their inequalities must bring about. A pause is one that the node noticed; one that it
//! did not is the same as not being chosen for a while.
//!
//! Disks: a crash loses what was not durable. A rollback cuts the log of a stopped node, or empties it,
//! and the node knows (`identity` watches over that): another incarnation. Bytes that come back wrong,
//! and a disk that is restored to a *longer* other history, are not modelled.
//!
//! # What is checked
//!
//! In every state: an OK stays on the disk of every member that was active when it was given and kept
//! its disk, in its log, or (if the OK was forced) in its quarantine, never in both; where nodes only
//! crash, no OK goes to quarantine at all; nodes of one lineage agree on what is committed, and a leader
//! holds all that older terms committed; one leader a term; no read by lease misses an OK; no merge is
//! left undecided; no suffix goes to quarantine with a hole.
//!
//! After every walk, and in every state of the searches, `heal` brings everyone up and plays the cluster
//! by its own steps. It must come to one leader that commits, everyone a member, all forks ratified,
//! every promised OK in that history or (forced) in quarantine, none in both. Where disks were lost it
//! may end with `NeedsOperator`, and rarely where a node lost two merges in a row: see below.
//!
//! Each rule is broken on purpose, one at a time (`Flaw`), in the same scopes, and must be found out
//! (`cases`); three that need more steps than walks of a minute reach are written out (`directed`), and
//! searched for in the long form: `tests/run.sh long model`.
//!
//! # What is not modelled
//!
//! Names and addresses, roles but witness, `never_leader`, `promote` and hand-over (an election at any
//! time covers both), back-off, bytes of entries, `min_active`, `promote --force`, exactly-once,
//! databases and their rewinding; more than four nodes. An operator forgets only what is gone.
//!
//! # What the model taught
//!
//! These are rules because the model broke what stood before; the flaw in parentheses is the old state,
//! with the steps of its shortest counter-example so far. docs/adr/0009 has the reasons.
//!
//! 1. A node does not force while it reaches another history that it must join or merge with, nor past a
//!    member with a strict prefix of its own (`ForcePastJoiner`, 10).
//! 2. A fork entry is on the forcer's disk before anyone sees it (`ForkSeenBeforeDurable`, 16).
//! 3. The loser of a merge enters the winner's lineage in the write that cuts it off
//!    (`LoserJoinsLater`, 14).
//! 4. A node that lost a merge enters the next other lineage, by losing again or by joining, under another
//!    incarnation, unless all its log is ratified by then; the disk stays the same, so it still counts as
//!    joined for ratification (`ReturnsUnderOldIncarnation`, 12).
//! 5. A configuration that was pending at a fork claims nothing once the fork is committed; only what
//!    was committed before it does (`ForkMakesClaims`, 17: both sides claim, and nobody forgot a node).
//! 6. A log that no longer holds a fork entry takes as committed only what was so before the fork
//!    (`LostForkCommits`, 11).
//! 7. An entry that history takes back leaves the quarantine (`QuarantineKept`, 6).
//! 8. Nothing is trimmed under an unratified fork (`TrimsForks`, 8), nor in a rolled-back log that is
//!    not re-admitted (`RebuiltTrims`, 19).
//! 9. A tie is counted at each commit, with gateway and peers as they are then (`TieBrokenForGood`, 14).
//! 10. A lease holds while its granters are a quorum of what is in force at the read, not at the grant
//!     (`LeaseOutlivesConfiguration`, 17).
//! 11. A candidate takes a snapshot from a promiser, if entries it lacks were trimmed there
//!     (`CandidateTakesNoSnapshot`, 15: a majority stands still for good).
//!
//! Seen and left as it is: a learner that was not told yet what is committed may lose to a stale fork
//! and take the entries back later, so an OK can be in a *learner's* quarantine for a while. With a
//! witness in a cluster of even size, the half with the lowest ID goes on without the witness while the
//! other half forces with it; asking for the witness's promise in ties, too, would prevent that. A node
//! that is back under another incarnation cannot vote under its old name; if the only other member is cold,
//! an operator must help (11 steps; one walk in some thousands with partitions). That a leader changes the
//! configuration only after a commit of its own term was not seen to be needed (20 M steps without it, four
//! nodes, `majority`), since elections count all configurations in force; it stays, for what it says of logs.
#![allow(missing_docs)] // a test binary: nobody links against it

mod cases;
mod directed;
mod disk;
mod election;
mod fault;
mod flaws;
mod heal;
mod invariant;
mod leader;
mod merging;
mod rules;
mod scopes;
mod search;
mod shrink;
mod state;
mod step;
mod walk;

use std::{
    fmt,
    time::{Duration, Instant},
};

use cases::{CASES, Case, DEEP_CASES};
use directed::DIRECTED;
use flaws::Flaw;
use heal::Healed;
use invariant::Violation;
use rules::Policy;
use scopes::{SCOPES, SEARCHES};
use search::Search;
use shrink::{Found, explain, replay, shrink};
use state::State;
use stateright::{Checker, Model};
use step::{Scope, Step};
use walk::{WEIGHTS, Weights, walk};

/// How long one walk is.
const WALK_LENGTH: usize = 60;
/// Steps of each scope in the default run.
const SCOPE_STEPS: u64 = 1_000_000;
/// Steps until a flaw must have been found.
const FLAW_STEPS: u64 = 2_000_000;
/// Walks of each scope in a round of the long form.
const ROUND_SEEDS: u64 = 20_000;
/// Steps after that, for a shorter counter-example.
const MORE_STEPS: u64 = 100_000;
/// Of a flaw's counter-examples so many are shrunk, and the shortest is told.
const SHRUNK: usize = 4;

/// What a number of walks came to.
#[derive(Default)]
struct Tally {
    walks: u64,
    steps: u64,
    /// Walks that ended where memory was lost and only an operator goes on.
    operator: u64,
    /// Walks with an OK given unforced, given in a fork, a ratified fork, something in quarantine.
    seen: [u64; 4],
    found: Vec<(Vec<Step>, Found)>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { walks, steps, operator, seen, .. } = self;
        write!(
            f,
            "{steps} steps in {walks} walks, each healed, {operator} by an operator; walks with "
        )?;
        let [unforced, forced, ratified, quarantined] = seen;
        write!(
            f,
            "OKs {unforced}, forced OKs {forced}, ratified forks {ratified}, quarantines {quarantined}"
        )
    }
}

impl Tally {
    /// Walks from a seed on, until `enough` says so.
    fn walk(scope: &Scope, weights: &Weights, seed: u64, enough: impl Fn(&Self) -> bool) -> Self {
        let mut tally = Self::default();
        while !enough(&tally) {
            let walk = walk(scope, seed + tally.walks, WALK_LENGTH, weights);
            tally.walks += 1;
            tally.steps += walk.steps.len() as u64;
            tally.operator += u64::from(walk.healed == Some(Healed::NeedsOperator));
            tally.see(&walk.end);
            tally.found.extend(walk.found.map(|found| (walk.steps, found)));
        }
        tally
    }

    fn see(&mut self, end: &State) {
        let seen = [
            end.given.iter().any(|g| g.ok && !g.forced),
            end.given.iter().any(|g| g.ok && g.forced),
            end.node.iter().any(|n| n.ratified > 0),
            end.node.iter().any(|n| n.quarantine != 0),
        ];
        self.seen.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += u64::from(seen));
    }

    fn add(&mut self, other: Self) {
        self.walks += other.walks;
        self.steps += other.steps;
        self.operator += other.operator;
        self.seen.iter_mut().zip(other.seen).for_each(|(sum, seen)| *sum += seen);
    }

    fn assert_clean(&self, name: &str, scope: &Scope) {
        if let Some((steps, found)) = self.found.first() {
            let short = shrink(scope, steps, *found);
            panic!("{name}: {found:?} after {} steps:\n{}", short.len(), explain(scope, &short));
        }
        // Without lost disks that is for a second loss in a merge, and rare.
        let rare = self.operator * 300 < self.walks.max(3_000);
        assert!(rare || scope.rollbacks_max > 0, "{name}: {self}");
        // A model in which nothing happens keeps every promise.
        let forks = scope.policy == Policy::Survivor && !scope.witness_stays;
        let happened = &self.seen[..if forks { 3 } else { 1 }];
        assert!(happened.iter().all(|walks| *walks > 0), "{name}: {self}");
    }
}

#[test]
fn the_rules_hold_on_random_walks() {
    let mut total = 0;
    for (name, scope) in SCOPES {
        let began = Instant::now();
        let enough = |t: &Tally| t.steps >= SCOPE_STEPS || !t.found.is_empty();
        let tally = Tally::walk(&scope, &WEIGHTS, 0, enough);
        tally.assert_clean(name, &scope);
        println!("{name}: {tally}, {:.1?}", began.elapsed());
        total += tally.steps;
    }
    println!("{total} steps of at most {WALK_LENGTH} a walk");
}

#[test]
fn the_rules_hold_breadth_first() {
    for (name, scope, states) in SEARCHES {
        search(name, scope, states);
    }
}

/// Every state of a scope, or the first so many; each is healed.
fn search(name: &str, scope: Scope, states: Option<usize>) {
    let began = Instant::now();
    let builder = Search { scope }.checker();
    let builder = states.into_iter().fold(builder, |b, states| b.target_state_count(states));
    let checker = builder.spawn_bfs().join();
    let (generated, unique) = (checker.state_count(), checker.unique_state_count());
    let all = if states.is_none_or(|target| generated < target) { "all" } else { "the first" };
    println!(
        "{name}: {all} {unique} states by {generated} steps, depth {}, each healed, {:.1?}",
        checker.max_depth(),
        began.elapsed()
    );
    checker.assert_properties();
}

/// The shortest counter-example of a flaw that walks from its seed find within so many steps.
fn counter_example(case: &Case, steps_max: u64) -> Option<(Vec<Step>, Violation)> {
    let counts = |found: &Found| {
        found.0 != Violation::NotHealed || case.flaw == Flaw::CandidateTakesNoSnapshot
    };
    let mut first = None;
    let mut tally = Tally::default();
    let mut short: Option<(Vec<Step>, Violation)> = None;
    let mut shrunk = 0;
    while tally.steps < first.map_or(steps_max, |first: u64| first + MORE_STEPS) {
        let seed = case.seed + tally.walks;
        let mut one = Tally::walk(&case.scope, &case.weights, seed, |t| t.walks == 1);
        let found = one.found.pop().filter(|(_, found)| counts(found));
        tally.add(one);
        let Some((steps, found)) = found else { continue };
        first = first.or(Some(tally.steps));
        let steps = shrink(&case.scope, &steps, found);
        if short.as_ref().is_none_or(|(shortest, _)| steps.len() < shortest.len()) {
            short = Some((steps, found.0));
        }
        shrunk += 1;
        if shrunk == SHRUNK {
            break;
        }
    }
    let (steps, violation) = short?;
    println!(
        "{:?}: {violation:?} in {} steps, found after {}",
        case.flaw,
        steps.len(),
        first.unwrap_or_default()
    );
    Some((steps, violation))
}

#[test]
fn every_broken_rule_is_found() {
    let missed: Vec<_> = CASES
        .iter()
        .filter(|case| counter_example(case, FLAW_STEPS).is_none())
        .map(|case| case.flaw)
        .collect();
    assert!(missed.is_empty(), "not found within {FLAW_STEPS} steps: {missed:?}");
}

#[test]
fn deep_counter_examples_fail_by_their_flaw_alone() {
    for directed in DIRECTED {
        let flawed = Scope { flaw: Some(directed.flaw), ..directed.scope };
        let text = explain(&flawed, directed.steps);
        let (steps, found) = replay(&flawed, directed.steps);
        let expected = (directed.violation, false);
        assert_eq!(found, Some(expected), "{:?}:\n{text}", directed.flaw);
        let short = shrink(&flawed, &steps, expected);
        println!("{:?}: {:?} in {} steps", directed.flaw, directed.violation, short.len());
        let (_, found) = replay(&directed.scope, directed.steps);
        assert_eq!(found, None, "without {:?}:\n{text}", directed.flaw);
    }
}

/// The same for hours, from other seeds than the default run's, and the deep flaws searched for.
#[test]
#[ignore = "hours: 10^9 steps, or as WOLFSCALE_MODEL_STEPS or WOLFSCALE_MODEL_SECONDS say"]
fn long_walks() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let steps_max = number("WOLFSCALE_MODEL_STEPS").unwrap_or(1_000_000_000);
    let seconds_max = number("WOLFSCALE_MODEL_SECONDS").unwrap_or(u64::MAX);
    let mut seed = number("WOLFSCALE_MODEL_SEED").unwrap_or(1 << 32);
    let began = Instant::now();
    let mut sums: [Tally; SCOPES.len()] = std::array::from_fn(|_| Tally::default());
    let mut total = 0;
    while total < steps_max && began.elapsed() < Duration::from_secs(seconds_max) {
        for ((name, scope), sum) in SCOPES.iter().zip(&mut sums) {
            let enough = |t: &Tally| t.walks == ROUND_SEEDS || !t.found.is_empty();
            let tally = Tally::walk(scope, &WEIGHTS, seed, enough);
            tally.assert_clean(name, scope);
            total += tally.steps;
            sum.add(tally);
        }
        seed += ROUND_SEEDS;
        println!("{total} steps in {:.0?}", began.elapsed());
    }
    for ((name, _), sum) in SCOPES.iter().zip(&sums) {
        println!("{name}: {sum}");
    }
    for case in &DEEP_CASES {
        if counter_example(case, steps_max / 10).is_none() {
            println!("{:?}: not found by walks", case.flaw);
        }
    }
}

/// As breadth-first as memory goes: some 4 GB.
#[test]
#[ignore = "needs 4 GB and some minutes"]
fn long_search() {
    for (name, scope, _) in SEARCHES {
        search(name, scope, Some(8_000_000));
    }
}
