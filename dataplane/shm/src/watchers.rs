//! Watching more words than one sleep can: threads that sleep on the words of idle ports, and ring a doorbell when one
//! of them changes.
//!
//! A thread that serves thousands of ports watches the few active ones itself ([`crate::wait`]) and leaves the others
//! here. It sleeps on one word for all of these, and learns which of them has news without looking at the others.

use crate::bells::Bell;
use crate::control::PeerControl;
use crate::doorbell::Doorbell;
use crate::futex::{self, Kernel, MAX_WORDS};
use crate::wait::Wait;
use dflow_protocol::PortId;
use dflow_protocol::words::Platform;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The words that one thread watches beside its own.
const WORDS: usize = MAX_WORDS - 1;
/// The stack of a thread, in bytes: it needs only the list of its words.
const STACK: usize = 128 * 1024;

/// The word of another process that a port, or an attempt, waits for.
#[derive(Clone, Debug)]
pub struct PeerWord(Word);

#[derive(Clone, Debug)]
enum Word {
    Port(Arc<PeerControl>, PortId),
    Bell(Bell),
}

impl PeerWord {
    pub(crate) fn of_port(page: Arc<PeerControl>, port: PortId) -> Self {
        Self(Word::Port(page, port))
    }

    pub(crate) fn of_bell(bell: Bell) -> Self {
        Self(Word::Bell(bell))
    }

    fn word(&self) -> &AtomicU64 {
        match &self.0 {
            Word::Port(page, port) => &page.port(*port).progress,
            Word::Bell(bell) => bell.word(),
        }
    }
}

/// A wait for one word of another process, by a thread that does not own the port which has announced it.
#[derive(Debug)]
pub struct WordWait {
    word: PeerWord,
    value: u64,
}

impl WordWait {
    /// Waits until `word` differs from the value that its port has announced: [`Wait::peer_word`].
    #[must_use]
    pub fn new(word: PeerWord, value: u64) -> Self {
        Self { word, value }
    }
}

/// Its port announces the sleep itself.
impl Wait for WordWait {
    fn ready(&mut self) -> bool {
        self.word.word().load(Ordering::Acquire) != self.value
    }

    fn settle(&mut self) {}

    fn announce(&mut self) {}

    fn word(&self) -> Option<(&AtomicU64, u64)> {
        Some((self.word.word(), self.value))
    }

    fn retract(&mut self) {}
}

/// The watching threads. Dropping it ends them.
pub struct Watchers {
    threads: Vec<Watcher>,
    /// Threads that still sleep on words which were forgotten.
    stale: BTreeSet<usize>,
    /// The thread that watches for each name.
    places: HashMap<u64, usize>,
    news: Arc<News>,
}

struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct News {
    bell: Arc<Doorbell>,
    is_some: AtomicBool,
    names: Mutex<Vec<u64>>,
}

#[derive(Default)]
struct Shared {
    watched: Mutex<Vec<Watched>>,
    /// Changes when the thread has to look at its list again.
    changes: AtomicU64,
    over: AtomicBool,
}

#[derive(Clone)]
struct Watched {
    name: u64,
    word: PeerWord,
    value: u64,
}

impl Watchers {
    /// Watchers without threads as yet. `bell` is rung when there is news.
    #[must_use]
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let news = News { bell, is_some: AtomicBool::new(false), names: Mutex::default() };
        Self { threads: Vec::new(), stale: BTreeSet::new(), places: HashMap::new(), news: Arc::new(news) }
    }

    /// Watches these words, each with a name that is reported once when the word differs from the value that its port
    /// has announced. A name that is watched already is watched for the new word instead.
    ///
    /// # Errors
    /// If no thread can be started. Words that are not watched stay in the list.
    pub fn watch(&mut self, list: &mut Vec<(u64, PeerWord, u64)>) -> std::io::Result<()> {
        let mut changed = Vec::new();
        let outcome = loop {
            let Some((name, word, value)) = list.pop() else { break Ok(()) };
            self.forget(name);
            match self.thread_with_room(changed.last().copied()) {
                Ok(index) => {
                    lock(&self.threads[index].shared.watched).push(Watched { name, word, value });
                    self.places.insert(name, index);
                    if changed.last() != Some(&index) {
                        changed.push(index);
                    }
                }
                Err(error) => {
                    list.push((name, word, value));
                    break Err(error);
                }
            }
        };
        for index in changed {
            self.stale.remove(&index);
            self.threads[index].shared.look_again();
        }
        outcome
    }

    /// Stops watching for a name. News of it may be queued already, and its thread keeps the page of the word mapped until
    /// the thread's list changes or [`Watchers::let_go`].
    pub fn forget(&mut self, name: u64) {
        if let Some(index) = self.places.remove(&name) {
            let mut watched = lock(&self.threads[index].shared.watched);
            let before = watched.len();
            watched.retain(|watched| watched.name != name);
            if watched.len() < before {
                self.stale.insert(index);
            }
        }
    }

    /// Wakes the threads that sleep on forgotten words, so that they let go of the pages. To be called now and then: a
    /// wake-up for each [`Watchers::forget`] would cost more than the page.
    pub fn let_go(&mut self) {
        for index in std::mem::take(&mut self.stale) {
            self.threads[index].shared.look_again();
        }
    }

    /// Takes the names whose words have changed. They are not watched any more.
    pub fn take_news(&mut self) -> Vec<u64> {
        if !self.news.is_some.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let names = std::mem::take(&mut *lock(&self.news.names));
        for name in &names {
            // It may have been watched again meanwhile for another value; its news is reported all the same.
            self.forget(*name);
        }
        names
    }

    /// How many words are watched.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn thread_with_room(&mut self, first: Option<usize>) -> std::io::Result<usize> {
        let has_room = |index: &usize| lock(&self.threads[*index].shared.watched).len() < WORDS;
        if let Some(index) = first.into_iter().chain(0..self.threads.len()).find(has_room) {
            return Ok(index);
        }
        let shared = Arc::<Shared>::default();
        let (watched, news) = (Arc::clone(&shared), Arc::clone(&self.news));
        let thread =
            std::thread::Builder::new().name("watch".into()).stack_size(STACK).spawn(move || watched.run(&news))?;
        self.threads.push(Watcher { shared, thread: Some(thread) });
        Ok(self.threads.len() - 1)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for watcher in &self.threads {
            watcher.shared.over.store(true, Ordering::Release);
            watcher.shared.look_again();
        }
        for thread in self.threads.iter_mut().filter_map(|watcher| watcher.thread.take()) {
            // A panic there has been printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look_again(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        Kernel::wake(&self.changes);
    }

    fn run(&self, news: &News) {
        let mut watched = Vec::new();
        loop {
            let changes = self.changes.load(Ordering::Acquire);
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let mut list = lock(&self.watched);
            let moved: Vec<Watched> =
                list.extract_if(.., |it| it.word.word().load(Ordering::Acquire) != it.value).collect();
            watched.clone_from(&list);
            drop(list);
            if !moved.is_empty() {
                lock(&news.names).extend(moved.iter().map(|it| it.name));
                news.is_some.store(true, Ordering::Release);
                news.bell.ring();
            }
            let mut words = Vec::with_capacity(watched.len() + 1);
            words.push((&self.changes, changes));
            words.extend(watched.iter().map(|it| (it.word.word(), it.value)));
            futex::sleep_until(&words, None);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds the lock, so a poisoned list would still be consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Control;
    use crate::doorbell::Listener;
    use crate::wait::{Idle, wait};
    use dflow_protocol::words::{Progress, publish};
    use std::os::fd::AsFd;

    #[test]
    fn pages_of_forgotten_words_are_let_go() {
        let control = Control::create().expect("a page");
        let fd = rustix::io::fcntl_dupfd_cloexec(control.segment().as_fd(), 3).expect("a descriptor");
        let page = Arc::new(PeerControl::adopt(fd).expect("it is a page"));
        let mut watchers = Watchers::new(Arc::default());
        let word = |port| PeerWord::of_port(Arc::clone(&page), PortId(port));
        watchers.watch(&mut (0..3).map(|port| (port.into(), word(port), 0)).collect()).expect("a thread");
        // The list, and the copy of the thread, which sleeps on it.
        while Arc::strong_count(&page) < 1 + 2 * 3 {
            std::thread::yield_now();
        }
        (0..3).for_each(|name| watchers.forget(name));
        watchers.let_go();
        while Arc::strong_count(&page) > 1 {
            std::thread::yield_now();
        }
        assert!(watchers.is_empty() && watchers.stale.is_empty());
    }

    #[test]
    fn whatever_moves_is_told_once_among_thousands() {
        const PORTS: u32 = 1000;
        let control = Control::create().expect("a page");
        let fd = rustix::io::fcntl_dupfd_cloexec(control.segment().as_fd(), 3).expect("a descriptor");
        let page = Arc::new(PeerControl::adopt(fd).expect("it is a page"));
        let bell = Arc::new(Doorbell::default());
        let mut listener = Listener::new(Arc::clone(&bell));
        let mut watchers = Watchers::new(bell);
        let at = |offset| Progress::open(offset);
        let word = |port| PeerWord::of_port(Arc::clone(&page), PortId(port));
        let mut list = (0..PORTS).map(|port| (port.into(), word(port), at(0).encode())).collect();
        watchers.watch(&mut list).expect("threads");
        assert_eq!((watchers.len(), list.len()), (PORTS as usize, 0));
        for round in 1..=50u64 {
            // Before it is watched again, while it is, and after.
            let ports = [0, 1, 2].map(|step| (round as u32 * 37 + step * 131) % PORTS);
            for port in ports {
                publish::<Kernel>(&control.port(PortId(port)).progress, at(round));
                Kernel::wake(&control.port(PortId(port)).progress);
            }
            let mut told = Vec::new();
            while told.len() < ports.len() {
                listener.hear();
                let news = watchers.take_news();
                if news.is_empty() {
                    wait(&mut [&mut listener], None, Idle::SLEEP, None);
                }
                told.extend(news);
            }
            let mut expected = ports.map(u64::from);
            expected.sort_unstable();
            told.sort_unstable();
            assert_eq!(told, expected);
            let mut list = ports.map(|port| (port.into(), word(port), at(round).encode())).into();
            watchers.watch(&mut list).expect("threads");
        }
        watchers.forget(7);
        assert_eq!(watchers.len(), PORTS as usize - 1);
    }
}
