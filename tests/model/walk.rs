//! Seeded random walks. Each walk draws its own appetite for each kind of step, so that some walks are
//! all elections and others all replication; what is drawn and is impossible costs nothing.

use super::{
    heal::{Healed, heal},
    invariant::check,
    shrink::Found,
    state::{Set, State, nodes, only},
    step::{Depth, Scope, Step, take},
};

/// xorshift64*: small, seeded, the same everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(end)) >> 32) as u32
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }
}

/// Kinds of steps, in the order of the weights.
const KINDS: usize = 23;
pub type Weights = [u16; KINDS];

/// How often each kind is drawn, before a walk's own appetite.
pub const WEIGHTS: Weights = [
    // propose, sync, append, commit, tell, release
    6, 4, 30, 14, 14, 10, // remove, add, elect, force, join, merge
    4, 4, 6, 3, 6, 4, // ratify, crash, restart, pause, roll back, isolate
    3, 3, 6, 1, 3, 1, // reconnect, lease, expire, trim, snapshot
    2, 2, 1, 1, 2,
];

/// Steps tried for each step that a walk may take.
const TRIES: usize = 8;

/// What a walk found.
pub struct Walk {
    pub steps: Vec<Step>,
    /// Where it ended, before healing.
    pub end: State,
    pub found: Option<Found>,
    pub healed: Option<Healed>,
}

struct Walker<'a> {
    dice: Dice,
    scope: &'a Scope,
    /// Kinds, each as often as this walk wants it.
    appetite: [u8; APPETITE],
    /// A round of a leader's work that goes well, last step first.
    round: Vec<Step>,
}

const APPETITE: usize = 256;

pub fn walk(scope: &Scope, seed: u64, length: usize, weights: &Weights) -> Walk {
    let mut walker = Walker::new(scope, seed, weights);
    let mut state = State::founded(scope.nodes, scope.founders);
    let mut steps = Vec::with_capacity(length);
    for _ in 0..length * TRIES {
        let step = walker.draw(&state);
        if !take(&mut state, scope, step) {
            continue;
        }
        steps.push(step);
        if let Some(found) = check(&state, scope) {
            return Walk { steps, end: state, found: Some((found, false)), healed: None };
        }
        if steps.len() == length {
            break;
        }
    }
    match heal(&state, scope) {
        Ok(healed) => Walk { steps, end: state, found: None, healed: Some(healed) },
        Err(found) => Walk { steps, end: state, found: Some((found, true)), healed: None },
    }
}

impl<'a> Walker<'a> {
    fn new(scope: &'a Scope, seed: u64, weights: &Weights) -> Self {
        let mut dice = Dice::new(seed);
        let wanted =
            weights.map(|w| u32::from(w) * [0, 1, 1, 2, 2, 3, 5, 8][dice.below(8) as usize]);
        let sum = wanted.iter().sum::<u32>().max(1);
        let mut appetite = [0; APPETITE];
        let (mut kind, mut upto) = (0, wanted[0]);
        for (at, slot) in appetite.iter_mut().enumerate() {
            while at as u32 * sum >= upto * APPETITE as u32 && kind + 1 < KINDS {
                kind += 1;
                upto += wanted[kind];
            }
            *slot = kind as u8;
        }
        Self { dice, scope, appetite, round: Vec::new() }
    }

    /// A leader if there is one.
    fn leader(&self, state: &State, first: u8) -> u8 {
        let nodes = self.scope.nodes;
        (0..nodes).map(|i| (first + i) % nodes).find(|n| state.at(*n).leads).unwrap_or(first)
    }

    fn reach(&mut self, state: &State, of: u8) -> Set {
        let up = state.up() & !state.isolated;
        match (state.isolated & only(of) != 0, self.scope.partitions && self.dice.percent(60)) {
            (true, _) => only(of),
            (false, true) => up & self.dice.below(16) as Set | only(of),
            (false, false) => up | only(of),
        }
    }

    /// What a leader does in quiet times, with whom it reaches: it takes an operation that far.
    fn begin_round(&mut self, leader: u8, with: Set) {
        let peers = || nodes(with & !only(leader));
        self.round.push(Step::Release { leader });
        self.round.extend(peers().map(|to| Step::Tell { leader, to, heard: true }));
        self.round.extend([Step::Commit { leader }, Step::Sync { node: leader }]);
        let append = |to| Step::Append { leader, to, whole: true, depth: Depth::Acked };
        self.round.extend(peers().map(append));
    }

    fn draw(&mut self, state: &State) -> Step {
        if let Some(step) = self.round.pop() {
            return step;
        }
        let bits = self.dice.bits();
        let byte = |at: u32| (bits >> (8 * at)) as u8;
        let one_of = |at: u32| ((u16::from(byte(at)) * u16::from(self.scope.nodes)) >> 8) as u8;
        let kind = self.appetite[byte(7) as usize];
        let (node, to) = (one_of(6), one_of(5));
        let leader = self.leader(state, one_of(4));
        let yes = byte(3) < 180;
        let depth = match byte(2) {
            0..40 => Depth::Buffered,
            40..80 => Depth::Durable,
            _ => Depth::Acked,
        };
        match kind {
            0 => Step::Propose { leader },
            1 => Step::Sync { node },
            2 => Step::Append { leader, to, whole: yes, depth },
            3 => Step::Commit { leader },
            4 => Step::Tell { leader, to, heard: yes },
            5 => {
                if byte(1) < 96 {
                    self.begin_round(leader, self.scope.everyone() & (byte(0) | byte(0) >> 4));
                }
                Step::Release { leader }
            }
            6 => Step::Remove { leader, node },
            7 => Step::Add { leader, node },
            8 => {
                let reach = self.reach(state, node);
                let (waited, vain) = (self.dice.percent(25), self.dice.percent(10));
                Step::Elect { candidate: node, reach, waited: waited && self.scope.waits, vain }
            }
            9 => Step::Force { forcer: node, reach: self.reach(state, node) },
            10 => Step::Join { node, from: to, whole: yes, sync: self.dice.percent(80) },
            11 => Step::Merge { a: node.min(to), b: node.max(to) },
            12 => Step::Ratify { leader, forget: self.dice.percent(40) },
            13 => Step::Crash { node },
            14 => Step::Restart { node },
            15 => Step::Pause { node },
            16 => Step::RollBack { node, end: self.end(state, node) },
            17 => Step::Isolate { node },
            18 => Step::Reconnect { node },
            19 => Step::Lease { leader, reach: self.reach(state, leader) },
            20 => Step::Expire { leader },
            21 => Step::Trim { node },
            _ => Step::Snapshot { leader, to },
        }
    }

    fn end(&mut self, state: &State, node: u8) -> u8 {
        match self.dice.percent(30) {
            true => 0,
            false => self.dice.below(u32::from(state.at(node).durable) + 1) as u8,
        }
    }
}
