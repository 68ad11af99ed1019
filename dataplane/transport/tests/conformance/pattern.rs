//! Bytes that tell where they belong: any byte that is lost, doubled or misplaced is seen.

use dflow_protocol::wire::StreamKey;
use std::sync::OnceLock;

/// A prime, so that no window, packet or chunk is a multiple of it.
const PERIOD: usize = 65_521;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut random = 1u32;
        let mut table: Vec<u8> = (0..PERIOD)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        table.extend_from_within(..);
        table
    })
}

/// Calls `with` for each run of bytes that the stream has from offset `at` on, in order.
fn runs(stream: StreamKey, at: u64, length: usize, mut with: impl FnMut(usize, &[u8])) {
    let shift = u64::from(stream.stream.0) * 7919 + u64::from(stream.epoch.0) * 104_729;
    let mut done = 0;
    while done < length {
        let start = ((at + done as u64 + shift) % PERIOD as u64) as usize;
        let run = (length - done).min(PERIOD);
        with(done, &table()[start..start + run]);
        done += run;
    }
}

/// The bytes of a stream from offset `at` on.
pub fn fill(stream: StreamKey, at: u64, bytes: &mut [u8]) {
    runs(stream, at, bytes.len(), |done, run| bytes[done..done + run.len()].copy_from_slice(run));
}

/// Fails unless these are the bytes of the stream from offset `at` on.
pub fn check(stream: StreamKey, at: u64, bytes: &[u8]) {
    runs(stream, at, bytes.len(), |done, run| {
        let found = &bytes[done..done + run.len()];
        if found != run {
            let wrong = found.iter().zip(run).position(|(a, b)| a != b).unwrap_or(0) + done;
            panic!("{stream}: the byte at offset {} is wrong", at + wrong as u64);
        }
    });
}
