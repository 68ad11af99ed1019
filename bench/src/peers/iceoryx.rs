//! The use of iceoryx2 by several topics: a publish-subscribe service of words, and an event service.

use std::time::{Duration, Instant};

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use crate::failure::{Failure, Trying};
use crate::payload::{Seen, WORD, fill};
use crate::subject::{Place, Waiting};

/// How long a receiver waits for its sender.
const MEETING_LIMIT: Duration = Duration::from_secs(10);

/// The parameters of a service.
#[derive(Clone, Copy)]
pub struct Shape {
    /// The size of a message in bytes.
    pub size: usize,
    /// The number of messages by which a subscriber may lag before its publisher waits.
    pub buffer: usize,
    /// The number of subscribers.
    pub subscribers: usize,
    /// Whether subscribers spin or wait for events.
    pub waiting: Waiting,
}

/// A node of iceoryx2, which must outlive its ports.
pub fn node() -> Result<Node<ipc::Service>, Failure> {
    set_log_level(LogLevel::Fatal);
    let node = NodeBuilder::new().signal_handling_mode(SignalHandlingMode::Disabled);
    node.create::<ipc::Service>().trying("make a node of iceoryx2")
}

/// The sending end of a service.
pub struct Sender {
    publisher: Publisher<ipc::Service, [u64], ()>,
    notifier: Option<Notifier<ipc::Service>>,
    words: usize,
    subscribers: usize,
}

/// The receiving end.
pub struct Receiver {
    subscriber: Subscriber<ipc::Service, [u64], ()>,
    listener: Option<Listener<ipc::Service>>,
}

/// The port factories of one service.
struct Service {
    messages: iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u64], ()>,
    events: Option<iceoryx2::service::port_factory::event::PortFactory<ipc::Service>>,
}

impl Service {
    fn open(node: &Node<ipc::Service>, place: &Place, name: &str, shape: Shape) -> Result<Service, Failure> {
        let name = ServiceName::new(&format!("{}/{name}", place.name())).trying("name a service of iceoryx2")?;
        let messages = node
            .service_builder(&name)
            .publish_subscribe::<[u64]>()
            .max_publishers(1)
            .max_subscribers(shape.subscribers)
            .max_nodes(shape.subscribers + 1)
            .history_size(0)
            .subscriber_max_buffer_size(shape.buffer)
            // Lossless, because a stream that drops unread messages would not be comparable.
            .enable_safe_overflow(false)
            .open_or_create()
            .trying("open a service of iceoryx2")?;
        let events = match shape.waiting {
            Waiting::Spinning => None,
            Waiting::Sleeping => {
                let events = node.service_builder(&name).event();
                let events = events.max_notifiers(1).max_listeners(shape.subscribers).max_nodes(shape.subscribers + 1);
                Some(events.open_or_create().trying("open an event service of iceoryx2")?)
            }
        };
        Ok(Service { messages, events })
    }
}

impl Sender {
    /// The sender of the service `name`.
    pub fn open(node: &Node<ipc::Service>, place: &Place, name: &str, shape: Shape) -> Result<Sender, Failure> {
        let service = Service::open(node, place, name, shape)?;
        let words = shape.size / WORD;
        let publisher = service.messages.publisher_builder().initial_max_slice_len(words);
        let publisher = publisher.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
        let notifier = service.events.map(|events| events.notifier_builder().create());
        Ok(Sender {
            publisher: publisher.create().trying("create a publisher of iceoryx2")?,
            notifier: notifier.transpose().trying("create a notifier of iceoryx2")?,
            words,
            subscribers: shape.subscribers,
        })
    }

    /// Writes a payload in place and publishes it.
    pub fn send(&mut self, first: u64) -> Result<(), Failure> {
        let mut sample = self.publisher.loan_slice_uninit(self.words).trying("borrow memory of iceoryx2")?;
        let words = sample.payload_mut();
        // SAFETY: the memory is valid and owned by this sender; writing words initialises it.
        fill(unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }, first);
        // SAFETY: just filled completely.
        let reached = unsafe { sample.assume_init() }.send().trying("publish by iceoryx2")?;
        if reached != self.subscribers {
            return Err(Failure::new(format!("iceoryx2 reached {reached} of {} subscribers", self.subscribers)));
        }
        if let Some(notifier) = &self.notifier {
            notifier.notify().trying("notify by iceoryx2")?;
        }
        Ok(())
    }
}

impl Receiver {
    /// Creates a receiver of the service `name`. Returns when it is connected to its sender, which another process
    /// creates.
    pub fn open(node: &Node<ipc::Service>, place: &Place, name: &str, shape: Shape) -> Result<Receiver, Failure> {
        let service = Service::open(node, place, name, shape)?;
        let subscriber = service.messages.subscriber_builder().create().trying("make a subscriber of iceoryx2")?;
        let listener = service.events.map(|events| events.listener_builder().create());
        let listener = listener.transpose().trying("make a listener of iceoryx2")?;
        // A publisher does not wait for a subscriber that has not connected yet: samples beyond its buffer are dropped.
        let deadline = Instant::now() + MEETING_LIMIT;
        while service.messages.dynamic_config().number_of_publishers() == 0 {
            if Instant::now() > deadline {
                return Err(Failure::new("the other process has created no publisher of iceoryx2"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        subscriber.has_samples().trying("connect a subscriber of iceoryx2")?;
        Ok(Receiver { subscriber, listener })
    }

    /// Waits for the next payload and reads it in place.
    pub fn receive(&mut self) -> Result<Seen, Failure> {
        loop {
            if let Some(sample) = self.subscriber.receive().trying("receive by iceoryx2")? {
                return Ok(Seen::reading(sample.payload()));
            }
            if let Some(listener) = &self.listener {
                listener.blocking_wait(|_| {}).trying("wait for an event of iceoryx2")?;
            }
        }
    }
}
