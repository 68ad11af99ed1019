//! Nodes of one cluster on loopback, and something to wait with.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod hostile;

use dflow_transport::identity::{ClusterCa, Identity};
use dflow_transport::quic::{Connection, Incoming, QuicNode, QuicSettings};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// Far longer than anything takes that is going to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something that paths and connections wake.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Waits until it has been rung since the last call; `false` if it was not within this time.
    pub fn wait(&self, limit: Duration) -> bool {
        let rung = self.rung.lock().expect("no thread panics while it holds the lock");
        let (mut rung, _) = self
            .changed
            .wait_timeout_while(rung, limit, |rung| !*rung)
            .expect("no thread panics while it holds the lock");
        std::mem::take(&mut *rung)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().expect("no thread panics while it holds the lock") = true;
        self.changed.notify_all();
    }
}

pub fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn settings() -> QuicSettings {
    QuicSettings { endpoints: 1, ..QuicSettings::default() }
}

pub fn node(identity: &Identity) -> (QuicNode, Incoming) {
    QuicNode::bind(localhost(), identity, settings()).expect("a free port")
}

/// Two nodes of one cluster, `a` and `b`.
pub struct Pair {
    pub ca: ClusterCa,
    pub nodes: [QuicNode; 2],
    pub incoming: Incoming,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(settings())
    }

    pub fn with(settings: QuicSettings) -> Self {
        let ca = ClusterCa::create("test").expect("an authority");
        let [(a, _), (b, incoming)] = ["a", "b"].map(|name| {
            let identity = ca.issue(name, DAY).expect("an identity");
            QuicNode::bind(localhost(), &identity, settings.clone()).expect("a free port")
        });
        Self { ca, nodes: [a, b], incoming }
    }

    /// `a` dials `b`; both ends.
    pub fn connect(&mut self) -> [Connection; 2] {
        let dial = self.nodes[0].connect(self.nodes[1].local_address(), "b");
        let accepted = self.incoming.wait().expect("it is accepted");
        [dial.wait().expect("they are of one cluster"), accepted]
    }
}

/// Everything that is logged at the level of warnings.
pub fn log() -> &'static Log {
    struct Writer;
    impl std::io::Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            log().text().extend_from_slice(bytes);
            log().written.notify_all();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
        subscriber.with_writer(|| Writer).init();
        Log::default()
    })
}

/// The log, and a condition variable for more of it.
#[derive(Default)]
pub struct Log {
    text: Mutex<Vec<u8>>,
    written: Condvar,
}

impl Log {
    fn text(&self) -> MutexGuard<'_, Vec<u8>> {
        self.text.lock().expect("no thread panics while it holds the lock")
    }
}

/// The lines of the log in which this address is.
pub fn lines_about(address: SocketAddr) -> Vec<String> {
    lines(&log().text(), address)
}

/// The same, once this holds for them.
#[track_caller]
pub fn lines_about_once(address: SocketAddr, holds: impl Fn(&[String]) -> bool) -> Vec<String> {
    let not_yet = |text: &mut Vec<u8>| !holds(&lines(text, address));
    let waited = log().written.wait_timeout_while(log().text(), PATIENCE, not_yet);
    let (text, time) = waited.expect("no thread panics while it holds the lock");
    let lines = lines(&text, address);
    drop(text);
    assert!(!time.timed_out(), "{lines:?}");
    lines
}

fn lines(text: &[u8], address: SocketAddr) -> Vec<String> {
    let (text, address) = (std::str::from_utf8(text).expect("text"), address.to_string());
    text.lines().filter(|line| line.contains(&address)).map(str::to_owned).collect()
}

/// The peer may know of its refusal before the node has said so; it counts it then.
pub fn until_refused(node: &QuicNode) {
    let start = Instant::now();
    while node.counters().refused == 0 {
        assert!(start.elapsed() < PATIENCE, "no connection was refused");
        std::thread::yield_now();
    }
    assert_eq!(node.counters().refused, 1);
}
