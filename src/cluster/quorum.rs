//! Which nodes decide: a quorum of every configuration that may still be in force.

use super::membership::{Configuration, Member};
use crate::types::Lsn;

/// The configurations of a log that a decision needs a quorum of, oldest first: from the last one
/// that is committed to the log's end. One change is outstanding at a time, so a configuration in
/// a log implies that the one before it is committed: these are two at the most.
pub fn in_force(
    configurations: &[(Lsn, Configuration)],
    committed: Lsn,
) -> impl Iterator<Item = &Configuration> {
    let known = configurations.iter().rposition(|(lsn, _)| *lsn <= committed).unwrap_or(0);
    let implied = configurations.len().saturating_sub(2);
    configurations[known.max(implied)..].iter().map(|(_, configuration)| configuration)
}

/// Whether those that are `present` are a quorum of every configuration. Present is who speaks
/// with the life of its store that the configuration names.
pub fn is_quorum<'a>(
    mut configurations: impl Iterator<Item = &'a Configuration>,
    present: impl Fn(&Member) -> bool,
) -> bool {
    configurations.all(|configuration| configuration.is_quorum(&present))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn id(text: &str) -> NodeId {
        text.parse().expect("valid")
    }

    fn present<'a>(ids: &'a [&'a str]) -> impl Fn(&Member) -> bool + 'a {
        move |member| ids.iter().any(|text| id(text) == member.id)
    }

    #[test]
    fn the_last_committed_and_all_after_it_are_in_force() {
        let log = [
            (Lsn(1), Configuration::of_members(&["n1", "n2", "n3"])),
            (Lsn(5), Configuration::of_members(&["n1", "n2"])),
            (Lsn(9), Configuration::of_members(&["n1"])),
        ];
        let sizes = |committed| -> Vec<usize> {
            in_force(&log, Lsn(committed)).map(|c| c.members.len()).collect()
        };
        assert_eq!(sizes(0), [2, 1], "the newest implies that the one before it is committed");
        assert_eq!((sizes(8), sizes(9)), (vec![2, 1], vec![1]));
        assert_eq!(in_force(&log[..1], Lsn(0)).count(), 1, "founding");
        assert_eq!(in_force(&[], Lsn(0)).count(), 0);
    }

    #[test]
    fn a_quorum_of_the_newest_alone_decides_nothing() {
        let (three, two) = (
            Configuration::of_members(&["n1", "n2", "n3"]),
            Configuration::of_members(&["n1", "n2"]),
        );
        let both = || [&three, &two].into_iter();
        assert!(is_quorum([&two].into_iter(), present(&["n1"])), "the tie-break of the pair");
        assert!(!is_quorum(both(), present(&["n1"])), "but not of the three before it");
        assert!(!is_quorum(both(), present(&["n2", "n3"])), "and the other way round");
        assert!(is_quorum(both(), present(&["n1", "n3"])));
    }
}
