//! How a waiting thread treats the threads with which it shares its core.

use dflow_shm::{Doorbell, Idle, Listener, wait};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::sync::Arc;
use std::time::Duration;

fn own_processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The thread whose work is awaited needs the core on which the waiting one spins.
#[test]
fn a_spinning_waiter_does_not_take_the_core_from_a_thread_that_works() {
    const WORK: Duration = Duration::from_millis(200);
    let mut core = CpuSet::new();
    core.set(sched_getcpu());
    let bell = Arc::new(Doorbell::default());
    let (waker, mut listener) = (bell.waker(), Listener::new(bell));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sched_setaffinity(None, &core).unwrap();
            while own_processor_time() < WORK {
                std::hint::spin_loop();
            }
            waker.wake();
        });
        let took = scope.spawn(move || {
            sched_setaffinity(None, &core).unwrap();
            listener.hear();
            let before = own_processor_time();
            wait(&mut [&mut listener], None, Idle { spin: Duration::from_secs(60) }, None);
            own_processor_time() - before
        });
        let took = took.join().unwrap();
        // Sharing the core evenly it would have taken as much as the work.
        assert!(took < WORK / 4, "{took:?} of processor time while the other worked for {WORK:?}");
    });
}
