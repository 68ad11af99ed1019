//! Loom explores the control-word protocol: every interleaving, and every value that the memory model allows a load to
//! return.

use dflow_protocol::words::{Platform, Progress, Sleeper, State, Watch, Word, publish, ring};
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::sync::{Arc, Condvar, Mutex};
use std::sync::atomic::Ordering as StdOrdering;

/// A word with the kernel's side of its futex: the lock of the wait queue, and the number of wake-ups.
struct ModelWord {
    value: AtomicU64,
    queue: Mutex<()>,
    sleepers: Condvar,
}

impl ModelWord {
    fn new() -> Self {
        Self { value: AtomicU64::new(0), queue: Mutex::new(()), sleepers: Condvar::new() }
    }
}

impl Word for ModelWord {
    fn load(&self, order: StdOrdering) -> u64 {
        self.value.load(order)
    }

    fn store(&self, value: u64, order: StdOrdering) {
        self.value.store(value, order);
    }
}

struct Model;

impl Platform for Model {
    type Word = ModelWord;

    fn fence() {
        fence(Ordering::SeqCst);
    }

    fn wake(word: &ModelWord) {
        drop(word.queue.lock().unwrap());
        word.sleepers.notify_all();
    }

    /// Sleeps on the first word only: the model has no `futex_waitv`, and these tests sleep on one word at a time.
    fn sleep(words: &[(&ModelWord, u64)]) {
        let (word, seen) = words[0];
        let queue = word.queue.lock().unwrap();
        // The kernel compares with the queue locked; a wake takes the same lock.
        if word.value.load(Ordering::Relaxed) == seen {
            drop(word.sleepers.wait(queue).unwrap());
        }
    }
}

/// Waits until `word` moves past `seen`; a lost wake-up is a deadlock, which loom reports.
fn wait_past(word: &ModelWord, ticket: &ModelWord, seen: u64, sleeper: &mut Sleeper) -> Progress {
    loop {
        let value = word.load(StdOrdering::Acquire);
        if value != seen {
            return Progress::decode(value);
        }
        sleeper.prepare::<Model>(ticket, seen);
        let value = word.load(StdOrdering::Acquire);
        if value == seen {
            Model::sleep(&[(word, seen)]);
        }
        sleeper.done::<Model>(ticket);
    }
}

#[test]
fn a_reader_that_sleeps_is_always_woken() {
    loom::model(|| {
        let shared = Arc::new((ModelWord::new(), ModelWord::new()));
        let producer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                let (progress, ticket) = &*shared;
                let mut watch = Watch::default();
                for step in [Progress::open(1), Progress { offset: 1, state: State::Finished }] {
                    publish::<Model>(progress, step);
                    if watch.must_wake::<Model>(ticket, step) {
                        Model::wake(progress);
                    }
                }
            })
        };
        let (progress, ticket) = &*shared;
        let mut sleeper = Sleeper::default();
        let mut seen = wait_past(progress, ticket, 0, &mut sleeper);
        if seen.state == State::Open {
            seen = wait_past(progress, ticket, seen.encode(), &mut sleeper);
        }
        assert_eq!(seen, Progress { offset: 1, state: State::Finished });
        producer.join().unwrap();
    });
}

#[test]
fn committed_bytes_are_visible_with_their_watermark() {
    loom::model(|| {
        let shared = Arc::new((ModelWord::new(), AtomicU64::new(0)));
        let producer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                shared.1.store(7, Ordering::Relaxed);
                publish::<Model>(&shared.0, Progress::open(8));
            })
        };
        if Progress::decode(shared.0.load(StdOrdering::Acquire)).offset == 8 {
            assert_eq!(shared.1.load(Ordering::Relaxed), 7, "the payload came later than its watermark");
        }
        producer.join().unwrap();
    });
}

/// Credit in both directions: the producer sleeps on the reader's position and the reader on the watermark, with a
/// window of one byte.
#[test]
fn credit_and_data_never_wait_for_each_other() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new([ModelWord::new(), ModelWord::new(), ModelWord::new(), ModelWord::new()]);
        let producer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                let [progress, producer_ticket, position, reader_ticket] = &*shared;
                let (mut watch, mut sleeper) = (Watch::default(), Sleeper::default());
                let mut read = 0;
                for written in 1..=2 {
                    while written - read > 1 {
                        read = wait_past(position, producer_ticket, Progress::open(read).encode(), &mut sleeper).offset;
                    }
                    publish::<Model>(progress, Progress::open(written));
                    if watch.must_wake::<Model>(reader_ticket, Progress::open(written)) {
                        Model::wake(progress);
                    }
                }
            })
        };
        let [progress, producer_ticket, position, reader_ticket] = &*shared;
        let (mut watch, mut sleeper) = (Watch::default(), Sleeper::default());
        let mut read = 0;
        while read < 2 {
            let written = wait_past(progress, reader_ticket, Progress::open(read).encode(), &mut sleeper).offset;
            assert!(written == read + 1, "the window of one byte was overrun");
            read = written;
            publish::<Model>(position, Progress::open(read));
            if watch.must_wake::<Model>(producer_ticket, Progress::open(read)) {
                Model::wake(position);
            }
        }
        producer.join().unwrap();
    });
}

/// The daemon ends a reader's window before it lets the producer continue elsewhere, so a reader that sees bytes past
/// the end has already been told where the end is.
#[test]
fn a_reader_learns_of_its_windows_end_before_it_sees_bytes_past_it() {
    loom::model(|| {
        let progress = Arc::new(ModelWord::new());
        let bells = Arc::new([ModelWord::new(), ModelWord::new()]);
        let window_end = Arc::new(Mutex::new(None));
        let daemon = {
            let (bells, window_end) = (Arc::clone(&bells), Arc::clone(&window_end));
            loom::thread::spawn(move || {
                *window_end.lock().unwrap() = Some(1);
                ring::<Model>(&bells[0], 1);
                ring::<Model>(&bells[1], 1);
            })
        };
        let producer = {
            let (progress, bells) = (Arc::clone(&progress), Arc::clone(&bells));
            loom::thread::spawn(move || {
                publish::<Model>(&progress, Progress::open(1));
                if bells[1].load(StdOrdering::Acquire) == 1 {
                    publish::<Model>(&progress, Progress::open(2));
                }
            })
        };
        let watermark = Progress::decode(progress.load(StdOrdering::Acquire)).offset;
        let bell = bells[0].load(StdOrdering::Acquire);
        if watermark > 1 {
            assert_eq!(bell, 1, "bytes past the window's end were seen before the end");
            assert_eq!(*window_end.lock().unwrap(), Some(1));
        }
        daemon.join().unwrap();
        producer.join().unwrap();
    });
}

/// A reader joins while the producer commits: the producer sees and wakes it, or it sees the bytes.
#[test]
fn a_reader_that_joins_is_woken_by_a_producer_that_has_just_learned_of_it() {
    loom::model(|| {
        let shared = Arc::new([ModelWord::new(), ModelWord::new(), ModelWord::new()]);
        let producer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                let [progress, ticket, bell] = &*shared;
                publish::<Model>(progress, Progress::open(1));
                // No reader is known yet; the bell shows whether one has joined.
                if bell.load(StdOrdering::Acquire) == 1
                    && Watch::default().must_wake::<Model>(ticket, Progress::open(1))
                {
                    Model::wake(progress);
                }
            })
        };
        let [progress, ticket, bell] = &*shared;
        ring::<Model>(bell, 1);
        let mut sleeper = Sleeper::default();
        let seen = wait_past(progress, ticket, 0, &mut sleeper);
        assert_eq!(seen.offset, 1);
        producer.join().unwrap();
    });
}
