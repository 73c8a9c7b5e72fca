//! The rules, each broken in one place. Every one of these was proposed by somebody as good enough.

/// One changed rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flaw {
    /// The lowest live ID leads, and commits by whoever is there.
    LowestWithoutQuorum,
    /// Only the newest configuration counts, for elections and for commit.
    NewestConfigurationOnly,
    /// Whoever is alone goes on (the detector is perfect: the others are dead), without forks, and a
    /// stale node that returns may do the same.
    OneSurvivor,
    /// Forks do not separate: promises, appends and adoption pass between all lineages.
    ForceWithoutLineages,
    /// In a merge the unforked branch always wins.
    UnforcedWins,
    /// In a merge the branch with more members wins.
    MoreMembersWin,
    /// A fork is ratified when a quorum of its parents has joined.
    RatifiedByQuorum,
    /// A forcer needs to be in the newest configuration only, a pending growth included.
    ForceFromPendingGrowth,
    /// The leader releases before its members recorded the configuration under which it does.
    ReleaseAheadOfRecord,
    /// After a cold start nodes may not force, but elect as ever.
    ColdForbidsForceOnly,
    /// `survivor` releases what is committed.
    ApplyAtCommitted,
    /// A node whose log was rolled back keeps its incarnation.
    RebuiltVotes,
    /// A rolled-back log claims in a merge.
    RebuiltClaims,
    /// A follower answers before its log is durable.
    AckBeforeDurable,
    /// A promise is given within a lease.
    LeaseIgnored,
    /// A node forces (and breaks ties) though it does not reach the gateway.
    GatewayIgnored,
    /// A node trims what is released, past an unratified fork.
    TrimsForks,
    /// The forcer does not ask the witness.
    WitnessIgnored,
    /// A node forces past a member that has not joined its lineage yet, or while it is to join itself.
    ForcePastJoiner,
    /// Others see a fork entry before it is on the forcer's disk.
    ForkSeenBeforeDurable,
    /// The loser of a merge is cut off now and joins the winner later.
    LoserJoinsLater,
    /// A node that lost a merge enters another lineage later under its old incarnation.
    ReturnsUnderOldIncarnation,
    /// A log that lost a fork entry still takes for committed what only the fork had committed.
    LostForkCommits,
    /// An entry that history took back stays in quarantine.
    QuarantineKept,
    /// A lease that was granted by a quorum holds through a change of the configuration.
    LeaseOutlivesConfiguration,
    /// A candidate may not take a snapshot from a promiser.
    CandidateTakesNoSnapshot,
    /// A rolled-back log is trimmed before it is re-admitted.
    RebuiltTrims,
    /// A leader that broke a tie commits by it later, when it reaches a peer that follows another.
    TieBrokenForGood,
    /// A configuration that was pending at a fork claims once the fork is committed.
    ForkMakesClaims,
}
