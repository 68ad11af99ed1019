//! How QUIC is tuned.

use super::way::Way;
use dflow_protocol::limits::MAX_FLOWS;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The largest packet that a loopback interface carries; also what fits into UDP over IPv4.
const LARGEST_PACKET: u16 = 65_000;
/// Room beside that for bytes of streams, so that messages pass when it is full.
const MESSAGE_ROOM: u64 = 2 * 1024 * 1024;
/// Streams that a peer may have open at once, at first. More as it has more flows: a connection with room for all of
/// them from the beginning costs memory and time.
pub(super) const FIRST_STREAMS: u32 = 1024;
/// The most streams that a peer may have open at once: one for each flow, and a few for messages of two paths.
pub(super) const MOST_STREAMS: u32 = MAX_FLOWS as u32 + 16;

/// What decides how fast is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438; what most of the others on a network use.
    #[default]
    Cubic,
    /// RFC 6582.
    NewReno,
    /// A model of the network's bandwidth and delay; for long ways with loss that is no sign of congestion. Experimental.
    Bbr,
}

/// Settings of [`super::QuicNode`]. The default is right for a data centre's network and for loopback.
#[derive(Clone, Debug)]
pub struct QuicSettings {
    /// Sockets, each with a thread of its own; connections are spread over them. At least 1, at most 64.
    pub endpoints: usize,
    /// A sign of life is sent when nothing else was for so long, or for a quarter of the time after which the connection
    /// is lost, if that is less.
    pub keep_alive: Duration,
    /// A connection on which nothing has come for so long is lost. The shorter of what both ends say holds for both.
    pub idle_timeout: Duration,
    /// A peer that has not proven who it is within this time is refused.
    pub handshake_timeout: Duration,
    /// How long a round trip is taken to take until one has been measured: a first packet that is lost is sent again after
    /// three times that, then after twice as long, and so on. RFC 9002 says 333 ms for an unknown network, which is two
    /// tries in two seconds.
    pub first_round_trip: Duration,
    /// Connections that other nodes may have to this node at once.
    pub max_connections: usize,
    /// Bytes that a connection may have under way: what the network carries times its round-trip time.
    pub in_flight: u64,
    /// Bytes that are under way before anything is known of the network. A packet that tries how large packets may be
    /// counts, too: with less than the largest, it holds back everything else until it is acknowledged.
    pub initial_window: u64,
    /// Which congestion control.
    pub congestion: Congestion,
    /// The kernel's buffers of each socket, in bytes. Without the right to raise them, its own limit holds
    /// (`net.core.rmem_max` and `wmem_max`).
    pub socket_buffer: usize,
    /// The size of the first packets, in bytes (1200 to 16000): what every way to a peer carries.
    pub first_packet: u16,
    /// The largest packets that are tried, in bytes, where the device takes them; the limits of the rest of a way are
    /// found out by themselves.
    pub largest_packet: u16,
    /// Larger packets are searched for until what is left to be gained is less than so many bytes.
    pub packet_step: u16,
    /// Whether the kernel cuts large writes into packets.
    pub segmentation_offload: bool,
    /// The other side acknowledges once for so many packets.
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
    /// The same for connections with one peer: no packet is tried that this machine's own device does not take, and the
    /// largest at once where the peer is on this machine. Unchanged if the kernel knows of no way there.
    #[must_use]
    pub fn on_the_way_to(&self, peer: IpAddr) -> Self {
        let mut settings = self.clone();
        if let Ok(way) = Way::to(peer) {
            settings.largest_packet = settings.largest_packet.min(way.largest_packet);
            if way.is_local {
                // quinn looks half-way up first, unless that is no more than a step: then at the upper end.
                settings.packet_step = settings.largest_packet.saturating_sub(settings.first_packet) / 2 + 1;
            }
        }
        settings
    }

    /// What quinn makes of them. `bidirectional`: streams for the management channel that the other side may open;
    /// `idle_timeout`: in place of that of the settings.
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

    /// Flow control is done by credit, on memory that there is; QUIC's own must only hold what is under way, twice over,
    /// so that it never is the narrower one.
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
