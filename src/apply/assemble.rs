//! Entries to commands: most are whole, large ones come in parts.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{
    log::entry::{Entry, EntryKind, Part},
    types::{Lsn, Position, RequestId, Term},
};

/// A complete command of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// What the body is.
    pub kind: EntryKind,
    /// LSN of its first part.
    pub first: Lsn,
    /// Position of its last part: where it takes effect.
    pub at: Position,
    /// Makes a retried request happen once.
    pub request: Option<RequestId>,
    /// The sealed command.
    pub body: Bytes,
}

/// Joins parts. Entries must be pushed in order, without gaps, from the start of a command.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    term: Term,
    kind: EntryKind,
    first: Lsn,
    next_index: u32,
    body: BytesMut,
}

impl Assembler {
    /// Takes the next entry; returns the command that it completes. A part that does not continue
    /// the open command voids that (its leader lost the lead before it was complete).
    pub fn push(&mut self, entry: &Arc<Entry>) -> Option<Command> {
        if entry.part == Part::WHOLE {
            self.open = None;
            return Some(command(entry, entry.lsn, entry.body.clone()));
        }
        if entry.part.index == 0 {
            self.open = Some(Open {
                term: entry.term.clone(),
                kind: entry.kind,
                first: entry.lsn,
                next_index: 0,
                body: BytesMut::new(),
            });
        }
        let continues = self.open.as_ref().is_some_and(|open| {
            open.term == entry.term
                && open.kind == entry.kind
                && open.next_index == entry.part.index
        });
        if !continues {
            self.open = None;
            return None;
        }
        let open = self.open.as_mut()?;
        open.next_index += 1;
        open.body.extend_from_slice(&entry.body);
        if !entry.part.last {
            return None;
        }
        let done = self.open.take()?;
        Some(command(entry, done.first, done.body.freeze()))
    }

    /// The LSN of the first part of the command that is not complete yet: a reader that starts
    /// anew must start there.
    pub fn open_since(&self) -> Option<Lsn> {
        self.open.as_ref().map(|open| open.first)
    }
}

fn command(last: &Entry, first: Lsn, body: Bytes) -> Command {
    Command { kind: last.kind, first, at: last.position(), request: last.request, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ChainHash;

    fn part(lsn: u64, term: u64, index: u32, last: bool, body: &'static str) -> Arc<Entry> {
        Arc::new(Entry {
            term: Term { number: term, leader: "n1".parse().expect("valid") },
            lsn: Lsn(lsn),
            kind: EntryKind::Db,
            part: Part { index, last },
            request: None,
            chain: ChainHash::default(),
            body: body.into(),
        })
    }

    #[test]
    fn joins_parts_and_voids_unfinished_commands() {
        let mut assembler = Assembler::default();
        let whole = assembler.push(&part(1, 1, 0, true, "one")).expect("whole");
        assert_eq!((whole.first, &whole.body[..]), (Lsn(1), &b"one"[..]));

        assert_eq!(assembler.push(&part(2, 1, 0, false, "lost")), None);
        assert_eq!(assembler.open_since(), Some(Lsn(2)));
        assert_eq!(assembler.push(&part(3, 2, 0, false, "a")), None, "a new leader starts over");
        assert_eq!(assembler.push(&part(4, 2, 1, false, "b")), None);
        let joined = assembler.push(&part(5, 2, 2, true, "c")).expect("complete");
        assert_eq!((joined.first, joined.at.lsn, &joined.body[..]), (Lsn(3), Lsn(5), &b"abc"[..]));
        assert_eq!(assembler.open_since(), None);

        assert_eq!(assembler.push(&part(6, 2, 0, false, "x")), None);
        assert_eq!(assembler.push(&part(7, 3, 1, true, "y")), None, "another term's part");
        assert_eq!(assembler.push(&part(8, 3, 1, true, "z")), None, "a part without its first");
    }
}
