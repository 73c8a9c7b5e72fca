//! The model of the cluster's rules.
#![allow(missing_docs)]

mod directed;
mod flaws;
mod heal;
mod invariant;
mod rules;
mod scopes;
mod search;
mod shrink;
mod state;
mod step;
mod walk;

use std::time::{Duration, Instant};

use flaws::Flaw;
use heal::Healed;
use invariant::Violation;
use scopes::{BASE, CALM, CRASHES, GROWTH, ISOLATION, MAJORITY, ROLLBACKS, SCOPES, WITNESS_STAYS};
use search::Search;
use shrink::{Found, replay, shrink};
use state::State;
use stateright::{Checker, Model};
use step::{Scope, Step, take};
use walk::{WEIGHTS, Weights, walk};

/// How long one walk is.
const WALK_LENGTH: usize = 60;

/// What a number of walks came to.
#[derive(Default)]
struct Tally {
    walks: u64,
    steps: u64,
    /// Walks that ended where disks or memories were lost and only an operator goes on.
    operator: u64,
    found: Option<(Vec<Step>, Found)>,
}

fn walks(
    scope: &Scope,
    weights: &Weights,
    seeds: std::ops::Range<u64>,
    steps_max: u64,
    accepted: impl Fn(&Found) -> bool,
) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let walk = walk(scope, seed, WALK_LENGTH, weights);
        tally.walks += 1;
        tally.steps += walk.steps.len() as u64;
        tally.operator += u64::from(walk.healed == Some(Healed::NeedsOperator));
        if let Some(found) = walk.found.filter(&accepted) {
            tally.found = Some((walk.steps, found));
        }
        if tally.found.is_some() || tally.steps >= steps_max {
            break;
        }
    }
    tally
}

/// The steps and what they changed, for whoever has to understand a counter-example.
fn explain(scope: &Scope, steps: &[Step]) -> String {
    let mut state = State::founded(scope.nodes, scope.founders);
    let mut text = String::new();
    for (at, step) in steps.iter().enumerate() {
        let before = state;
        take(&mut state, scope, *step);
        text += &format!("{:3} {step:?}\n", at + 1);
        for (id, n) in state.node.iter().enumerate().filter(|(id, n)| before.node[*id] != **n) {
            text += &format!("      {} {n:?}\n", (b'A' + id as u8) as char);
        }
    }
    text
}

fn assert_clean(name: &str, scope: &Scope, tally: &Tally) {
    if let Some((steps, found)) = &tally.found {
        let short = shrink(scope, steps, *found);
        panic!("{name}: {found:?} after {} steps:\n{}", short.len(), explain(scope, &short));
    }
}

#[test]
fn the_rules_hold_on_random_walks() {
    const STEPS: u64 = 400_000;
    let mut total = 0;
    for (name, scope) in SCOPES {
        let began = Instant::now();
        let tally = walks(&scope, &WEIGHTS, 0..u64::MAX, STEPS, |_| true);
        assert_clean(name, &scope, &tally);
        let Tally { walks, steps, operator, .. } = tally;
        println!(
            "{name}: {steps} steps in {walks} walks, each healed, {operator} by an operator, {:.1?}",
            began.elapsed()
        );
        let lossy = scope.rollbacks_max > 0;
        assert!(lossy || operator * 500 < walks, "{name}: {operator} of {walks} need an operator");
        total += steps;
    }
    println!("{total} steps");
}

/// Flaws, where they show, and what a walk likes to do to find them.
const FLAWS: &[(Flaw, Scope, Weights)] = &[
    (Flaw::LowestWithoutQuorum, BASE, WEIGHTS),
    (Flaw::NewestConfigurationOnly, BASE, WEIGHTS),
    (Flaw::OneSurvivor, CRASHES, WEIGHTS),
    (Flaw::ForceWithoutLineages, BASE, WEIGHTS),
    (Flaw::UnforcedWins, CRASHES, WEIGHTS),
    (Flaw::MoreMembersWin, CRASHES, WEIGHTS),
    (Flaw::RatifiedByQuorum, BASE, WEIGHTS),
    (Flaw::ReleaseAheadOfRecord, BASE, WEIGHTS),
    (Flaw::ColdForbidsForceOnly, CRASHES, WEIGHTS),
    (Flaw::ApplyAtCommitted, BASE, WEIGHTS),
    (Flaw::RebuiltVotes, ROLLBACKS, WEIGHTS),
    (Flaw::AckBeforeDurable, BASE, WEIGHTS),
    (Flaw::LeaseIgnored, MAJORITY, WEIGHTS),
    (Flaw::GatewayIgnored, ISOLATION, WEIGHTS),
    (Flaw::TrimsForks, BASE, WEIGHTS),
    (Flaw::WitnessIgnored, WITNESS_STAYS, WEIGHTS),
    (Flaw::ChangeBeforeOwnCommit, BASE, WEIGHTS),
    (Flaw::ForcePastJoiner, Scope { nodes: 4, founders: 15, ..CRASHES }, WEIGHTS),
    (Flaw::LoserJoinsLater, BASE, WEIGHTS),
    (Flaw::SecondLossKeepsIncarnation, BASE, WEIGHTS),
    (Flaw::LostForkCommits, Scope { rollbacks_max: 1, ..CALM }, CLAIMING),
    (Flaw::QuarantineKept, BASE, WEIGHTS),
    (
        Flaw::LeaseOutlivesConfiguration,
        Scope { leases: true, policy: rules::Policy::Majority, ..CALM },
        LEASING,
    ),
    (Flaw::CandidateTakesNoSnapshot, MAJORITY, WEIGHTS),
    (Flaw::RebuiltTrims, Scope { rollbacks_max: 1, trims: true, ..CALM }, TRIMMING),
];

/// Flaws whose counter-examples walks find too seldom for every run; `directed` has them written out.
const DEEP_FLAWS: &[(Flaw, Scope, Weights)] = &[
    (Flaw::ForceFromPendingGrowth, Scope { crashes_max: 2, founders: 3, ..CALM }, GROWING),
    (Flaw::RebuiltClaims, Scope { rollbacks_max: 1, crashes_max: 2, ..CALM }, CLAIMING),
    (Flaw::ForkSeenBeforeDurable, Scope { crashes_max: 4, waits: true, ..CALM }, FORKING),
];

/// Adds, forces and crashes more.
const GROWING: Weights = [6, 3, 40, 14, 6, 10, 1, 8, 6, 4, 1, 4, 1, 4, 6, 0, 0, 0, 0, 0, 0, 0, 0];
const FORKING: Weights = [6, 6, 40, 14, 6, 8, 4, 1, 6, 5, 8, 6, 1, 6, 8, 0, 0, 0, 0, 0, 0, 0, 0];
const LEASING: Weights = [6, 4, 40, 14, 6, 10, 5, 1, 5, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 6, 0, 0, 0];
const TRIMMING: Weights = [6, 6, 40, 14, 6, 10, 6, 1, 4, 4, 1, 6, 1, 4, 6, 0, 6, 0, 0, 0, 0, 8, 6];
/// Merges, ratifies and rolls back more.
const CLAIMING: Weights = [4, 6, 40, 14, 4, 4, 6, 1, 4, 4, 2, 8, 10, 4, 6, 0, 6, 0, 0, 0, 0, 0, 0];

#[test]
fn every_broken_rule_is_found() {
    let steps_max: u64 =
        std::env::var("STEPS").ok().and_then(|s| s.parse().ok()).unwrap_or(4_000_000);
    let mut missing = vec![];
    for (flaw, scope, weights) in FLAWS {
        if !format!("{flaw:?}").contains(&std::env::var("ONLY").unwrap_or_default()) {
            continue;
        }
        let scope = Scope { flaw: Some(*flaw), ..*scope };
        let began = Instant::now();
        let tally = walks(&scope, weights, 0..u64::MAX, steps_max, |(v, _)| {
            *v != Violation::NotHealed || *flaw == Flaw::CandidateTakesNoSnapshot
        });
        match tally.found {
            Some((steps, found)) => {
                let short = shrink(&scope, &steps, found);
                println!(
                    "{flaw:?}: {found:?} after {} steps, shrunk to {} {:?}",
                    tally.steps,
                    short.len(),
                    began.elapsed()
                );
            }
            None => {
                println!("{flaw:?}: NOT FOUND {:?}", began.elapsed());
                missing.push(flaw)
            }
        }
    }
    assert!(missing.is_empty(), "not found: {missing:?}");
}

#[test]
fn breadth_first() {
    let target: usize = std::env::var("STATES").ok().and_then(|s| s.parse().ok()).unwrap_or(60_000);
    let tiny = Scope { entries_max: 4, terms_max: 2, operations_max: 1, crashes_max: 1, ..CALM };
    for (name, scope) in [
        ("two nodes", Scope { nodes: 2, founders: 3, ..tiny }),
        ("three nodes, majority", Scope { policy: rules::Policy::Majority, ..tiny }),
        (
            "three nodes, crashes",
            Scope { crashes_max: 2, terms_max: 3, strict: true, partitions: false, ..tiny },
        ),
        ("three nodes", Scope { terms_max: 3, crashes_max: 2, ..tiny }),
    ] {
        let began = Instant::now();
        let checker =
            Search { scope, heals: true }.checker().target_state_count(target).spawn_bfs().join();
        println!(
            "{name}: {} unique {} max depth {} done {} {:?}",
            checker.state_count(),
            checker.unique_state_count(),
            checker.max_depth(),
            checker.is_done(),
            began.elapsed()
        );
        checker.assert_properties();
    }
}

#[test]
fn deep_counter_examples_fail_by_their_flaw_alone() {
    for directed in directed::DIRECTED {
        let flawed = Scope { flaw: Some(directed.flaw), ..directed.scope };
        let (steps, found) = replay(&flawed, directed.steps);
        let text = explain(&flawed, directed.steps);
        assert_eq!(found, Some((directed.violation, false)), "{:?}:\n{text}", directed.flaw);
        let short = shrink(&flawed, &steps, (directed.violation, false));
        println!("{:?}: {:?} in {} steps", directed.flaw, directed.violation, short.len());
        let (_, found) = replay(&directed.scope, directed.steps);
        assert_eq!(found, None, "without {:?}:\n{text}", directed.flaw);
    }
}
