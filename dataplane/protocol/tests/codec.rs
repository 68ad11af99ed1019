//! Decoding arbitrary bytes returns a message or an error, and messages survive encoding.

use dflow_protocol::message::{Piece, ToDaemon, ToFunction, Window};
use dflow_protocol::wire::PeerMessage;
use dflow_protocol::words::{MAX_OFFSET, Progress, State};
use dflow_protocol::{PortId, SegmentId};
use proptest::prelude::*;

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = ToDaemon::decode(&bytes);
        let _ = ToFunction::decode(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(reason in ".{0,64}", at in 0usize..512, bit in 0u8..8, cut in 0usize..64) {
        let mut bytes = ToDaemon::Failed { reason, unread: false }.encode().unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.truncate(bytes.len().saturating_sub(cut));
        let _ = ToDaemon::decode(&bytes);
    }

    #[test]
    fn a_message_survives(port in any::<u32>(), base in any::<u64>(), size in any::<u64>(), ring in any::<bool>()) {
        let window = Window { segment: SegmentId(base ^ 5), segment_offset: size / 2, base, size, ring };
        let piece = Piece::Memory { window, producer: ring.then_some((SegmentId(9), PortId(port / 2))), end: ring.then_some(base) };
        let message = ToFunction::Piece { port: PortId(port), piece };
        prop_assert_eq!(ToFunction::decode(&message.encode().unwrap()).unwrap(), message);
    }

    #[test]
    fn progress_survives_in_one_word(offset in 0..=MAX_OFFSET, state in 0..3u8) {
        let state = [State::Open, State::Finished, State::Aborted][usize::from(state)];
        let progress = Progress { offset, state };
        prop_assert_eq!(Progress::decode(progress.encode()), progress);
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_with_its_size() {
    let error = ToDaemon::Failed { reason: "x".repeat(200_000), unread: false }.encode().unwrap_err();
    assert!(error.to_string().contains("131072"), "{error}");
}

#[test]
fn bytes_that_are_no_message_are_explained_to_a_user() {
    let errors = [
        ToDaemon::decode(&[0xff; 40]).unwrap_err().to_string(),
        ToFunction::decode(&[0xff; 40]).unwrap_err().to_string(),
        PeerMessage::decode(&[0xff; 40]).unwrap_err().to_string(),
    ];
    for error in errors {
        assert!(error.starts_with("40 bytes are not a valid message of ") && error.contains("same release"), "{error}");
        assert!(!error.contains("rancor") && !error.contains("alloc"), "{error}");
    }
}
