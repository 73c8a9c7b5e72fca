//! Who belongs to the cluster: the configuration entries of the log.

use rkyv::{Archive, Deserialize, Serialize};

use crate::{
    store::codec::{self, CodecError, Compress, Stored},
    types::{ClusterId, Incarnation, NodeId},
};

/// What a member takes part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Counts in quorums and holds all data.
    Member,
    /// Receives the log; does not count.
    Learner,
    /// Counts in quorums and keeps the log; applies nothing.
    Witness,
}

/// What an acknowledgement waits for (DESIGN §2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// Released = committed: never without a quorum.
    Majority,
    /// Released = committed and durable on every active member.
    Survivor,
}

/// One node of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its ID.
    pub id: NodeId,
    /// `host:port` of its peers' endpoint.
    pub address: String,
    /// The life of its store that counts; another one never votes.
    pub incarnation: Incarnation,
    /// What it takes part in.
    pub standing: Standing,
    /// It may vote, but not lead.
    pub never_leader: bool,
    /// Excluded from leading by an operator, until undone.
    pub demoted: bool,
}

impl Member {
    /// Whether it may be elected.
    pub fn may_lead(&self) -> bool {
        self.standing == Standing::Member && !self.never_leader && !self.demoted
    }
}

/// A configuration of the cluster, as an entry of kind `Config` holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// The cluster.
    pub cluster: ClusterId,
    /// What an acknowledgement waits for.
    pub policy: Policy,
    /// Below so many active members nothing is released.
    pub min_active: u32,
    /// The nodes, in ascending order of their IDs.
    pub members: Vec<Member>,
    /// Pinned by `promote`; leads before lower IDs.
    pub preferred_leader: Option<NodeId>,
    /// `@@gtid_current_pos` of every database when the cluster was founded.
    pub base_gtid: Option<String>,
}

impl Configuration {
    /// The node of that ID.
    pub fn member(&self, id: &NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == *id)
    }

    /// Those that count.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.standing != Standing::Learner)
    }

    /// Whether those that are `present` are a quorum: more than half of those that count, or
    /// exactly half with the lowest ID that may lead. Of two disjoint sets at most one is a quorum.
    pub fn is_quorum(&self, present: impl Fn(&Member) -> bool) -> bool {
        let count = self.voters().count();
        let there = self.voters().filter(|member| present(member)).count();
        let tie_break = self.voters().filter(|m| m.may_lead()).min_by(|a, b| a.id.cmp(&b.id));
        there * 2 > count || (there > 0 && there * 2 == count && tie_break.is_some_and(present))
    }

    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&ConfigurationV1::from(self), Compress::WherePays)
    }

    /// The configuration that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<ConfigurationV1>(bytes)?.try_into()
    }
}

/// A forced take-over, as an entry of kind `Fork` holds it (DESIGN §2.3). Written by nobody yet;
/// the format is fixed so that logs of today stay readable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fork {
    /// Who forced.
    pub forcer: NodeId,
    /// The highest commit index among the promisers, cut to the adopted log.
    pub committed_lsn: u64,
    /// Replaces all earlier configurations.
    pub configuration: Configuration,
}

impl Fork {
    /// The sealed form, for an entry's body.
    pub fn encode(&self) -> Vec<u8> {
        let stored = ForkV1 {
            forcer: self.forcer.as_str().to_owned(),
            committed_lsn: self.committed_lsn,
            configuration: (&self.configuration).into(),
        };
        codec::encode(&stored, Compress::WherePays)
    }

    /// The fork that was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let stored: ForkV1 = codec::decode(bytes)?;
        Ok(Self {
            forcer: node_id(&stored.forcer, ForkV1::NAME)?,
            committed_lsn: stored.committed_lsn,
            configuration: stored.configuration.try_into()?,
        })
    }
}

/// The stored form of [`Fork`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct ForkV1 {
    /// Who forced.
    pub forcer: String,
    /// Recorded commit index.
    pub committed_lsn: u64,
    /// The new configuration.
    pub configuration: ConfigurationV1,
}

impl Stored for ForkV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "fork";
}

/// The stored form of [`Configuration`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct ConfigurationV1 {
    /// Cluster UUID.
    pub cluster: [u8; 16],
    /// 1 majority, 2 survivor.
    pub policy: u8,
    /// Minimum of active members.
    pub min_active: u32,
    /// Nodes, by ID.
    pub members: Vec<MemberV1>,
    /// Pinned leader.
    pub preferred_leader: Option<String>,
    /// Base GTID position.
    pub base_gtid: Option<String>,
}

/// The stored form of [`Member`], frozen.
#[derive(Archive, Serialize, Deserialize, PartialEq, Debug)]
pub struct MemberV1 {
    /// ID.
    pub id: String,
    /// Address.
    pub address: String,
    /// Incarnation.
    pub incarnation: u64,
    /// 1 member, 2 learner, 3 witness.
    pub standing: u8,
    /// Never leads.
    pub never_leader: bool,
    /// Excluded from leading by `demote`, until undone.
    pub demoted: bool,
}

impl Stored for ConfigurationV1 {
    const VERSION: u8 = 1;
    const NAME: &'static str = "configuration";
}

impl From<&Configuration> for ConfigurationV1 {
    fn from(from: &Configuration) -> Self {
        Self {
            cluster: from.cluster.0,
            policy: match from.policy {
                Policy::Majority => 1,
                Policy::Survivor => 2,
            },
            min_active: from.min_active,
            members: from.members.iter().map(MemberV1::from).collect(),
            preferred_leader: from.preferred_leader.as_ref().map(ToString::to_string),
            base_gtid: from.base_gtid.clone(),
        }
    }
}

impl From<&Member> for MemberV1 {
    fn from(from: &Member) -> Self {
        Self {
            id: from.id.to_string(),
            address: from.address.clone(),
            incarnation: from.incarnation.0,
            standing: match from.standing {
                Standing::Member => 1,
                Standing::Learner => 2,
                Standing::Witness => 3,
            },
            never_leader: from.never_leader,
            demoted: from.demoted,
        }
    }
}

impl TryFrom<ConfigurationV1> for Configuration {
    type Error = CodecError;

    fn try_from(from: ConfigurationV1) -> Result<Self, CodecError> {
        let name = ConfigurationV1::NAME;
        Ok(Self {
            cluster: ClusterId(from.cluster),
            policy: match from.policy {
                1 => Policy::Majority,
                2 => Policy::Survivor,
                other => return Err(invalid(name, format!("unknown policy {other}"))),
            },
            min_active: from.min_active,
            members: from.members.into_iter().map(Member::try_from).collect::<Result<_, _>>()?,
            preferred_leader: from.preferred_leader.map(|id| node_id(&id, name)).transpose()?,
            base_gtid: from.base_gtid,
        })
    }
}

impl TryFrom<MemberV1> for Member {
    type Error = CodecError;

    fn try_from(from: MemberV1) -> Result<Self, CodecError> {
        Ok(Self {
            id: node_id(&from.id, ConfigurationV1::NAME)?,
            address: from.address,
            incarnation: Incarnation(from.incarnation),
            standing: match from.standing {
                1 => Standing::Member,
                2 => Standing::Learner,
                3 => Standing::Witness,
                other => {
                    let what = format!("unknown standing {other}");
                    return Err(invalid(ConfigurationV1::NAME, what));
                }
            },
            never_leader: from.never_leader,
            demoted: from.demoted,
        })
    }
}

fn node_id(text: &str, name: &'static str) -> Result<NodeId, CodecError> {
    text.parse().map_err(|e| invalid(name, format!("{e}")))
}

fn invalid(name: &'static str, what: String) -> CodecError {
    CodecError::Body { name, what }
}

#[cfg(test)]
impl Configuration {
    /// For tests: members that may all lead, in the first life of their stores.
    pub(crate) fn of_members(ids: &[&str]) -> Self {
        let member = |id: &&str| Member {
            id: id.parse().expect("valid"),
            address: format!("{id}:8080"),
            incarnation: Incarnation(1),
            standing: Standing::Member,
            never_leader: false,
            demoted: false,
        };
        Self {
            cluster: ClusterId([7; 16]),
            policy: Policy::Majority,
            min_active: 2,
            members: ids.iter().map(member).collect(),
            preferred_leader: None,
            base_gtid: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().expect("valid")
    }

    fn configuration(ids: &[&str]) -> Configuration {
        Configuration { base_gtid: Some("0-1-5".into()), ..Configuration::of_members(ids) }
    }

    #[test]
    fn round_trips() {
        let configuration = configuration(&["n1", "n2", "n3"]);
        assert_eq!(Configuration::decode(&configuration.encode()), Ok(configuration.clone()));
        let fork = Fork { forcer: id("n2"), committed_lsn: 9, configuration };
        assert_eq!(Fork::decode(&fork.encode()), Ok(fork));
    }

    #[test]
    fn no_two_disjoint_sets_are_quorums() {
        for count in 1..=5 {
            let ids: Vec<String> = (1..=count).map(|n| format!("n{n}")).collect();
            let names: Vec<&str> = ids.iter().map(String::as_str).collect();
            let mut configuration = configuration(&names);
            for special in 0..3 {
                configuration.members[0].never_leader = special == 1;
                configuration.members[0].standing =
                    if special == 2 { Standing::Witness } else { Standing::Member };
                for mask in 0u32..1 << count {
                    let side = |bits: u32| -> BTreeSet<NodeId> {
                        let chosen = (0..count).filter(|n| bits & (1 << n) != 0);
                        chosen.map(|n| id(&ids[n])).collect()
                    };
                    let quorum = |bits: u32| {
                        let side = side(bits);
                        configuration.is_quorum(|member| side.contains(&member.id))
                    };
                    let both = quorum(mask) && quorum(!mask & ((1 << count) - 1));
                    assert!(!both, "{count} members, mask {mask:b}");
                }
            }
        }
    }

    #[test]
    fn half_counts_only_with_the_lowest_that_may_lead() {
        let mut pair = configuration(&["n1", "n2"]);
        let alone = |pair: &Configuration, name: &str| pair.is_quorum(|m| m.id == id(name));
        assert!(alone(&pair, "n1") && !alone(&pair, "n2"));
        pair.members[0].never_leader = true;
        assert!(!alone(&pair, "n1") && alone(&pair, "n2"));
        assert!(!pair.is_quorum(|_| false));
    }
}
