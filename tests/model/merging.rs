//! Joining and merging.

use super::{
    flaws::Flaw,
    rules::{self, Branch, Relation, Verdict},
    state::{Broken, Kind, Node, Standing, only},
    step::{Done, World, require},
};

impl World<'_> {
    pub fn join(&mut self, node: u8, from: u8, whole: bool, sync: bool) -> Done {
        self.meet(node, from)?;
        require(self.relation(node, from) == Relation::Joins)?;
        let source = *self.at(from);
        let common = self.at(node).log.end();
        require(common >= source.trimmed)?;
        let end = if whole { source.log.end() } else { common + 1 };
        let promised = self.at(node).promised.max(source.log[end as usize - 1].term);
        if rules::newest_fork(source.log.upto(end)) > common {
            self.begin_anew_if_cut(node);
        }
        let n = self.at_mut(node);
        n.receive(&source.log, common, end, promised);
        if sync {
            n.sync();
        }
        self.settle(node, false);
        Some(())
    }

    pub fn merge(&mut self, a: u8, b: u8) -> Done {
        self.meet(a, b)?;
        require(a < b && self.relation(a, b) == Relation::Merges)?;
        for n in [a, b] {
            self.at_mut(n).sync();
        }
        let (x, y) = (self.at(a), self.at(b));
        let divergence = rules::common(&x.log, &y.log);
        let loser = match self.verdict(x, y) {
            Verdict::First => b,
            Verdict::Second => a,
            Verdict::Ask => {
                self.state.broken = Some(Broken::MergeUndecided);
                return Some(());
            }
        };
        let winner = if loser == a { b } else { a };
        self.quarantine(loser, divergence);
        self.take_over(loser, winner, divergence);
        Some(())
    }

    pub fn verdict(&self, a: &Node, b: &Node) -> Verdict {
        let size = |n: &Node| rules::newest_configuration(&n.log, u8::MAX).1.members.count_ones();
        let divergence = rules::common(&a.log, &b.log);
        let forked = |n: &Node| rules::first_fork_after(&n.log, divergence).is_some();
        let by_fork = |own: &Node, other: &Node| {
            let end = rules::first_fork_after(&own.log, own.ratified)
                .unwrap_or(u8::MAX)
                .min(own.recorded);
            let forks = rules::first_fork_after(&other.log, divergence);
            let forcer = forks.map(|fork| other.log[fork as usize - 1].kind);
            let Some(Kind::Fork { forcer, .. }) = forcer else { return false };
            let mut later = own.log.upto(end).iter().skip(divergence as usize);
            later.any(|e| {
                !e.is_fork() && e.configuration().is_some_and(|c| c.members & only(forcer) == 0)
            })
        };
        match self.scope.flaw {
            Some(Flaw::UnforcedWins) if forked(a) != forked(b) => match forked(a) {
                true => Verdict::Second,
                false => Verdict::First,
            },
            Some(Flaw::MoreMembersWin) if size(a) != size(b) => match size(a) > size(b) {
                true => Verdict::First,
                false => Verdict::Second,
            },
            Some(Flaw::ForkMakesClaims) if by_fork(a, b) != by_fork(b, a) => match by_fork(a, b) {
                true => Verdict::First,
                false => Verdict::Second,
            },
            Some(Flaw::ForkMakesClaims) if by_fork(a, b) => Verdict::Ask,
            _ => rules::merge(self.branch(a), self.branch(b)),
        }
    }

    pub fn branch<'n>(&self, n: &'n Node) -> Branch<'n> {
        let rebuilt = n.rebuilt && !self.scope.is(Flaw::RebuiltClaims);
        Branch { log: &n.log, recorded: n.recorded, ratified: n.ratified, rebuilt }
    }

    pub fn quarantine(&mut self, loser: u8, divergence: u8) {
        let n = self.at(loser);
        let suffix = n.operations(u8::MAX) & !n.operations(divergence);
        let trimmed = n.operations(n.trimmed) & !n.operations(divergence);
        if trimmed != 0 {
            self.state.broken = Some(Broken::QuarantineIncomplete);
        }
        let n = self.at_mut(loser);
        n.quarantine |= suffix;
        n.cut(divergence);
        n.follow();
        n.standing = Standing::Cold;
    }

    /// In the same write the loser enters the winner's lineage. Cut off and still in the old one, it
    /// could promise there without what it had acknowledged there.
    pub fn take_over(&mut self, loser: u8, winner: u8, divergence: u8) {
        let w = *self.at(winner);
        let first = !self.at(loser).cut;
        self.begin_anew_if_cut(loser);
        self.at_mut(loser).cut |= first;
        let Some(fork) = rules::first_fork_after(&w.log, divergence) else { return };
        if self.scope.is(Flaw::LoserJoinsLater) {
            return;
        }
        let end = if divergence < w.trimmed { fork.max(w.trimmed) } else { fork };
        let promised = self.at(loser).promised.max(w.log[end as usize - 1].term);
        let n = self.at_mut(loser);
        n.receive(&w.log, divergence, end, promised);
        n.sync();
        if divergence < w.trimmed {
            n.trimmed = w.trimmed;
        }
    }

    /// Another lineage, entered by a second loss or by joining, may be one that the node was cut off in:
    /// its log does not hold what it acknowledged there, and so it is another incarnation.
    pub fn begin_anew_if_cut(&mut self, node: u8) {
        if !self.scope.is(Flaw::ReturnsUnderOldIncarnation) && self.at(node).cut {
            let n = self.at_mut(node);
            n.incarnation.returns += 1;
            n.rebuilt = true;
            n.cut = false;
        }
    }
}
