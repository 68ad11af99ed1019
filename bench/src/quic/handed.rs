//! A stream over bare quinn whose words a separate thread writes or reads, as when functions are processes of their
//! own.

use std::ops::Range;
use std::sync::mpsc as std_mpsc;

use tokio::sync::mpsc;

use crate::failure::{Failure, Trying};
use crate::ours::WINDOW;
use crate::payload::{bytes, bytes_mut, fill, private};
use crate::quic::pipe::{Pipe, check};
use crate::quic::transfer::{MESSAGE, first_word};
use crate::subject::Side;

/// The buffers passed between the two threads, as much as fits in a window of dflow.
const BUFFERS: usize = WINDOW / MESSAGE;

/// Sends the messages with these numbers.
pub async fn stream(pipe: &mut Pipe, side: Side, numbers: Range<u64>) -> Result<(), Failure> {
    match side {
        Side::First => write(pipe, numbers).await?,
        Side::Second => read(pipe, numbers).await?,
    }
    pipe.agree(side).await
}

async fn write(pipe: &mut Pipe, numbers: Range<u64>) -> Result<(), Failure> {
    let (hand_over, mut filled) = mpsc::channel(BUFFERS);
    let (give_back, empty) = std_mpsc::sync_channel(BUFFERS);
    for _ in 0..BUFFERS {
        give_back.send(private(MESSAGE)).trying("create buffers")?;
    }
    let writer = std::thread::spawn(move || {
        for number in numbers {
            let Ok(mut words) = empty.recv() else { return };
            fill(&mut words, first_word(number, MESSAGE));
            if hand_over.blocking_send(words).is_err() {
                return;
            }
        }
    });
    while let Some(words) = filled.recv().await {
        pipe.send.write_all(bytes(&words)).await.trying("write")?;
        // A writer that needs no more has ended.
        let _ = give_back.send(words);
    }
    writer.join().map_err(|_| Failure::new("the thread that writes has panicked"))
}

async fn read(pipe: &mut Pipe, numbers: Range<u64>) -> Result<(), Failure> {
    let (hand_over, filled) = std_mpsc::sync_channel::<(u64, Vec<u64>)>(BUFFERS);
    let (give_back, mut empty) = mpsc::channel(BUFFERS);
    for _ in 0..BUFFERS {
        give_back.send(private(MESSAGE)).await.trying("create buffers")?;
    }
    let reader = std::thread::spawn(move || {
        for (number, words) in filled {
            check(&words, first_word(number, MESSAGE))?;
            // A receiver that needs no more messages has ended.
            let _ = give_back.blocking_send(words);
        }
        Ok::<_, Failure>(())
    });
    for number in numbers {
        let Some(mut words) = empty.recv().await else { break };
        pipe.receive.read_exact(bytes_mut(&mut words)).await.trying("read")?;
        if hand_over.send((number, words)).is_err() {
            break;
        }
    }
    drop(hand_over);
    reader.join().map_err(|_| Failure::new("the thread that reads has panicked"))?
}
