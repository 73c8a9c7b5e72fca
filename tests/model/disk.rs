//! What a node does to its own log and its records.

use super::{
    rules,
    state::{Entry, Node, Term},
};

impl Node {
    /// Takes entries after `common` up to `end`; what contradicts them goes.
    pub fn receive(&mut self, source: &[Entry], common: u8, end: u8, promised: Term) {
        if end > common {
            self.log.cut(common);
            self.durable = self.durable.min(common);
            for entry in &source[common as usize..end as usize] {
                self.log.push(*entry);
            }
        }
        self.promised = promised;
        self.follow();
    }

    /// All on disk; and what history took after all leaves the quarantine.
    pub fn sync(&mut self) {
        self.durable = self.log.end();
        self.quarantine &= !self.operations(self.durable);
    }

    /// Puts the newest committed configuration on disk as such, and the log as far as that.
    pub fn record(&mut self) {
        let (lsn, _) = rules::newest_configuration(&self.log, self.committed);
        self.recorded = self.recorded.max(lsn);
        if self.durable < self.recorded {
            self.sync();
        }
    }

    /// Forgets all after `end`, on disk too.
    pub fn cut(&mut self, end: u8) {
        self.committed = rules::commit_index_without(&self.log, self.committed, end);
        self.recorded = rules::commit_index_without(&self.log, self.recorded, end);
        self.log.cut(end);
        self.durable = self.durable.min(end);
        self.released = self.released.min(end);
        self.trimmed = self.trimmed.min(end);
        self.recorded = rules::newest_configuration(&self.log, self.recorded).0;
        self.ratified = rules::newest_fork(self.log.upto(self.ratified.min(end)));
    }
}
