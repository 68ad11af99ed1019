//! The store in virtual time: the same seed gives the same history, and every history ends as it should.

mod sim;

use dflow_protocol::RunId;
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_store::{Config, Refusal};
use sim::Dice;
use sim::function::Plan;
use sim::machine::Speed;
use sim::world::{RunPlan, World};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Any workflow: each function reads streams of earlier ones, and writes some.
fn any_run(dice: &mut Dice, tenant: u64, minimum: u64, cap: u64) -> RunPlan {
    let mut written: Vec<u32> = Vec::new();
    let functions = (0..2 + dice.below(4))
        .map(|_| {
            let known = written.len() as u64;
            let reads: Vec<u32> = if known == 0 {
                Vec::new()
            } else {
                (0..1 + dice.below(3)).map(|_| written[dice.below(known) as usize]).collect()
            };
            let writes: Vec<(u32, u64)> = (0..1 + dice.below(2))
                .map(|index| {
                    let length = [0, 1, 5000, 200 * KIB, 3 * MIB][dice.below(5) as usize];
                    (written.len() as u32 + 1 + index as u32, length + dice.below(1000))
                })
                .collect();
            written.extend(writes.iter().map(|(stream, _)| stream));
            let chunk = [500, 20_000, 100_000][dice.below(3) as usize];
            Plan { reads, in_order: dice.one_in(2), writes, chunk, dies_after: None }
        })
        .collect();
    RunPlan { tenant, minimum, cap, functions }
}

/// What no budget refuses to a run: the first bytes of every stream, the window that it writes, and one for each
/// reader.
fn must_have(plan: &RunPlan) -> u64 {
    plan.functions
        .iter()
        .map(|function| {
            let window = function.chunk.next_power_of_two().max(MIN_WINDOW);
            (ARENA_SLOT + window) * function.writes.len() as u64 + window * function.reads.len() as u64
        })
        .sum()
}

/// A history of many runs, some of which die or are ended in the middle.
fn many_runs(seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let budget = MIB + dice.below(16 * MIB);
    let speed = Speed { spill: Duration::from_micros(dice.below(20_000)), ..Speed::default() };
    let mut world = World::new(dice.roll(), Config::new(budget), speed);
    let mut plans = Vec::new();
    let mut most = budget;
    for number in 0..3 + dice.below(5) {
        let run = RunId(u128::from(number));
        let minimum = Config::MIN_MEMORY + dice.below(256 * KIB);
        let cap = minimum + dice.below(budget);
        let mut plan = any_run(&mut dice, 1 + number % 3, minimum, cap);
        if dice.one_in(4) {
            let victim = dice.below(plan.functions.len() as u64) as usize;
            plan.functions[victim].dies_after = Some(dice.below(200));
        }
        if world.begin(run, &plan).is_ok() {
            most += must_have(&plan) + plan.minimum;
            plans.push((run, plan));
        }
        for _ in 0..dice.below(200) {
            world.step();
        }
    }
    let victim = dice.one_in(2).then(|| plans[dice.below(plans.len() as u64) as usize].0);
    if let Some(victim) = victim {
        world.end(victim);
    }
    for (run, plan) in &plans {
        let dies = plan.functions.iter().any(|function| function.dies_after.is_some());
        if dies && Some(*run) != victim {
            world.run_until(|world| world.failed.contains_key(run) || world.succeeded.contains(run));
            if world.failed.contains_key(run) {
                world.end(*run);
            }
        }
    }
    world.run_until(World::is_idle);
    for (run, _) in &plans {
        let ended_well = world.succeeded.contains(run);
        let was_ended = Some(*run) == victim || world.failed.get(run).is_some_and(|why| why == "a function has died");
        assert!(ended_well || was_ended, "{run}: {:?}", world.failed.get(run));
        world.end(*run);
    }
    assert_eq!(world.misbehaved, []);
    let usage = world.store.usage();
    assert!(usage.peak <= most, "{} bytes, {most} at the most", usage.peak);
    world.settle();
    let usage = world.store.usage();
    assert_eq!((usage.memory, usage.idle), (0, 0), "everything is given back");
    world.fingerprint()
}

#[test]
fn any_number_of_runs_share_a_node() {
    for seed in 0..60 {
        many_runs(seed);
    }
}

#[test]
fn a_seed_gives_the_same_history_again() {
    let histories: Vec<u64> = (100..104).map(many_runs).collect();
    assert_eq!(histories, (100..104).map(many_runs).collect::<Vec<u64>>());
    assert!(histories.windows(2).all(|pair| pair[0] != pair[1]));
}

/// Runs of one function that writes more than there is memory for, and one that reads it afterwards.
fn flood(tenant: u64, cap: u64, streams: u32, length: u64) -> RunPlan {
    // The reader takes one stream after the other while the writer fills all at the same time.
    let writes: Vec<(u32, u64)> = (1..=streams).map(|stream| (stream, length)).collect();
    let reads = writes.iter().map(|(stream, _)| *stream).collect();
    let writer = Plan { writes, chunk: 50_000, ..Plan::default() };
    let reader = Plan { reads, in_order: true, chunk: 50_000, ..Plan::default() };
    RunPlan { tenant, minimum: Config::MIN_MEMORY, cap, functions: vec![writer, reader] }
}

/// A writer and a reader that keeps up.
fn pipe(tenant: u64, cap: u64, length: u64) -> RunPlan {
    let writer = Plan { writes: vec![(1, length)], chunk: 30_000, ..Plan::default() };
    let reader = Plan { reads: vec![1], chunk: 30_000, ..Plan::default() };
    RunPlan { tenant, minimum: Config::MIN_MEMORY, cap, functions: vec![writer, reader] }
}

#[test]
fn a_flood_leaves_others_their_share_and_its_own_cold_bytes_go_to_disk() {
    let (budget, big, small) = (16 * MIB, RunId(1), RunId(2));
    let mut world = World::new(1, Config::new(budget), Speed::default());
    world.begin(big, &flood(1, budget, 8, 8 * MIB)).unwrap();
    world.run_until(|world| world.store.usage().spilled > MIB);
    let spilled = |world: &World, run| world.store.run_usage(run).unwrap().spilled;
    // It comes when memory is full, and leaves its own bytes unread for a while.
    world.begin(small, &flood(2, budget, 1, 5 * MIB)).unwrap();
    world.run_until(|world| world.succeeded.contains(&small));
    assert!(!world.succeeded.contains(&big), "the flood goes on");
    assert_eq!(spilled(&world, small), 0, "it has less than its share");
    world.run_until(World::is_idle);
    assert!(world.succeeded.contains(&big) && spilled(&world, big) > 8 * MIB);
}

#[test]
fn a_cap_holds_a_run_that_is_alone() {
    let (budget, cap, run) = (64 * MIB, 2 * MIB, RunId(1));
    let plan = flood(1, cap, 4, 4 * MIB);
    let mut world = World::new(2, Config::new(budget), Speed::default());
    world.begin(run, &plan).unwrap();
    let most = cap + must_have(&plan);
    world.run_until(|world| {
        assert!(world.store.run_usage(run).unwrap().memory <= most);
        world.is_idle()
    });
    assert!(world.succeeded.contains(&run));
}

#[test]
fn a_run_without_disk_fails_alone_and_says_what_it_lacked() {
    let (budget, big, small) = (8 * MIB, RunId(1), RunId(2));
    let mut world = World::new(3, Config::new(budget), Speed { disk: 4 * MIB, ..Speed::default() });
    // Nobody reads the second stream before all of the first one is there, which never comes.
    let mut plan = flood(1, budget, 2, 40 * MIB);
    plan.functions[1].reads.reverse();
    plan.functions[0].chunk = 100_000;
    world.begin(big, &plan).unwrap();
    world.begin(small, &pipe(2, budget, 20 * MIB)).unwrap();
    world.run_until(|world| world.failed.contains_key(&big) || world.is_idle());
    if let Some(why) = world.failed.get(&big) {
        assert!(why.contains("bytes of memory are missing") && why.contains("no space left"), "{why}");
        world.end(big);
    }
    world.run_until(World::is_idle);
    assert!(world.succeeded.contains(&small) && !world.failed.contains_key(&small), "{:?}", world.failed);
}

#[test]
fn a_run_that_must_have_more_than_the_node_can_give_fails_alone() {
    let (many, small) = (RunId(1), RunId(2));
    let config = Config { overrun: MIB, ..Config::new(Config::MIN_MEMORY * 2) };
    let mut world = World::new(4, config, Speed::default());
    let budget = Config::MIN_MEMORY * 2;
    // All of its streams have a window at the same time.
    let mut plan = flood(1, budget, 40, 300 * KIB);
    plan.functions[1].reads.reverse();
    world.begin(many, &plan).unwrap();
    world.begin(small, &pipe(2, budget, 5 * MIB)).unwrap();
    world.run_until(|world| world.failed.contains_key(&many));
    // Its end takes a while, in which no other run fails for want of memory.
    for _ in 0..5000 {
        world.step();
    }
    world.end(many);
    world.run_until(World::is_idle);
    assert!(world.succeeded.contains(&small), "{:?}", world.failed);
}

#[test]
fn a_run_that_is_ended_half_way_leaves_nothing() {
    for seed in 0..20 {
        let mut world = World::new(seed, Config::new(8 * MIB), Speed::default());
        let run = RunId(1);
        world.begin(run, &flood(1, 8 * MIB, 4, 3 * MIB)).unwrap();
        for _ in 0..100 * seed {
            world.step();
        }
        world.end(run);
        assert!(world.store.run_usage(run).is_none());
        world.settle();
        let usage = world.store.usage();
        assert_eq!((usage.memory, usage.idle), (0, 0));
        // Its bells and its memory are there for the next one.
        world.begin(run, &pipe(2, 8 * MIB, MIB)).unwrap();
        world.run_until(World::is_idle);
        assert!(world.succeeded.contains(&run));
    }
}

#[test]
fn minima_that_would_not_fit_are_refused_until_a_run_ends() {
    let budget = 4 * Config::MIN_MEMORY;
    let mut world = World::new(5, Config::new(budget), Speed::default());
    let plan = |minimum, cap| RunPlan { minimum, ..pipe(1, cap, KIB) };
    let half = plan(budget / 2, budget);
    world.begin(RunId(1), &half).unwrap();
    world.begin(RunId(2), &plan(budget / 4, budget)).unwrap();
    let refusal = Refusal::NoRoom { minimum: budget / 2, left: budget / 4, budget };
    assert_eq!(world.begin(RunId(3), &half), Err(refusal));
    assert_eq!(world.begin(RunId(2), &half), Err(Refusal::Known { run: RunId(2) }));
    let least = Config::MIN_MEMORY;
    assert_eq!(world.begin(RunId(3), &plan(1, budget)), Err(Refusal::TooLittle { minimum: 1, least }));
    assert_eq!(world.begin(RunId(3), &plan(least, 1)), Err(Refusal::CapBelowMinimum { minimum: least, cap: 1 }));
    world.end(RunId(1));
    world.begin(RunId(3), &half).unwrap();
    world.run_until(World::is_idle);
    assert!(world.succeeded.contains(&RunId(3)));
}

/// Windows stay warm from one run to the next of a tenant, and go to another one only when they are zeroed. That no
/// function finds a byte of another tenant is checked by each of them.
#[test]
fn warm_windows_outlive_runs_and_cross_tenants_zeroed() {
    let budget = 32 * MIB;
    let mut world = World::new(6, Config::new(budget), Speed::default());
    let mut made: Vec<u64> = Vec::new();
    for (number, tenant) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 1)] {
        let run = RunId(number);
        world.begin(run, &flood(tenant, budget, 2, 4 * MIB)).unwrap();
        world.run_until(World::is_idle);
        assert!(world.succeeded.contains(&run));
        world.end(run);
        made.push(world.machine.backed() - made.iter().sum::<u64>());
        while let Some(done) = world.machine.next_completion() {
            world.machine.advance(done.saturating_sub(world.machine.now()));
            world.step();
        }
        assert!(world.store.usage().idle > 0);
    }
    // Not all of them want windows of the same sizes.
    assert!(made[1..].iter().sum::<u64>() < 2 * made[0], "fresh memory: {made:?}");
    assert!(world.machine.zeroed() >= made[0]);
    world.settle();
    assert_eq!(world.store.usage().idle, 0, "idle memory is given back after a while");
}
