//! The scopes in which the rules are checked: how many nodes, which faults, how far.

use super::{rules::Policy, step::Scope};

/// Three members, everything that is not said otherwise below.
pub const BASE: Scope = Scope {
    nodes: 3,
    founders: 0b111,
    policy: Policy::Survivor,
    witnesses: 0,
    entries_max: 10,
    terms_max: 8,
    operations_max: 5,
    crashes_max: 6,
    rollbacks_max: 0,
    isolations_max: 0,
    partitions: true,
    pauses: true,
    waits: true,
    leases: true,
    trims: true,
    witness_stays: false,
    strict: false,
    flaw: None,
};

/// Nodes die and come back, and nothing else happens: then no OK at all may be lost.
pub const CRASHES: Scope =
    Scope { partitions: false, pauses: false, waits: false, strict: true, ..BASE };
pub const FOUR: Scope = Scope { nodes: 4, founders: 0b1111, ..BASE };
pub const FOUR_CRASHES: Scope = Scope { nodes: 4, founders: 0b1111, ..CRASHES };
pub const MAJORITY: Scope = Scope { policy: Policy::Majority, ..BASE };
pub const ROLLBACKS: Scope = Scope { rollbacks_max: 2, ..BASE };
/// One node of a pair, once, reaches neither the gateway nor its peer.
pub const ISOLATION: Scope =
    Scope { nodes: 2, founders: 0b11, isolations_max: 1, crashes_max: 0, ..CRASHES };
pub const WITNESS: Scope = Scope { witnesses: 0b100, ..BASE };
/// While the configuration keeps its witness, partitions alone send no OK to quarantine.
pub const WITNESS_STAYS: Scope = Scope {
    witness_stays: true,
    strict: true,
    pauses: false,
    waits: false,
    crashes_max: 0,
    ..WITNESS
};
/// Two found the cluster, the third joins as a learner.
pub const GROWTH: Scope = Scope { founders: 0b011, ..BASE };
/// Without what only costs depth.
pub const CALM: Scope =
    Scope { pauses: false, waits: false, trims: false, leases: false, operations_max: 2, ..BASE };

/// Small enough to be searched breadth-first.
pub const TINY: Scope =
    Scope { entries_max: 4, terms_max: 2, operations_max: 1, crashes_max: 1, ..CALM };

/// For breadth-first search: what, how far, and how many states in the default run. With `None` the
/// search is exhaustive.
pub const SEARCHES: [(&str, Scope, Option<usize>); 4] = [
    ("two nodes, 2 terms, 4 entries, 1 crash", Scope { nodes: 2, founders: 0b11, ..TINY }, None),
    (
        "three nodes, majority, 3 terms, 4 entries, 2 crashes",
        Scope { policy: Policy::Majority, terms_max: 3, crashes_max: 2, ..TINY },
        Some(400_000),
    ),
    (
        "three nodes, no partition, 3 terms, 4 entries, 2 crashes",
        Scope { partitions: false, strict: true, terms_max: 3, crashes_max: 2, ..TINY },
        Some(400_000),
    ),
    (
        "three nodes, 3 terms, 4 entries, 2 crashes",
        Scope { terms_max: 3, crashes_max: 2, ..TINY },
        Some(400_000),
    ),
];

pub const SCOPES: [(&str, Scope); 18] = [
    ("two nodes", Scope { nodes: 2, founders: 0b11, ..BASE }),
    ("three nodes", BASE),
    ("three nodes, calm", CALM),
    ("four nodes", FOUR),
    ("three nodes, crashes only", CRASHES),
    ("four nodes, crashes only", FOUR_CRASHES),
    ("three nodes, majority", MAJORITY),
    ("four nodes, majority", Scope { policy: Policy::Majority, ..FOUR }),
    ("one isolation of a pair", ISOLATION),
    ("isolations and crashes", Scope { isolations_max: 5, partitions: false, ..BASE }),
    ("a witness", WITNESS),
    ("a witness with the lowest ID", Scope { witnesses: 0b001, ..BASE }),
    ("a witness of four", Scope { witnesses: 0b1000, ..FOUR }),
    ("a witness that stays", WITNESS_STAYS),
    ("growth from two to three", GROWTH),
    ("growth from two to four", Scope { founders: 0b0011, ..FOUR }),
    ("rollbacks of three", ROLLBACKS),
    ("rollbacks of four", Scope { rollbacks_max: 2, ..FOUR }),
];
