//! Where each flaw shows: the scope, what a walk likes to do there, and the seed from which the default
//! run finds it soon. (Walks from seed 0 find them too; the slowest takes five million steps.)

use super::{
    flaws::Flaw,
    rules::Policy,
    scopes::{
        BASE, CALM, CRASHES, FOUR, FOUR_CRASHES, ISOLATION, MAJORITY, ROLLBACKS, WITNESS_STAYS,
    },
    step::Scope,
    walk::{WEIGHTS, Weights},
};

pub struct Case {
    pub flaw: Flaw,
    pub scope: Scope,
    pub weights: Weights,
    pub seed: u64,
}

const fn case(flaw: Flaw, scope: Scope) -> Case {
    Case { flaw, scope: Scope { flaw: Some(flaw), ..scope }, weights: WEIGHTS, seed: 0 }
}

const fn guided(flaw: Flaw, scope: Scope, weights: Weights, seed: u64) -> Case {
    Case { flaw, scope: Scope { flaw: Some(flaw), ..scope }, weights, seed }
}

pub const CASES: [Case; 26] = [
    guided(Flaw::ForkMakesClaims, FOUR, WEIGHTS, (1 << 32) + 40_000),
    case(Flaw::TieBrokenForGood, ISOLATION),
    case(Flaw::LowestWithoutQuorum, BASE),
    case(Flaw::NewestConfigurationOnly, BASE),
    case(Flaw::OneSurvivor, CRASHES),
    case(Flaw::ForceWithoutLineages, BASE),
    case(Flaw::UnforcedWins, CRASHES),
    case(Flaw::MoreMembersWin, CRASHES),
    case(Flaw::RatifiedByQuorum, BASE),
    case(Flaw::ReleaseAheadOfRecord, BASE),
    case(Flaw::ColdForbidsForceOnly, CRASHES),
    case(Flaw::ApplyAtCommitted, BASE),
    case(Flaw::RebuiltVotes, ROLLBACKS),
    case(Flaw::AckBeforeDurable, BASE),
    guided(Flaw::LeaseIgnored, MAJORITY, WEIGHTS, 15_800),
    case(Flaw::GatewayIgnored, ISOLATION),
    case(Flaw::TrimsForks, BASE),
    case(Flaw::WitnessIgnored, WITNESS_STAYS),
    case(Flaw::ForcePastJoiner, FOUR_CRASHES),
    guided(Flaw::LoserJoinsLater, BASE, WEIGHTS, 78_800),
    guided(Flaw::ReturnsUnderOldIncarnation, BASE, WEIGHTS, 11_600),
    guided(Flaw::LostForkCommits, Scope { rollbacks_max: 1, ..CALM }, CLAIMING, 66_800),
    case(Flaw::QuarantineKept, BASE),
    guided(
        Flaw::LeaseOutlivesConfiguration,
        Scope { leases: true, policy: Policy::Majority, ..CALM },
        LEASING,
        98_600,
    ),
    guided(
        Flaw::CandidateTakesNoSnapshot,
        Scope { policy: Policy::Majority, trims: true, ..CALM },
        TRIMMING,
        0,
    ),
    guided(Flaw::RebuiltTrims, Scope { rollbacks_max: 1, trims: true, ..CALM }, TRIMMING, 159_100),
];

/// Too deep for walks of a minute: `directed` has their counter-examples written out, and the long form
/// searches for them as for the others.
pub const DEEP_CASES: [Case; 3] = [
    guided(Flaw::ForceFromPendingGrowth, Scope { founders: 0b011, ..CALM }, GROWING, 0),
    guided(Flaw::RebuiltClaims, Scope { rollbacks_max: 1, ..CALM }, CLAIMING, 0),
    guided(Flaw::ForkSeenBeforeDurable, Scope { waits: true, ..CALM }, FORKING, 0),
];

// The order is that of `WEIGHTS`.
const GROWING: Weights = [6, 3, 40, 14, 6, 10, 1, 8, 6, 4, 1, 4, 1, 4, 6, 0, 0, 0, 0, 0, 0, 0, 0];
const FORKING: Weights = [6, 6, 40, 14, 6, 8, 4, 1, 6, 5, 8, 6, 1, 6, 8, 0, 0, 0, 0, 0, 0, 0, 0];
const LEASING: Weights = [6, 4, 40, 14, 6, 10, 5, 1, 5, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 6, 0, 0, 0];
const TRIMMING: Weights = [6, 6, 40, 14, 6, 10, 6, 1, 4, 4, 1, 6, 1, 4, 6, 0, 6, 0, 0, 0, 0, 8, 6];
const CLAIMING: Weights = [4, 6, 40, 14, 4, 4, 6, 1, 4, 4, 2, 8, 10, 4, 6, 0, 6, 0, 0, 0, 0, 0, 0];
