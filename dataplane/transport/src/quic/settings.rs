//! How QUIC is tuned.

use super::first_hop::FirstHop;
use dflow_protocol::limits::MAX_FLOWS;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The largest packet, in bytes: fits a loopback interface and UDP over IPv4.
const LARGEST_PACKET: u16 = 65_000;
/// Flow-control room beyond that for stream bytes, so that messages pass when it is used up.
const MESSAGE_ROOM: u64 = 2 * 1024 * 1024;
/// The initial limit on a peer's open streams. It grows with the flows: quinn pays memory and time for each stream that
/// could be opened.
pub(super) const FIRST_STREAMS: u32 = 1024;
/// The highest limit on a peer's open streams: one for each flow, and a few for the messages of two paths.
pub(super) const MOST_STREAMS: u32 = MAX_FLOWS as u32 + 16;

/// The congestion control algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438, which most other hosts of a network use.
    #[default]
    Cubic,
    /// RFC 6582.
    NewReno,
    /// Models bandwidth and delay; for long routes whose loss is not a sign of congestion. Experimental.
    Bbr,
}

/// Settings of [`super::QuicNode`]. The default is right for a data centre's network and for loopback.
#[derive(Clone, Debug)]
pub struct QuicSettings {
    /// The number of sockets, each with its own thread; connections are spread over them. From 1 to 64.
    pub endpoints: usize,
    /// The interval of keep-alives on an idle connection. At most a quarter of the idle timeout is used.
    pub keep_alive: Duration,
    /// A connection that is silent for this long is lost. The shorter setting of the two ends applies to both.
    pub idle_timeout: Duration,
    /// A peer that does not complete the handshake within this time is refused.
    pub handshake_timeout: Duration,
    /// The assumed round-trip time until one is measured. A lost first packet is sent again after three times this, then after
    /// twice as long, and so on. RFC 9002 recommends 333 ms for an unknown network, which allows two tries in two seconds.
    pub first_round_trip: Duration,
    /// The most connections from other nodes at once.
    pub max_connections: usize,
    /// The most bytes of a connection in flight: at least bandwidth times round-trip time of the network.
    pub in_flight: u64,
    /// The initial congestion window, in bytes. Below the largest packet, a probe for the packet size would fill it and hold
    /// back everything else until it is acknowledged.
    pub initial_window: u64,
    /// The congestion control algorithm.
    pub congestion: Congestion,
    /// The kernel's buffers of each socket, in bytes. An unprivileged process gets at most `net.core.rmem_max` and
    /// `wmem_max`.
    pub socket_buffer: usize,
    /// The size of the first packets, in bytes (1200 to 16000): one that every route carries.
    pub first_packet: u16,
    /// The largest packets, in bytes, as far as the device allows. The limit of the rest of the route is probed.
    pub largest_packet: u16,
    /// The search for the largest packet ends when the remaining gain is below this, in bytes.
    pub packet_step: u16,
    /// Whether the kernel cuts large writes into packets (GSO).
    pub segmentation_offload: bool,
    /// The other side acknowledges every this many packets.
    pub acknowledge_every: u32,
}

impl Default for QuicSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            endpoints: (cores / 4).clamp(1, 8),
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(5),
            first_round_trip: Duration::from_millis(50),
            max_connections: 4096,
            in_flight: 4 * 1024 * 1024,
            initial_window: 256 * 1024,
            congestion: Congestion::default(),
            socket_buffer: 8 * 1024 * 1024,
            first_packet: 1200,
            largest_packet: LARGEST_PACKET,
            packet_step: 20,
            segmentation_offload: true,
            acknowledge_every: 10,
        }
    }
}

impl QuicSettings {
    /// The settings for one peer: packets are limited to what this machine's device towards it takes, and a peer on this
    /// machine gets the largest at once. Unchanged if the kernel has no route to the peer.
    #[must_use]
    pub fn for_peer(&self, peer: IpAddr) -> Self {
        let mut settings = self.clone();
        if let Ok(hop) = FirstHop::to(peer) {
            settings.largest_packet = settings.largest_packet.min(hop.largest_packet);
            if hop.is_local {
                // quinn probes half-way up first, unless that is within one step: then it probes the upper end.
                settings.packet_step = settings.largest_packet.saturating_sub(settings.first_packet) / 2 + 1;
            }
        }
        settings
    }

    /// As quinn's configuration. `bidirectional`: how many bidirectional streams (the management channel) the other side may
    /// open; `idle_timeout`: overrides the setting.
    pub(super) fn transport(&self, bidirectional: u32, idle_timeout: Duration) -> TransportConfig {
        let mut config = TransportConfig::default();
        let window = self.receive_window();
        config
            .max_concurrent_uni_streams(VarInt::from_u32(FIRST_STREAMS))
            .max_concurrent_bidi_streams(VarInt::from_u32(bidirectional))
            .stream_receive_window(window)
            .receive_window(window)
            .send_window(self.in_flight.saturating_add(MESSAGE_ROOM))
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(self.keep_alive.min(idle_timeout / 4)))
            .max_idle_timeout(IdleTimeout::try_from(idle_timeout).ok())
            .initial_rtt(self.first_round_trip)
            .initial_mtu(self.first_packet.clamp(1200, 16_000))
            .enable_segmentation_offload(self.segmentation_offload);
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.largest_packet.clamp(1200, LARGEST_PACKET)).minimum_change(self.packet_step.max(1));
        config.mtu_discovery_config(Some(discovery));
        let mut acknowledge = AckFrequencyConfig::default();
        acknowledge.ack_eliciting_threshold(VarInt::from_u32(self.acknowledge_every.max(1)));
        config.ack_frequency_config(Some(acknowledge));
        let initial = self.initial_window;
        config.congestion_controller_factory(match self.congestion {
            Congestion::Cubic => factory(CubicConfig::default(), |config| config.initial_window(initial)),
            Congestion::NewReno => factory(NewRenoConfig::default(), |config| config.initial_window(initial)),
            Congestion::Bbr => factory(BbrConfig::default(), |config| config.initial_window(initial)),
        });
        config
    }

    /// Credit on real memory does the flow control. QUIC's own window is twice the bytes in flight, so that it is never the
    /// narrower one.
    fn receive_window(&self) -> VarInt {
        VarInt::try_from(self.in_flight.saturating_mul(2).saturating_add(MESSAGE_ROOM)).unwrap_or(VarInt::MAX)
    }
}

fn factory<C: ControllerFactory + Send + Sync + 'static>(
    mut config: C,
    change: impl FnOnce(&mut C) -> &mut C,
) -> Arc<dyn ControllerFactory + Send + Sync> {
    change(&mut config);
    Arc::new(config)
}
