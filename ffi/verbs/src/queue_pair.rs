//! Creating, connecting and ending reliable queue pairs. Posting requests to them is in `post`.

use crate::completion::{Attachment, CompletionQueue, failed};
use crate::device::{check, last_error};
use crate::endpoint::Endpoint;
use crate::error::{DeviceError, QueueError};
use crate::gid::GidEntry;
use crate::post::Scratch;
use crate::region::ProtectionDomain;
use crate::slow::timed;
use crate::window::Window;
use rdma_sys::{
    ibv_access_flags, ibv_create_qp, ibv_destroy_qp, ibv_modify_qp, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask as mask,
    ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_query_qp,
};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The parameters with which a queue pair is created.
#[derive(Clone, Debug)]
pub struct QueuePairConfig {
    /// The port of the device, starting at 1.
    pub port: u8,
    /// The local address on that port.
    pub gid: GidEntry,
    /// Maximum number of sends, writes and reads in flight.
    pub send_depth: u32,
    /// Maximum number of posted receives.
    pub receive_depth: u32,
    /// Minimum capacity for inline data of a request, in bytes; 0 disables inline data.
    pub inline: u32,
    /// Whether the peer may write to memory for which it has the key.
    pub remote_write: bool,
    /// Whether the peer may read memory for which it has the key.
    pub remote_read: bool,
}

/// The parameters of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Retransmission timeout: an unacknowledged packet is sent again after 4.096 µs × 2^n, with n from 1 to 31 (14 is
    /// 67 ms).
    pub timeout: u8,
    /// Maximum number of retransmissions, from 0 to 6, before the peer is considered lost. The value 7, which verbs
    /// also allow, is excluded because soft-RoCE retries without end for it.
    pub retries: u8,
    /// Maximum number of retries, from 0 to 6, of a message to a peer that has no receive posted; 7 retries without
    /// end.
    pub receiver_retries: u8,
    /// The minimum pause before such a retry, which the peer requests, encoded as in verbs from 0 to 31 (12 is 0.64
    /// ms).
    pub receiver_timer: u8,
    /// Maximum number of RDMA READs in flight in each direction; reduced to the device's maximum.
    pub reads: u8,
    /// The traffic class of the packets; its upper six bits are the DSCP.
    pub traffic_class: u8,
    /// Maximum number of routers that a packet may pass.
    pub hop_limit: u8,
    /// The service level, from 0 to 7.
    pub service_level: u8,
}

impl Default for Connection {
    /// Considers a peer lost after about two seconds. The retransmission timeout of a quarter of a second tolerates a
    /// virtual machine that is late on a busy host: retransmissions add load, and soft-RoCE of Linux 6.1 miscounts
    /// after them.
    fn default() -> Self {
        Self {
            timeout: 16,
            retries: 6,
            receiver_retries: 6,
            receiver_timer: 12,
            reads: 16,
            traffic_class: 0,
            hop_limit: 64,
            service_level: 0,
        }
    }
}

/// The state of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum QueuePairState {
    /// Just created, or closed: nothing can be posted.
    Reset,
    /// Receives can be posted, but no packets are accepted yet.
    Initialized,
    /// It receives.
    ReadyToReceive,
    /// It receives and sends.
    Connected,
    /// It has failed or was ended: every posted request is flushed.
    Error,
}

impl fmt::Display for QueuePairState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "reset",
            Self::Initialized => "initialized",
            Self::ReadyToReceive => "ready to receive",
            Self::Connected => "connected",
            Self::Error => "error",
        })
    }
}

impl QueuePairState {
    const ALL: [Self; 5] = [Self::Reset, Self::Initialized, Self::ReadyToReceive, Self::Connected, Self::Error];

    fn from_raw(raw: ibv_qp_state::Type) -> Self {
        match raw {
            ibv_qp_state::IBV_QPS_RESET => Self::Reset,
            ibv_qp_state::IBV_QPS_INIT => Self::Initialized,
            ibv_qp_state::IBV_QPS_RTR => Self::ReadyToReceive,
            ibv_qp_state::IBV_QPS_RTS | ibv_qp_state::IBV_QPS_SQD => Self::Connected,
            _ => Self::Error,
        }
    }
}

/// One end of a reliable connection.
///
/// It holds the memory of every posted request until the request's completion has been polled. After the drop, the
/// device uses none of this memory, no packet of the connection can change the memory of this side, and completions
/// that were not polled are lost.
pub struct QueuePair {
    pub(crate) raw: NonNull<ibv_qp>,
    domain: ProtectionDomain,
    endpoint: Endpoint,
    port: u8,
    gid_index: u8,
    max_inline: u32,
    /// The state that this process has set. The device may have moved to the error state since.
    state: AtomicU8,
    pub(crate) send: ManuallyDrop<Attachment>,
    pub(crate) receive: ManuallyDrop<Attachment>,
    pub(crate) scratch: Mutex<Scratch>,
    /// The windows that were ever bound to it; they are freed before it.
    windows: Mutex<Vec<Weak<Window>>>,
}

// SAFETY: libibverbs allows calls on one queue pair from every thread; the other fields are behind locks.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueuePair({:#08x}, {})", self.endpoint.queue_pair, self.reached())
    }
}

impl QueuePair {
    /// Creates a queue pair to which receives can be posted at once. Completions go to the two queues, which may be the
    /// same.
    ///
    /// # Errors
    /// If a depth is out of range or exceeds the room left in its completion queue, or if the device rejects the
    /// request.
    pub fn new(
        domain: &ProtectionDomain,
        send: &CompletionQueue,
        receive: &CompletionQueue,
        config: &QueuePairConfig,
    ) -> Result<Self, QueueError> {
        let context = domain.context();
        if !send.context().is_same(context) || !receive.context().is_same(context) {
            return Err(QueueError::OtherContext);
        }
        let most = context.max_queue_depth();
        for (what, wanted) in [("send queue", config.send_depth), ("receive queue", config.receive_depth)] {
            if !(1..=most).contains(&wanted) {
                return Err(QueueError::Depth { what, wanted, most, device: context.name().to_owned() });
            }
        }
        let port = context.port(config.port).map_err(in_queue)?;
        let packet_sequence = random_sequence().map_err(|source| failed(context, "draw a random number", source))?;
        let send_place = send.attach(config.send_depth)?;
        let receive_place = receive.attach(config.receive_depth)?;

        // SAFETY: plain numbers and pointers, for which zeroes are valid.
        let mut wanted: ibv_qp_init_attr = unsafe { MaybeUninit::zeroed().assume_init() };
        wanted.send_cq = send.raw();
        wanted.recv_cq = receive.raw();
        wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
        wanted.cap.max_send_wr = config.send_depth;
        wanted.cap.max_recv_wr = config.receive_depth;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = config.inline;
        let made = timed(context, "make a queue pair", || {
            // SAFETY: domain and completion queues are alive; the attachments below keep the queues alive as long as
            // the queue pair.
            NonNull::new(unsafe { ibv_create_qp(domain.raw(), &raw mut wanted) }).ok_or_else(last_error)
        });
        let raw = made.map_err(|source| failed(context, "make a queue pair", source))?;
        // SAFETY: just created; the number does not change.
        let number = unsafe { (*raw.as_ptr()).qp_num };
        let endpoint =
            Endpoint { queue_pair: number, packet_sequence, gid: config.gid.gid, lid: port.lid, mtu: port.active_mtu };
        let pair = Self {
            raw,
            domain: domain.clone(),
            endpoint,
            port: config.port,
            gid_index: config.gid.index,
            // The device may grant more than requested, but a capacity of 0 stays 0.
            max_inline: if config.inline == 0 { 0 } else { wanted.cap.max_inline_data },
            state: AtomicU8::new(QueuePairState::Reset as u8),
            send: ManuallyDrop::new(send_place),
            receive: ManuallyDrop::new(receive_place),
            scratch: Mutex::new(Scratch::new(config.send_depth.max(config.receive_depth) as usize)),
            windows: Mutex::new(Vec::new()),
        };
        pair.initialize(config)?;
        Ok(pair)
    }

    /// The data with which the peer connects to this end.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Its number on the device, as in [`crate::Completion`].
    #[must_use]
    pub fn number(&self) -> u32 {
        self.endpoint.queue_pair
    }

    /// Capacity for inline data of a request, in bytes; 0 if disabled.
    #[must_use]
    pub fn max_inline(&self) -> usize {
        self.max_inline as usize
    }

    /// How many requests can be posted to the send queue now. The room of an unsignaled request is returned with the
    /// completion of a later request.
    #[must_use]
    pub fn free_sends(&self) -> usize {
        self.send.lock().free()
    }

    /// The protection domain of its memory.
    #[must_use]
    pub fn domain(&self) -> &ProtectionDomain {
        &self.domain
    }

    /// Connects to the peer's end; the peer must do the same. The queue pair can then send and receive.
    ///
    /// # Errors
    /// If it has been connected before, or if the device rejects the request, for example because the peer's GID is not
    /// reachable.
    pub fn connect(&self, peer: &Endpoint, connection: &Connection) -> Result<(), QueueError> {
        let context = self.domain.context();
        if self.reached() != QueuePairState::Initialized {
            return Err(QueueError::State { action: "connect", state: self.reached() });
        }
        peer.check().map_err(|_| failed(context, "connect to an invalid endpoint", Errno::INVAL))?;
        let reads = connection.reads.min(context.max_reads());
        let mut attributes = no_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
        attributes.path_mtu = peer.mtu.min(self.endpoint.mtu).raw();
        attributes.dest_qp_num = peer.queue_pair;
        attributes.rq_psn = peer.packet_sequence;
        attributes.max_dest_rd_atomic = reads;
        attributes.min_rnr_timer = connection.receiver_timer.min(31);
        attributes.ah_attr.is_global = 1;
        attributes.ah_attr.grh.dgid.raw = peer.gid.0;
        attributes.ah_attr.grh.sgid_index = self.gid_index;
        attributes.ah_attr.grh.hop_limit = connection.hop_limit;
        attributes.ah_attr.grh.traffic_class = connection.traffic_class;
        attributes.ah_attr.dlid = peer.lid;
        attributes.ah_attr.sl = connection.service_level & 7;
        attributes.ah_attr.port_num = self.port;
        self.modify(
            &mut attributes,
            mask::IBV_QP_STATE
                | mask::IBV_QP_AV
                | mask::IBV_QP_PATH_MTU
                | mask::IBV_QP_DEST_QPN
                | mask::IBV_QP_RQ_PSN
                | mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | mask::IBV_QP_MIN_RNR_TIMER,
            QueuePairState::ReadyToReceive,
            "connect a queue pair",
        )?;

        let mut attributes = no_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attributes.sq_psn = self.endpoint.packet_sequence;
        attributes.timeout = connection.timeout.clamp(1, 31);
        attributes.retry_cnt = connection.retries.min(6);
        attributes.rnr_retry = connection.receiver_retries.min(7);
        attributes.max_rd_atomic = reads;
        self.modify(
            &mut attributes,
            mask::IBV_QP_STATE
                | mask::IBV_QP_TIMEOUT
                | mask::IBV_QP_RETRY_CNT
                | mask::IBV_QP_RNR_RETRY
                | mask::IBV_QP_SQ_PSN
                | mask::IBV_QP_MAX_QP_RD_ATOMIC,
            QueuePairState::Connected,
            "start a queue pair",
        )
    }

    /// Ends all traffic: requests in flight complete with [`crate::Status::Flushed`], and packets of the peer are no
    /// longer accepted. Not every device completes the receives (soft-RoCE of Linux 6.1 does not); drop the queue pair
    /// to release their memory.
    ///
    /// # Errors
    /// If the device was removed.
    pub fn fail(&self) -> Result<(), QueueError> {
        let mut attributes = no_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        self.modify(&mut attributes, mask::IBV_QP_STATE, QueuePairState::Error, "end the traffic of a queue pair")
    }

    /// Closes the connection at once. After this call, the device accepts no packet of the connection, so nothing can
    /// change the memory of this side, and it no longer reads memory to send. Posted requests never complete. Their
    /// memory is held until the queue pair is dropped, which can take long in the driver: soft-RoCE waits up to 50 s
    /// for packets that a network card without a link has not released.
    ///
    /// # Errors
    /// If the device was removed.
    pub fn reset(&self) -> Result<(), QueueError> {
        let mut attributes = no_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RESET;
        self.modify(&mut attributes, mask::IBV_QP_STATE, QueuePairState::Reset, "close a queue pair")
    }

    /// The state that the device reports. Costs a system call.
    ///
    /// # Errors
    /// If the device was removed.
    pub fn state(&self) -> Result<QueuePairState, QueueError> {
        let mut attributes = no_attributes();
        // SAFETY: plain numbers and pointers, for which zeroes are valid.
        let mut unused: ibv_qp_init_attr = unsafe { MaybeUninit::zeroed().assume_init() };
        let what = bits(mask::IBV_QP_STATE);
        // SAFETY: the queue pair is alive; the call fills both.
        let code = unsafe { ibv_query_qp(self.raw.as_ptr(), &raw mut attributes, what, &raw mut unused) };
        check(code).map_err(|source| failed(self.domain.context(), "query a queue pair", source))?;
        Ok(QueuePairState::from_raw(attributes.qp_state))
    }

    /// The state that this process has set.
    pub(crate) fn reached(&self) -> QueuePairState {
        let state = self.state.load(Ordering::Acquire);
        QueuePairState::ALL.into_iter().find(|&known| known as u8 == state).unwrap_or(QueuePairState::Error)
    }

    pub(crate) fn note_window(&self, window: &Arc<Window>) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() == windows.capacity() {
            windows.retain(|window| window.strong_count() > 0);
        }
        windows.push(Arc::downgrade(window));
    }

    fn initialize(&self, config: &QueuePairConfig) -> Result<(), QueueError> {
        let mut rights = ibv_access_flags(0);
        if config.remote_write {
            rights |= ibv_access_flags::IBV_ACCESS_REMOTE_WRITE | ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        }
        if config.remote_read {
            rights |= ibv_access_flags::IBV_ACCESS_REMOTE_READ;
        }
        let mut attributes = no_attributes();
        attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = self.port;
        attributes.qp_access_flags = rights.0;
        self.modify(
            &mut attributes,
            mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS,
            QueuePairState::Initialized,
            "set up a queue pair",
        )
    }

    fn modify(
        &self,
        attributes: &mut ibv_qp_attr,
        what: mask,
        reached: QueuePairState,
        action: &'static str,
    ) -> Result<(), QueueError> {
        let context = self.domain.context();
        let modified = timed(context, action, || {
            // SAFETY: the queue pair is alive, and the call reads only the attributes selected by the mask.
            check(unsafe { ibv_modify_qp(self.raw.as_ptr(), attributes, bits(what)) })
        });
        modified.map_err(|source| failed(context, action, source))?;
        self.state.store(reached as u8, Ordering::Release);
        Ok(())
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        let windows = std::mem::take(self.windows.get_mut().unwrap_or_else(PoisonError::into_inner));
        for window in windows.iter().filter_map(Weak::upgrade) {
            window.end_with(self.number());
        }
        let destroyed = timed(self.domain.context(), "destroy a queue pair", || {
            // SAFETY: the value is being dropped, so no other call uses the queue pair.
            check(unsafe { ibv_destroy_qp(self.raw.as_ptr()) })
        });
        match destroyed {
            Ok(()) => {
                // SAFETY: each is dropped once, here. The queue pair is destroyed, so the device no longer uses what it
                // held.
                unsafe {
                    ManuallyDrop::drop(&mut self.send);
                    ManuallyDrop::drop(&mut self.receive);
                }
            }
            // The device may still access the memory of posted requests, so it is leaked.
            Err(error) => tracing::error!(
                "a queue pair of {} was not destroyed, so its memory is never freed: {error}",
                self.domain.context().name()
            ),
        }
    }
}

fn no_attributes() -> ibv_qp_attr {
    // SAFETY: plain numbers, for which zeroes are valid.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn bits(what: mask) -> i32 {
    // The highest bit of the mask is far below the sign.
    i32::try_from(what.0).unwrap_or(0)
}

/// Chooses the first packet sequence number at random, so that late packets of an earlier connection between the same
/// two queue pairs are rejected.
fn random_sequence() -> Result<u32, Errno> {
    let mut bytes = [0; 4];
    // The kernel never returns fewer than the requested bytes for a request this small.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u32::from_le_bytes(bytes) & 0x00ff_ffff)
}

fn in_queue(error: DeviceError) -> QueueError {
    match error {
        DeviceError::System { action, device, source } => QueueError::System { action, device, source },
        other => QueueError::System { action: "query a port", device: other.to_string(), source: Errno::NODEV },
    }
}
