//! The rules as pure predicates: the reference for whoever implements them.
//!
//! A log is a slice of entries, LSN 1 first. Commit indices, recorded and ratified are LSNs; 0 is none.
//! "There", "durable" and "recorded" always speak of one life of a node's store: a member counts only
//! under the incarnation that the configuration names.

use super::state::{Configuration, Entry, Incarnation, Kind, Set, Standing, Term, nodes, only};

/// How a cluster fails over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    Majority,
    Survivor,
}

// ---- Logs ------------------------------------------------------------------------------------------

/// The last position, as elections compare it: who has the greater one holds all that was committed.
pub fn position(log: &[Entry]) -> (Term, usize) {
    (log.last().map_or(Term::default(), |e| e.term), log.len())
}

/// The LSN up to which two histories are one (chain hashes and the table of terms tell it).
pub fn common(a: &[Entry], b: &[Entry]) -> u8 {
    a.iter().zip(b).take_while(|(x, y)| x == y).count() as u8
}

/// The LSN of the newest fork entry.
pub fn newest_fork(log: &[Entry]) -> u8 {
    log.iter().rposition(Entry::is_fork).map_or(0, |at| at as u8 + 1)
}

/// The first fork after `from`.
pub fn first_fork_after(log: &[Entry], from: u8) -> Option<u8> {
    (from..log.len() as u8).find(|at| log[*at as usize].is_fork()).map(|at| at + 1)
}

/// The forks in a log. Equal newest forks have equal histories, so the newest one names them all.
pub fn lineage(log: &[Entry]) -> Option<(u8, Entry)> {
    let newest = newest_fork(log);
    (newest > 0).then(|| (newest, log[newest as usize - 1]))
}

/// How the log of a node stands to another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// Promises, appends, adoption and higher terms pass.
    SameLineage,
    /// A strict prefix of it: joins by copying.
    Joins,
    /// The other is a strict prefix of this one.
    JoinedBy,
    /// Anything else.
    Merges,
}

pub fn relation(own: &[Entry], other: &[Entry]) -> Relation {
    if lineage(own) == lineage(other) {
        return Relation::SameLineage;
    }
    let common = common(own, other) as usize;
    if common == own.len() {
        Relation::Joins
    } else if common == other.len() {
        Relation::JoinedBy
    } else {
        Relation::Merges
    }
}

// ---- Configurations and quorums --------------------------------------------------------------------

/// The newest configuration up to `end`, and its LSN. A log that names nobody has (0, nobody).
pub fn newest_configuration(log: &[Entry], end: u8) -> (u8, Configuration) {
    let end = (end as usize).min(log.len());
    let found = log[..end].iter().enumerate().rev();
    let mut found = found.filter_map(|(at, e)| Some((at as u8 + 1, e.configuration()?)));
    found.next().unwrap_or_default()
}

/// The configurations that count: from the last committed one to the log's end; a fork entry replaces
/// all before it as soon as it is appended.
pub fn configurations_in_force(
    log: &[Entry],
    committed: u8,
) -> impl Iterator<Item = (u8, Configuration)> {
    let first = newest_configuration(log, committed).0.max(newest_fork(log)).max(1);
    let from = (first as usize - 1).min(log.len());
    let later = log[from..].iter().enumerate();
    later.filter_map(move |(at, e)| Some((first + at as u8, e.configuration()?)))
}

/// Everyone whom a configuration in force names.
pub fn members_in_force(log: &[Entry], committed: u8) -> Set {
    configurations_in_force(log, committed).fold(0, |set, (_, c)| set | c.members)
}

/// Dynamic linear voting: more than half, or exactly half with the lowest ID that may lead.
/// `present` are members under the incarnation that `configuration` names; witnesses may not lead. Who
/// does not reach the gateway, or reaches a peer that follows another leader, breaks no tie: it passes
/// all nodes as witnesses, in elections and at each commit.
pub fn is_quorum(configuration: Configuration, present: Set, witnesses: Set) -> bool {
    let members = configuration.members;
    let there = 2 * (present & members).count_ones();
    let count = members.count_ones();
    let leaders = members & !witnesses;
    let lowest = leaders & leaders.wrapping_neg();
    count > 0 && (there > count || (there == count && present & lowest != 0))
}

/// Whether `present` decides for this log: a quorum of every configuration in force.
pub fn is_quorum_of_each(
    log: &[Entry],
    committed: u8,
    present: impl Fn(Configuration) -> Set,
    witnesses: Set,
) -> bool {
    let mut any = false;
    configurations_in_force(log, committed).all(|(_, c)| {
        any = true;
        is_quorum(c, present(c), witnesses)
    }) && any
}

/// Whether a leader may append another configuration: one of its own term is committed, and none is
/// outstanding.
pub fn may_change_configuration(log: &[Entry], term: Term, committed: u8) -> bool {
    let own = committed > 0 && log[committed as usize - 1].term == term;
    own && newest_configuration(log, u8::MAX).0 <= committed
}

// ---- Commit and release ----------------------------------------------------------------------------

/// The commit index of a leader of `term`. `durable(node, incarnation)` is what it knows to be durable
/// there. A fork entry, and with it all after it, needs every member that it names.
pub fn commit_index(
    log: &[Entry],
    term: Term,
    committed: u8,
    durable: impl Fn(u8, Incarnation) -> u8,
    witnesses: Set,
) -> u8 {
    let holds = |c: Configuration, lsn: u8| {
        nodes(c.members)
            .filter(|n| durable(*n, c.incarnation(*n)) >= lsn)
            .fold(0, |set, n| set | only(n))
    };
    let fork = newest_fork(log);
    let fork_held = fork <= committed || {
        let (_, named) = newest_configuration(log, fork);
        holds(named, fork) == named.members
    };
    let agreed = |lsn: u8| {
        log[lsn as usize - 1].term == term
            && (lsn < fork || fork_held)
            && is_quorum_of_each(log, committed, |c| holds(c, lsn), witnesses)
    };
    (committed + 1..=log.len() as u8).rev().find(|lsn| agreed(*lsn)).unwrap_or(committed)
}

/// Whose disks a release needs under `survivor`: the members of the newest committed configuration
/// and of a pending one. (A pending smaller one adds nobody.)
pub fn release_needs(log: &[Entry], committed: u8) -> (u8, Configuration, Set) {
    let (lsn, newest) = newest_configuration(log, committed);
    let pending = newest_configuration(log, u8::MAX).1.members;
    (lsn, newest, newest.members | pending)
}

/// Up to where a leader may release. `recorded(node, incarnation)` is the newest configuration that
/// it knows to be durably recorded there as committed.
pub fn release_index(
    policy: Policy,
    log: &[Entry],
    committed: u8,
    durable: impl Fn(u8, Incarnation) -> u8,
    recorded: impl Fn(u8, Incarnation) -> u8,
) -> u8 {
    if policy == Policy::Majority {
        return committed;
    }
    let (lsn, newest, needed) = release_needs(log, committed);
    let pending = newest_configuration(log, u8::MAX).1;
    let life = |n: u8| {
        let named = if newest.members & only(n) != 0 { newest } else { pending };
        named.incarnation(n)
    };
    if nodes(needed).any(|n| recorded(n, life(n)) < lsn) {
        return 0;
    }
    nodes(needed).map(|n| durable(n, life(n))).fold(committed, u8::min)
}

/// Whether an OK that is given now is marked `forced`: the leader's log holds an unratified fork.
pub fn is_forced(log: &[Entry], ratified: u8) -> bool {
    newest_fork(log) > ratified
}

/// Whether a leader may answer a linearizable read by its lease: those who granted it are a quorum of
/// every configuration that is in force *now*, it has released an entry of its own term, and no fork is
/// unratified.
pub fn may_read_by_lease(
    log: &[Entry],
    term: Term,
    marks: (u8, u8, u8),
    granted_by: Set,
    witnesses: Set,
) -> bool {
    let (committed, released, ratified) = marks;
    released > 0
        && log[released as usize - 1].term == term
        && !is_forced(log, ratified)
        && is_quorum_of_each(log, committed, |c| c.members & granted_by, witnesses)
}

/// Up to where a node may trim: what is released, and nothing at all while its log holds an unratified
/// fork, since a merge may then have to quarantine even what was committed before the fork.
/// Nor may a rolled-back log, which cannot claim.
pub fn trim_index(log: &[Entry], released: u8, ratified: u8, rebuilt: bool) -> u8 {
    if rebuilt || is_forced(log, ratified) { 0 } else { released }
}

// ---- Standing, promising, forcing ------------------------------------------------------------------

/// The cold-start rule: whether every member of every configuration in force was heard from.
/// `present(c)`: members under the incarnation named there, heard from, of equal lineage.
pub fn is_everyone_there(
    log: &[Entry],
    committed: u8,
    present: impl Fn(Configuration) -> Set,
) -> bool {
    configurations_in_force(log, committed).all(|(_, c)| present(c) == c.members)
}

/// Whether a node may give promises. `waited`: `cold_start_wait` is over and a quorum of equal lineage
/// is there; it never helps a node to force.
pub fn may_promise(
    standing: Standing,
    is_member: bool,
    everyone_there: bool,
    waited: bool,
) -> bool {
    match standing {
        Standing::Active => true,
        // A learner's promise counts in no quorum; it brings its log and its commit index.
        Standing::Learning => !is_member || everyone_there || waited,
        Standing::Cold => everyone_there || waited,
    }
}

/// Whether a node is a member of every configuration in force, under its own incarnation. A forcer
/// must be, in its own log and in the adopted one: a pending growth is not enough.
pub fn is_in_every_configuration(
    log: &[Entry],
    committed: u8,
    node: u8,
    incarnation: Incarnation,
) -> bool {
    let mut any = false;
    configurations_in_force(log, committed).all(|(_, c)| {
        any = true;
        c.names(node, incarnation)
    }) && any
}

/// What a node that wants to force has found out.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub standing: Standing,
    pub reaches_gateway: bool,
    /// A peer that it reaches follows a leader, or is one that still has a quorum.
    pub hears_of_a_leader: bool,
    pub holds_promise_of_witness: bool,
    /// The promisers are a quorum of every configuration in force in the adopted log, and every member
    /// of a fork that is not committed is among them: then an election does.
    pub quorum_is_there: bool,
    /// It reaches another history: it joins or merges first. So does a member with a strict prefix of
    /// its own; passed over, that one would stay active in the old lineage and could force there.
    pub reaches_another_history: bool,
    pub in_every_own_configuration: bool,
    pub in_every_adopted_configuration: bool,
}

pub fn may_force(policy: Policy, found: Surroundings) -> bool {
    policy == Policy::Survivor
        && found.standing == Standing::Active
        && found.reaches_gateway
        && !found.hears_of_a_leader
        && found.holds_promise_of_witness
        && !found.quorum_is_there
        && !found.reaches_another_history
        && found.in_every_own_configuration
        && found.in_every_adopted_configuration
}

/// The members of a fork: those promisers who are in a configuration in force of the adopted log,
/// under the incarnation named there.
pub fn fork_members(log: &[Entry], committed: u8, present: impl Fn(Configuration) -> Set) -> Set {
    configurations_in_force(log, committed).fold(0, |set, (_, c)| set | present(c))
}

// ---- Ratification and merge ------------------------------------------------------------------------

/// The parents of the fork at `fork`: the configurations in force at the commit index that it records,
/// and those between.
pub fn parents(log: &[Entry], fork: u8) -> impl Iterator<Item = Configuration> {
    let recorded = match log[fork as usize - 1].kind {
        Kind::Fork { committed, .. } => committed,
        _ => 0,
    };
    configurations_in_force(&log[..fork as usize - 1], recorded).map(|(_, c)| c)
}

/// The next fork that may be ratified, if it may: the first unratified one, once it is committed and
/// `joined(c)` are all members of each parent c, under the incarnation named there.
pub fn ratifiable(
    log: &[Entry],
    ratified: u8,
    committed: u8,
    joined: impl Fn(u8, Configuration) -> Set,
) -> Option<u8> {
    let fork = first_fork_after(log, ratified)?;
    let all = committed >= fork && parents(log, fork).all(|c| joined(fork, c) == c.members);
    all.then_some(fork)
}

/// Whether a node has joined for one that a parent names: it is that one, or the same disk under a later
/// incarnation, whose losses went to quarantine and not away.
pub fn has_joined_for(named: Incarnation, now: Incarnation) -> bool {
    named.disk == now.disk && named.returns <= now.returns
}

/// One side of a merge, by its own durable records.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'a> {
    pub log: &'a [Entry],
    /// The newest configuration or fork that it recorded as committed.
    pub recorded: u8,
    pub ratified: u8,
    /// Rolled back and not re-admitted: never claims.
    pub rebuilt: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    First,
    Second,
    /// Both stop, and an operator decides.
    Ask,
}

/// Whether a branch claims against another from the divergence point on: by a ratified fork, or by a
/// configuration without the other's forcer that was committed before its own first unratified fork.
pub fn claims(own: Branch, other: Branch, divergence: u8) -> bool {
    if own.rebuilt {
        return false;
    }
    if own.ratified > divergence {
        return true;
    }
    let Some(forcer) = forcer_after(other.log, divergence) else { return false };
    (divergence + 1..=committed_before_forks(own)).any(|lsn| {
        let set = own.log[lsn as usize - 1].configuration();
        set.is_some_and(|c| c.members & only(forcer) == 0)
    })
}

/// What a branch knows to have been committed without an unratified fork. Once the fork itself is
/// recorded as committed, the branch's own record says no more than the fork entry: a configuration that
/// was pending then is committed by the fork only.
fn committed_before_forks(branch: Branch) -> u8 {
    match first_fork_after(branch.log, branch.ratified) {
        None => branch.recorded,
        Some(fork) if branch.recorded < fork => branch.recorded.max(fork_commit(branch.log, fork)),
        Some(fork) => fork_commit(branch.log, fork),
    }
}

/// Which of two branches wins.
pub fn merge(a: Branch, b: Branch) -> Verdict {
    let divergence = common(a.log, b.log);
    match (claims(a, b, divergence), claims(b, a, divergence)) {
        (true, true) => Verdict::Ask,
        (true, false) => Verdict::First,
        (false, true) => Verdict::Second,
        (false, false) => by_fork(a, b, divergence),
    }
}

/// A forked branch before an unforked one; then the one whose fork is recorded as committed; then the
/// lower forcer; then, should one node have forced twice from the same place, the newer term.
fn by_fork(a: Branch, b: Branch, divergence: u8) -> Verdict {
    let forks = (first_fork_after(a.log, divergence), first_fork_after(b.log, divergence));
    let (x, y) = match forks {
        (Some(x), Some(y)) => (x, y),
        (Some(_), None) => return Verdict::First,
        (None, Some(_)) => return Verdict::Second,
        (None, None) => return Verdict::Ask,
    };
    let rank = |branch: Branch, fork: u8| {
        let entry = branch.log[fork as usize - 1];
        let forcer = forcer_after(branch.log, divergence);
        (branch.recorded < fork, forcer, std::cmp::Reverse(entry.term))
    };
    match rank(a, x).cmp(&rank(b, y)) {
        std::cmp::Ordering::Less => Verdict::First,
        std::cmp::Ordering::Greater => Verdict::Second,
        std::cmp::Ordering::Equal => Verdict::Ask,
    }
}

/// What stays committed when a log is cut to `end`: what was known to be before the first fork that goes.
/// A fork commits what lies before it, and that ends with the fork.
pub fn commit_index_without(log: &[Entry], committed: u8, end: u8) -> u8 {
    let known = first_fork_after(log, end).map_or(end, |fork| fork_commit(log, fork));
    committed.min(known).min(end)
}

/// The forcer of the first fork after `from`.
fn forcer_after(log: &[Entry], from: u8) -> Option<u8> {
    match log[first_fork_after(log, from)? as usize - 1].kind {
        Kind::Fork { forcer, .. } => Some(forcer),
        _ => None,
    }
}

fn fork_commit(log: &[Entry], fork: u8) -> u8 {
    match log[fork as usize - 1].kind {
        Kind::Fork { committed, .. } => committed,
        _ => 0,
    }
}
