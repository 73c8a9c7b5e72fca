//! Seeded storms over whole clusters: crashes, power cuts, partitions, loss, delay, duplicates.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;

use crate::world::{CALM, STORMY, World};

const SECONDS: u64 = 60;
const PROPOSALS_MIN: u64 = 1_000;
const FAULTS_MIN: u64 = 20;
const SEEDS: u64 = 100;

/// One storm of at least 60 simulated seconds, then calm, then the checks.
fn storm(seed: u64) -> World {
    let nodes = if seed % 4 == 3 { 5 } else { 3 };
    let mut world = World::new(seed, nodes, STORMY);
    (0..nodes).for_each(|index| world.start(index));
    let mut down: Vec<(usize, u64)> = Vec::new();
    for step in 0..SECONDS * 20 {
        world.run_for(Duration::from_millis(50));
        clients(&mut world);
        faults(&mut world, &mut down, step);
    }
    world.heal();
    world.weather = CALM;
    (0..nodes).for_each(|index| world.slow_disk(index, 1));
    (0..nodes).filter(|index| !world.is_up(*index)).collect::<Vec<_>>().iter().for_each(|index| {
        world.start(*index);
    });
    let whole = |world: &World| world.leader() == Some(0) && world.voters(0) == nodes;
    let settled =
        world.run_until(Duration::from_secs(60), |world| whole(world) && world.is_settled());
    assert!(settled, "seed {seed}: no leader, or not caught up\n{}", world.trace.join("\n"));
    world.check_end();
    world
}

fn clients(world: &mut World) {
    for _ in 0..world.rng.random_range(0..7) {
        let index = match world.leader() {
            Some(leader) if world.rng.random_range(0..10) > 0 => leader,
            _ => world.rng.random_range(0..world.len()),
        };
        let large = world.rng.random_range(0..50) == 0;
        let bytes = if large { 200_000 } else { world.rng.random_range(8..400) };
        world.ask(index, bytes);
    }
}

/// Crashes, power cuts, partitions, cut links and slow disks, as the seed wants them.
pub fn faults(world: &mut World, down: &mut Vec<(usize, u64)>, step: u64) {
    let due: Vec<usize> = down.iter().filter(|(_, at)| *at <= step).map(|(n, _)| *n).collect();
    down.retain(|(_, at)| *at > step);
    due.into_iter().for_each(|index| world.start(index));
    match world.rng.random_range(0..60) {
        0 => {
            let index = world.rng.random_range(0..world.len());
            if world.is_up(index) {
                world.crash(index);
                down.push((index, step + world.rng.random_range(1..120)));
            }
        }
        1 => {
            let leader = world.leader();
            if let Some(leader) = leader {
                world.crash(leader);
                down.push((leader, step + world.rng.random_range(1..120)));
            }
        }
        2 => {
            let side: BTreeSet<usize> =
                (0..world.len()).filter(|_| world.rng.random_range(0..2) == 0).collect();
            world.partition(&side);
        }
        3 => {
            let (a, b) =
                (world.rng.random_range(0..world.len()), world.rng.random_range(0..world.len()));
            world.cut(a, b);
            world.faults += 1;
        }
        4 => {
            // Power is cut for all at once; each comes back when it does.
            for index in 0..world.len() {
                if world.is_up(index) {
                    world.crash(index);
                    down.push((index, step + world.rng.random_range(1..80)));
                }
            }
        }
        5 | 6 => {
            let index = world.rng.random_range(0..world.len());
            let slowness = if world.rng.random_range(0..2) == 0 { 50 } else { 1 };
            world.slow_disk(index, slowness);
        }
        7..11 => world.heal(),
        _ => {}
    }
}

#[test]
fn a_hundred_storms_lose_nothing_and_keep_one_history() {
    let (mut proposals, mut acknowledged, mut faults) = (0, 0, 0);
    let (mut elections, mut checked) = (0, 0);
    for seed in 0..SEEDS {
        let world = storm(seed);
        assert!(world.proposals >= PROPOSALS_MIN, "seed {seed}: {} proposals", world.proposals);
        assert!(world.faults >= FAULTS_MIN, "seed {seed}: {} faults", world.faults);
        proposals += world.proposals;
        acknowledged += world.acknowledged.len();
        faults += world.faults;
        elections += world.elections;
        checked += world.elections_checked;
    }
    println!(
        "{SEEDS} seeds of {SECONDS} s: {proposals} proposals, {acknowledged} acknowledged, \
         {faults} faults, {elections} elections, {checked} of them in settled clusters"
    );
    assert!(acknowledged as u64 > proposals / 5, "only {acknowledged} of {proposals} acknowledged");
}

#[test]
fn two_runs_of_a_seed_are_the_same_run() {
    for seed in [3, 7, 11] {
        assert_eq!(storm(seed).trace, storm(seed).trace, "seed {seed}");
    }
}
