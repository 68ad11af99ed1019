//! What the daemon tells an input: where its next piece is, where that ends, and when the stream does.

use super::InPort;
use super::file::FilePiece;
use crate::error::{ReadError, SessionError, to_usize};
use crate::inbox::{Mail, Source};
use dflow_protocol::PortId;
use dflow_protocol::message::Window;
use dflow_shm::{Access, Memory, MemoryPiece, PeerControl};
use std::os::fd::AsFd;
use std::sync::Arc;

impl InPort {
    pub(super) fn take_mail(&mut self) -> Result<(), ReadError> {
        for mail in self.session.mail(self.port, &mut self.seen)? {
            match mail {
                Mail::Memory { window, source, producer, end } => {
                    if window.base > self.reader.position() {
                        let what = format!("it skipped bytes of the input '{}'", self.name);
                        return Err(SessionError::Protocol(what).into());
                    }
                    self.enter(window, source, producer, end)?;
                    self.asked = false;
                }
                Mail::File { file, file_offset, base, end } => {
                    self.reader.drop_piece();
                    let copied = match &mut self.span {
                        Some(span) => !span.place_file(file.as_fd(), file_offset, base, end - base)?,
                        None => false,
                    };
                    self.file = Some(FilePiece::new(file, file_offset, base..end, copied));
                    self.asked = false;
                }
                Mail::PieceEnd(end) => self.reader.set_end(end),
                Mail::Stay => self.asked = false,
                Mail::StreamEnd(Ok(length)) => {
                    self.end = Some(length);
                    self.asked = false;
                }
                Mail::StreamEnd(Err(reason)) => {
                    return Err(ReadError::Abandoned { input: self.name.to_string(), reason });
                }
                _ => {
                    return Err(SessionError::Protocol("it sent an output's message to an input".into()).into());
                }
            }
        }
        Ok(())
    }

    /// Reads on in a piece in memory.
    fn enter(
        &mut self,
        window: Window,
        source: Source,
        producer: Option<(Arc<PeerControl>, PortId)>,
        end: Option<u64>,
    ) -> Result<(), ReadError> {
        // Nothing is written through it, but a network card's driver refuses memory that could not be (before Linux 6.2).
        let access = if self.carries { Access::Write } else { Access::Read };
        let mut placed = self.span.is_none();
        let (memory, start) = match source {
            Source::Mapped(memory) => (memory, to_usize(window.segment_offset)?),
            Source::Once(fd) => {
                let size = to_usize(window.size)?;
                if let Some(span) = self.span.as_mut().filter(|_| !window.ring) {
                    span.place_segment(fd.as_fd(), window.segment_offset, window.base, window.size)?;
                    placed = true;
                }
                let memory = if window.ring {
                    Memory::ring(fd.as_fd(), window.segment_offset, size, access)?
                } else {
                    Memory::window(fd.as_fd(), window.segment_offset, size, access)?
                };
                (Arc::new(memory), 0)
            }
        };
        let piece =
            MemoryPiece { memory, start, base: window.base, size: window.size, ring: window.ring, producer, end };
        if let Some(span) = self.span.as_mut().filter(|_| !placed) {
            span.place(&piece)?;
        }
        self.reader.set_piece(piece);
        Ok(())
    }
}
