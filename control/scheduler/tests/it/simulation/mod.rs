//! Random workflows on simulated nodes, with failures, hostile timing and everything checked at every step.

mod check;
mod cluster;
mod generate;
mod hostile;
mod node;

use dflow_scheduler::Invocation;
use proptest::prelude::*;

/// Choices: from a tape, so that proptest can shrink them, and where that ends from a small generator.
pub struct Choices {
    tape: std::vec::IntoIter<u16>,
    state: u64,
}

impl Choices {
    pub fn new(tape: Vec<u16>, seed: u64) -> Self {
        Self { tape: tape.into_iter(), state: seed }
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let next = match self.tape.next() {
            Some(choice) => u64::from(choice),
            None => {
                // SplitMix64.
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
        };
        (next % bound.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_and_keeps_every_rule(
        tape in proptest::collection::vec(any::<u16>(), 0..400),
        seed in any::<u64>(),
        slots in proptest::collection::vec(1_u32..5, 1..4),
        prepare_ahead in 0_u32..5,
        max_started in 1_u32..8,
        control_flow in any::<bool>(),
        failures in 0_usize..16,
        rarely in prop_oneof![Just(15_usize), Just(60)],
    ) {
        let invocation = if control_flow { Invocation::ControlFlow } else { Invocation::Dataflow };
        let case = generate::workflow(&mut Choices::new(tape, 0), invocation);
        let machine = node::Machine { slots, prepare_ahead, max_started, failures, rarely, losses: 0 };
        node::Node::run(&case, Choices::new(Vec::new(), seed), &machine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_fact_of_another_node_harms_a_machine(
        tape in proptest::collection::vec(any::<u16>(), 0..400),
        facts in proptest::collection::vec((0_u32..4, any::<[u16; 6]>()), 1..60),
        here in 0_u32..3,
    ) {
        let case = generate::workflow(&mut Choices::new(tape, 0), Invocation::Dataflow);
        let machine = node::Machine { slots: vec![1; 3], prepare_ahead: 2, max_started: 4, failures: 0, rarely: 60, losses: 0 };
        let options = node::options(&case, &mut Choices::new(Vec::new(), 1), &machine);
        let options = dflow_scheduler::RunOptions { scope: dflow_scheduler::Scope::Node(here), ..options };
        let workflow = std::sync::Arc::new(case.flow.0.clone());
        let (mut machine, _) = dflow_scheduler::RunMachine::new(workflow, options).expect("the options fit");
        for (from, numbers) in facts {
            let fact = hostile::fact(&mut Choices::new(numbers.to_vec(), 3));
            machine.handle(std::time::Duration::ZERO, dflow_scheduler::Event::Fact { from, fact });
            if here == 0 && numbers[0] % 16 == 0 {
                let (place, reason) = (u32::from(numbers[1] % 4), "lost".to_owned());
                let places = vec![(dflow_workflow::FunctionId(u32::from(numbers[2] % 6)), vec![0])];
                machine.handle(std::time::Duration::ZERO, dflow_scheduler::Event::NodeLost { place, reason, places });
            }
            if numbers[0] % 4 == 0 {
                let copies = Vec::new();
                machine.handle(std::time::Duration::ZERO, dflow_scheduler::Event::Surveyed { copies });
            }
        }
    }

    #[test]
    fn machines_that_decide_a_run_together_keep_every_rule(
        tape in proptest::collection::vec(any::<u16>(), 0..400),
        seed in any::<u64>(),
        slots in proptest::collection::vec(1_u32..5, 1..5),
        prepare_ahead in 0_u32..5,
        max_started in 1_u32..8,
        control_flow in any::<bool>(),
        failures in 0_usize..8,
        rarely in prop_oneof![Just(15_usize), Just(60)],
        losses in 0_usize..4,
    ) {
        let invocation = if control_flow { Invocation::ControlFlow } else { Invocation::Dataflow };
        let case = generate::workflow(&mut Choices::new(tape, 0), invocation);
        let machine = node::Machine { slots, prepare_ahead, max_started, failures, rarely, losses };
        cluster::Cluster::run(&case, Choices::new(Vec::new(), seed), &machine);
    }
}

/// A run of a random workflow on several nodes that follows from the seed alone.
fn run_seed(seed: u64) -> u64 {
    let mut choices = Choices::new(Vec::new(), seed);
    let invocation = if choices.once_in(4) { Invocation::ControlFlow } else { Invocation::Dataflow };
    let case = generate::workflow(&mut choices, invocation);
    let slots = (0..1 + choices.below(6)).map(|_| 1 + choices.below(4) as u32).collect();
    let (prepare_ahead, max_started) = (choices.below(5) as u32, 1 + choices.below(8) as u32);
    let failures = choices.below(8);
    let rarely = if choices.once_in(2) { 15 } else { 60 };
    let losses = choices.below(4).saturating_sub(1);
    let machine = node::Machine { slots, prepare_ahead, max_started, failures, rarely, losses };
    cluster::Cluster::run(&case, choices, &machine)
}

/// Says which seed has failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} has failed; scripts/simulate --seed {} repeats it", self.0, self.0);
        }
    }
}

/// `DFLOW_SEED` and `DFLOW_SEEDS`: the first seed, and how many.
#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let first = number("DFLOW_SEED").unwrap_or(0);
    for seed in first..first.saturating_add(number("DFLOW_SEEDS").unwrap_or(500)) {
        let _seed = Seed(seed);
        run_seed(seed);
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(run_seed(seed), run_seed(seed), "seed {seed}");
    }
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(4000)
}
