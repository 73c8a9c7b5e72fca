//! Named situations: what must hold in each is known beforehand.

use std::{collections::BTreeSet, time::Duration};

use wolfscale::cluster::change::Change;

use crate::world::{CALM, World};

const SOON: Duration = Duration::from_secs(5);
/// Within this a lower ID that has returned leads.
const PREEMPTED: Duration = Duration::from_secs(20);

fn founded(nodes: usize) -> World {
    let mut world = World::new(1, nodes, CALM);
    (0..nodes).for_each(|index| world.start(index));
    assert!(world.run_until(SOON, |w| w.leader() == Some(0)), "the lowest ID founds and leads");
    world
}

fn ask_and_settle(world: &mut World, count: usize) {
    let leader = world.leader().expect("there is a leader");
    (0..count).for_each(|_| world.ask(leader, 100));
    assert!(world.run_until(SOON, World::is_settled), "it settles");
}

#[test]
fn a_cluster_is_founded_only_when_all_founders_are_there() {
    let mut world = World::new(1, 3, CALM);
    world.start(0);
    world.start(1);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.leader(), None, "two of three founders found nothing");
    world.start(2);
    assert!(world.run_until(SOON, |w| w.leader() == Some(0)));
}

#[test]
fn the_next_id_takes_over_and_the_old_leader_follows_it() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 10);
    world.crash(0);
    let died = world.now;
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)), "n2 is next");
    let took = Duration::from_nanos(world.now - died);
    assert!(took < Duration::from_secs(1), "fail-over took {took:?}");
    ask_and_settle_of_two(&mut world);
    world.start(0);
    assert!(world.run_until(SOON, World::is_settled));
    assert_eq!(world.leader(), Some(1), "it must be steady before it leads again");
    assert!(world.run_until(PREEMPTED, |w| w.leader() == Some(0)), "the lowest ID leads again");
    assert!(world.run_until(SOON, World::is_settled));
    world.check_end();
}

#[test]
fn a_silent_member_no_longer_counts_and_returns_when_it_has_caught_up() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    world.crash(2);
    assert!(world.run_until(SOON, |w| w.voters(0) == 2), "the silent one is dropped");
    world.ask(0, 100);
    world.run_for(Duration::from_millis(100));
    world.start(2);
    assert!(world.run_until(SOON, |w| w.voters(0) == 3), "it counts again");
    assert!(world.run_until(SOON, World::is_settled));
    world.check_end();
}

/// The policy asks for two; with fewer the membership stays as it is, and the tie-break goes on.
#[test]
fn members_shrink_one_after_the_other_to_a_pair_and_grow_again() {
    let mut world = founded(5);
    ask_and_settle(&mut world, 3);
    for (gone, left) in [(4, 4), (3, 3), (2, 2)] {
        world.crash(gone);
        assert!(world.run_until(SOON, |w| w.voters(0) == left), "n{} is dropped", gone + 1);
        acknowledged_by(&mut world, 0);
    }
    world.crash(1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.voters(0), 2, "the policy asks for two");
    acknowledged_by(&mut world, 0);
    (1..5).for_each(|index| world.start(index));
    assert!(world.run_until(SOON, |w| w.voters(0) == 5), "all count again");
    assert!(world.run_until(SOON, World::is_settled));
    world.check_end();
}

/// Of a pair the one that is not the tie-break must not go on alone, whatever it once led.
#[test]
fn those_who_were_dropped_cannot_outvote_those_who_dropped_them() {
    let mut world = founded(5);
    ask_and_settle(&mut world, 3);
    world.partition(&BTreeSet::from([0, 1, 2]));
    assert!(world.run_until(SOON, |w| w.voters(0) == 3), "the far side is dropped");
    acknowledged_by(&mut world, 0);
    world.crash(0);
    world.crash(1);
    world.heal();
    world.run_for(Duration::from_secs(20));
    assert_eq!(
        world.leader(),
        None,
        "n3, n4 and n5 are a majority of the five, but not of the three"
    );
    world.start(1);
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)), "two of three are");
    world.start(0);
    assert!(world.run_until(PREEMPTED, |w| w.leader() == Some(0) && w.voters(0) == 5));
    assert!(world.run_until(SOON, World::is_settled));
    world.check_end();
}

/// It would have to apply for long before it could take writes: nobody could write meanwhile.
#[test]
fn the_lead_is_not_handed_to_a_node_whose_database_is_far_behind() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    world.crash(0);
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)));
    world.set_behind(0, 50_000);
    world.start(0);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.leader(), Some(1), "n1 has too much to apply");
    world.set_behind(0, 10);
    assert!(world.run_until(SOON, |w| w.leader() == Some(0)));
}

/// A leader without a database steps down, and a moment later says that it is fit again: the lead
/// must not bounce.
#[test]
fn who_has_just_lost_the_lead_is_not_handed_it_back_at_once() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    world.run_for(Duration::from_secs(30));
    world.set_eligible(0, false);
    assert!(world.hand_over(0));
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)));
    world.set_eligible(0, true);
    world.run_for(Duration::from_secs(8));
    assert_eq!(world.leader(), Some(1), "n1 must be steady for preempt_after first");
    assert!(world.run_until(PREEMPTED, |w| w.leader() == Some(0)));
}

#[test]
fn an_excluded_leader_hands_over_and_a_pinned_one_leads() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    let id = |index: usize, world: &World| world.id(index).clone();
    let demote = Change::Demote { id: id(0, &world), demoted: true };
    world.change(0, &demote).expect("n2 can lead");
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)), "the next one leads at once");
    let prefer = Change::Prefer(Some(id(2, &world)));
    world.run_for(Duration::from_secs(1));
    world.change(1, &prefer).expect("n3 is a member");
    assert!(world.run_until(SOON, |w| w.leader() == Some(2)), "the pinned one leads");
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.leader(), Some(2), "and nobody takes that from it");
    world.crash(2);
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)), "n1 is excluded");
    world.start(2);
    assert!(world.run_until(PREEMPTED, |w| w.leader() == Some(2)));
}

#[test]
fn a_node_that_lost_its_store_learns_anew_and_counts_again() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 5);
    world.crash(2);
    world.replace_log(2, wolfscale::store::MemoryEngine::default());
    world.start(2);
    assert!(!world.counts(2), "it does not vote as if it remembered");
    assert!(world.run_until(SOON, |w| w.counts(2)), "its new life is named");
    assert!(world.run_until(SOON, |w| w.voters(0) == 3 && w.is_settled()));
    world.crash(0);
    assert!(world.run_until(SOON, |w| w.leader() == Some(1)), "with n3's promise");
    world.start(0);
    assert!(world.run_until(PREEMPTED, World::is_settled));
    world.check_end();
}

fn acknowledged_by(world: &mut World, index: usize) {
    let before = world.acknowledged.len();
    world.ask(index, 100);
    assert!(world.run_until(SOON, |w| w.acknowledged.len() > before), "it is acknowledged");
}

fn ask_and_settle_of_two(world: &mut World) {
    let before = world.acknowledged.len();
    world.ask(1, 100);
    assert!(world.run_until(SOON, |w| w.acknowledged.len() > before), "two of three are a quorum");
}

#[test]
fn a_leader_that_is_stopped_hands_over_without_waiting_for_a_time_out() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    assert!(world.hand_over(0));
    let asked = world.now;
    assert!(world.run_until(SOON, |w| w.leader() == Some(1) && w.view(1).leads()));
    let took = Duration::from_nanos(world.now - asked);
    assert!(took <= Duration::from_millis(50), "hand-over took {took:?}");
}

#[test]
fn a_node_whose_database_is_unfit_is_passed_over() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    world.set_eligible(1, false);
    world.run_for(Duration::from_secs(1));
    world.crash(0);
    assert!(world.run_until(SOON, |w| w.leader() == Some(2)), "n2 skips its turn");
}

#[test]
fn a_minority_acknowledges_nothing_and_its_leader_steps_down() {
    let mut world = founded(5);
    ask_and_settle(&mut world, 3);
    world.partition(&BTreeSet::from([0, 1]));
    let before = world.acknowledged.len();
    world.ask(0, 50);
    assert!(world.run_until(SOON, |w| w.leader() == Some(2)), "the majority goes on");
    assert_eq!(world.acknowledged.len(), before);
    assert!(!world.view(0).leads(), "the old leader stepped down by itself");
    world.ask(2, 50);
    world.heal();
    assert!(world.run_until(SOON, World::is_settled));
    assert_eq!(world.acknowledged.len(), before + 1);
    world.check_end();
}

/// One node's store is rolled back to an older copy (`rolled_back`) or lost, then another node
/// that holds what was acknowledged since is killed: the two that are left must not elect a log
/// without it.
fn a_lost_store(rolled_back: bool) {
    let mut world = founded(3);
    ask_and_settle(&mut world, 5);
    let old = world.copy_log(2);
    world.crash(1);
    let before = world.acknowledged.len();
    (0..5).for_each(|_| world.ask(0, 100));
    assert!(world.run_until(SOON, |w| w.acknowledged.len() == before + 5));
    assert!(world.run_until(SOON, |w| w.last_lsn(2) == w.last_lsn(0)));
    world.run_for(Duration::from_millis(100));

    world.crash(2);
    world.replace_log(2, if rolled_back { old } else { wolfscale::store::MemoryEngine::default() });
    world.crash(0);
    world.start(1);
    world.start(2);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.leader(), None, "n2 (stale) and n3 (lost) must not lead without n1");
    assert!(!world.counts(2), "n3 does not vote as if it remembered");

    world.start(0);
    assert!(world.run_until(SOON, World::is_settled), "with n1 back, all catch up");
    assert_eq!(world.acknowledged.len(), before + 5);
    world.check_end();
}

#[test]
fn a_rolled_back_store_does_not_vote() {
    a_lost_store(true);
}

#[test]
fn a_deleted_store_does_not_vote() {
    a_lost_store(false);
}

#[test]
fn catch_up_of_a_long_absence_does_not_hold_up_commits() {
    let mut world = founded(3);
    world.crash(2);
    world.run_for(Duration::from_secs(1));
    for _ in 0..300 {
        (0..20).for_each(|_| world.ask(0, 300));
        world.run_for(Duration::from_millis(5));
    }
    assert!(world.run_until(SOON, |w| w.acknowledged.len() == 6000));
    world.start(2);
    let mut worst = 0;
    for _ in 0..100 {
        let asked = world.now;
        let before = world.acknowledged.len();
        world.ask(0, 300);
        assert!(world.run_until(SOON, |w| w.acknowledged.len() > before));
        worst = worst.max(world.now - asked);
    }
    assert!(worst <= 20_000_000, "a commit took {} µs during catch-up", worst / 1000);
    assert!(world.run_until(SOON, World::is_settled));
    world.check_end();
}

/// Storm 12 came to rest like this: nothing to send, so nothing told the follower.
#[test]
fn a_follower_that_restarts_at_once_learns_what_is_committed_without_new_entries() {
    let mut world = founded(3);
    ask_and_settle(&mut world, 3);
    world.crash(1);
    world.start(1);
    assert!(world.released(1) < world.released(0), "its commit index is only a lower bound");
    assert!(world.run_until(SOON, |w| w.released(1) == w.released(0)));
}
