//! The store in virtual time: the same seed gives the same history, and every history ends as it should.

mod common;
mod sim;

use dflow_protocol::RunId;
use dflow_protocol::limits::{ARENA_SLOT, MIN_WINDOW};
use dflow_store::Config;
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

/// What no budget refuses to a run: the first bytes of every stream, the window that it writes, and one for each reader.
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
    let mut dice = Dice(seed);
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
