//! Histories of accounts and windows.

use super::idle::POOL_IDLE;
use super::*;
use dflow_shm::SegmentKind;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const NOW: Duration = Duration::ZERO;

fn open(memory: &mut Memory, run: u128, tenant: u64, minimum: u64, cap: u64) -> Owner {
    memory.open(RunId(run), TenantId(tenant), minimum, cap);
    memory.owner(RunId(run)).unwrap()
}

fn fresh(owner: Owner, writer: ProcessId, size: u64) -> Arc<WindowMemory> {
    let segment = Segment::create("test", size as usize, SegmentKind::FunctionWritten).unwrap();
    Arc::new(WindowMemory { segment, size, owner, writer })
}

fn window(memory: &mut Memory, owner: Owner, writer: ProcessId, size: u64) -> Option<Arc<WindowMemory>> {
    memory
        .warm(owner, writer, size, true)
        .or_else(|| memory.reserve(owner.run, size).then(|| fresh(owner, writer, size)))
}

#[test]
fn a_writers_windows_are_for_its_own_tenant_once_it_is_gone() {
    let (first, second, other) = (ProcessId(1), ProcessId(2), ProcessId(3));
    let mut memory = Memory::new(800 * MIB, 0);
    let own = open(&mut memory, 1, 1, MIB, 800 * MIB);
    let foreign = open(&mut memory, 2, 2, MIB, 800 * MIB);
    [first, second, other].into_iter().for_each(|writer| memory.admit(writer));
    let windows: Vec<_> = (0..600).map(|_| window(&mut memory, own, first, MIB).unwrap()).collect();
    windows.into_iter().for_each(|window| memory.free(window, NOW));
    assert_eq!(memory.busy(), 0);
    // Its writer may still write there.
    assert!(!memory.has_warm(own, second, MIB, true) && memory.has_warm(own, first, MIB, true));
    memory.retire(first, NOW);
    assert!(!memory.has_warm(foreign, other, MIB, true), "they are not zeroed");
    let windows: Vec<_> = (0..600).map(|_| memory.warm(own, second, MIB, true).unwrap()).collect();
    assert!(memory.warm(own, second, MIB, true).is_none());
    windows.into_iter().for_each(|window| memory.free(window, NOW));
    // Idle windows of another size make room.
    assert!(memory.reserve(own.run, 300 * MIB));
    assert_eq!((memory.busy(), memory.peak()), (300 * MIB, 800 * MIB));
}

#[test]
fn the_pool_outlives_runs_within_its_part_of_the_budget_and_for_a_while() {
    let writer = ProcessId(1);
    let mut memory = Memory::new(100 * MIB, 0);
    let own = open(&mut memory, 1, 1, MIB, 100 * MIB);
    let other = open(&mut memory, 2, 1, MIB, 100 * MIB);
    memory.admit(writer);
    let windows: Vec<_> = (0..90).map(|_| window(&mut memory, own, writer, MIB).unwrap()).collect();
    windows.into_iter().for_each(|window| memory.free(window, NOW));
    memory.retire(writer, NOW);
    assert_eq!(memory.idle(), 75 * MIB);
    memory.close(own.run, true);
    memory.give_back_old(POOL_IDLE - Duration::from_nanos(1));
    assert!(memory.has_warm(other, ProcessId(2), MIB, true));
    memory.give_back_old(POOL_IDLE);
    assert_eq!(memory.idle(), 0);
}

#[test]
fn windows_of_a_tenant_that_has_left_are_zeroed_for_others() {
    let writer = ProcessId(1);
    for all_are_dead in [true, false] {
        let mut memory = Memory::new(100 * MIB, 0);
        let own = open(&mut memory, 1, 1, MIB, 100 * MIB);
        memory.admit(writer);
        let used = window(&mut memory, own, writer, MIB).unwrap();
        memory.free(used, NOW);
        memory.retire(writer, NOW);
        assert!(memory.take_unclean().is_none(), "its tenant has a run");
        memory.close(own.run, all_are_dead);
        let next = open(&mut memory, 2, 2, MIB, 100 * MIB);
        memory.admit(ProcessId(2));
        assert!(memory.warm(next, ProcessId(2), MIB, true).is_none());
        let Some(unclean) = memory.take_unclean() else {
            assert!(!all_are_dead, "a process that may live has it mapped");
            continue;
        };
        assert!(all_are_dead && memory.busy() == MIB);
        memory.cleaned(unclean, true, NOW);
        assert!(memory.busy() == 0 && memory.warm(next, ProcessId(2), MIB, true).is_some());
    }
}

#[test]
fn no_window_stays_idle_while_more_than_the_budget_is_in_use() {
    let writer = ProcessId(1);
    let mut memory = Memory::new(10 * MIB, 10 * MIB);
    let own = open(&mut memory, 1, 1, MIB, 20 * MIB);
    memory.admit(writer);
    let window = window(&mut memory, own, writer, MIB).unwrap();
    assert!(memory.allows_beyond(own.run, 11 * MIB));
    memory.charge(own.run, 11 * MIB);
    memory.free(window, NOW);
    assert_eq!((memory.busy(), memory.idle()), (11 * MIB, 0));
}

/// One step of a random history, of a run and a writer of it.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open { minimum: u64, cap: u64 },
    Take { size: u64 },
    MustHave { size: u64 },
    Free,
    WriterEnds,
    Close { all_are_dead: bool },
    Clean,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..20u64, 1..100u64).prop_map(|(minimum, more)| Step::Open { minimum, cap: minimum + more }),
        6 => (0..4u32).prop_map(|size| Step::Take { size: 1 << size }),
        2 => (0..2u32).prop_map(|size| Step::MustHave { size: 1 << size }),
        5 => Just(Step::Free),
        2 => Just(Step::WriterEnds),
        1 => any::<bool>().prop_map(|all_are_dead| Step::Close { all_are_dead }),
        2 => Just(Step::Clean),
    ]
}

/// What the test knows of a run.
#[derive(Default)]
struct Guest {
    windows: Vec<Arc<WindowMemory>>,
    writer: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// In units of 4 KiB, so that segments are real.
    #[test]
    fn a_minimum_is_always_there_and_no_tenant_sees_bytes_of_another(
        steps in prop::collection::vec((0..5u128, step()), 1..150),
    ) {
        const UNIT: u64 = 4096;
        let (limit, overrun) = (100 * UNIT, 50 * UNIT);
        let mut memory = Memory::new(limit, overrun);
        let mut guests: BTreeMap<u128, Guest> = BTreeMap::new();
        let mut lingering: Vec<Arc<WindowMemory>> = Vec::new();
        // Never the same number twice, as with processes.
        let mut writers = 0;
        let mut beyond = 0;
        for (run, step) in steps {
            let tenant = run as u64 % 3;
            let id = RunId(run);
            let own = memory.owner(id);
            let writer = |guest: &Guest| ProcessId(guest.writer);
            writers += 1;
            let guest = guests.get_mut(&run).zip(own);
            match (step, guest) {
                (Step::Open { minimum, cap }, None) if minimum * UNIT <= memory.unpromised() => {
                    open(&mut memory, run, tenant, minimum * UNIT, cap * UNIT);
                    let guest = Guest { writer: writers, ..Guest::default() };
                    memory.admit(writer(&guest));
                    guests.insert(run, guest);
                }
                (Step::Take { size }, Some((guest, own))) => {
                    let before = memory.account(own.run).unwrap().used;
                    let (minimum, cap) = memory.account(own.run).map(|it| (it.minimum, it.cap)).unwrap();
                    let taken = window(&mut memory, own, writer(guest), size * UNIT);
                    let after = before + size * UNIT;
                    prop_assert!(taken.is_some() || after > minimum, "a minimum is refused");
                    prop_assert!(taken.is_none() || after <= cap);
                    prop_assert!(taken.is_none() || after <= minimum || memory.committed <= limit);
                    if let Some(window) = taken {
                        let mut found = [0];
                        rustix::io::pread(&window.segment, &mut found, 0).unwrap();
                        prop_assert!(found[0] == 0 || u64::from(found[0]) == tenant + 1);
                        rustix::io::pwrite(&window.segment, &[tenant as u8 + 1], 0).unwrap();
                        guest.windows.push(window);
                    }
                }
                (Step::MustHave { size }, Some((guest, own))) if memory.allows_beyond(id, size * UNIT) => {
                    memory.charge(own.run, size * UNIT);
                    beyond += size * UNIT;
                    guest.windows.push(fresh(own, writer(guest), size * UNIT));
                }
                (Step::Free, Some((guest, _))) => {
                    if let Some(window) = guest.windows.pop() {
                        memory.free(window, NOW);
                    }
                }
                (Step::Free, None) => {
                    // A job of a run that is over completes.
                    if let Some(window) = lingering.pop() {
                        memory.free(window, NOW);
                    }
                }
                (Step::WriterEnds, Some((guest, _))) => {
                    memory.retire(writer(guest), NOW);
                    guest.writer = writers;
                    memory.admit(writer(guest));
                }
                (Step::Close { all_are_dead }, Some(_)) => {
                    let guest = guests.remove(&run).unwrap();
                    match all_are_dead {
                        true => memory.retire(writer(&guest), NOW),
                        false => memory.abandon(writer(&guest)),
                    }
                    lingering.extend(guest.windows);
                    memory.close(id, all_are_dead);
                }
                (Step::Clean, _) => {
                    if let Some(window) = memory.take_unclean() {
                        window.segment.zero().unwrap();
                        memory.cleaned(window, true, NOW);
                    }
                }
                _ => {}
            }
            let used: u64 = memory.accounts.values().map(|account| account.used).sum();
            let committed: u64 = memory.accounts.values().map(Account::committed).sum();
            prop_assert_eq!((memory.busy, memory.committed), (used + memory.lingering, committed + memory.lingering));
            prop_assert!(memory.peak() <= limit + beyond + limit, "a minimum at the most beyond what must be");
            prop_assert!(memory.idle() == 0 || memory.busy + memory.idle() <= limit);
            for (run, account) in &memory.accounts {
                prop_assert!(account.used >= account.minimum || memory.allows(*run, account.minimum - account.used));
            }
        }
    }
}
