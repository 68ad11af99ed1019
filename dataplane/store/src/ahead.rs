//! The window behind the present one, granted early to streams that come from other nodes. The sending node then
//! continues there at once; asking only when the present window is full would stall it for a round trip.
//!
//! It is an optimisation: where memory is short or readers are far behind, no window is granted ahead, and the carrier
//! asks when its window is full, as every producer does.

use crate::back::Offer;
use crate::error::StoreError;
use crate::pieces::Piece;
use crate::process::Want;
use crate::{ProcessId, RunStream, Store};
use dflow_protocol::PortId;
use dflow_protocol::message::ToFunction;
use dflow_protocol::words::Progress;

impl Store {
    /// Whether a carrier whose words say `word` may ask for a window at `at`: before its present window is full, it
    /// must name the offset at which that ends. Its stream may have ended since.
    pub(crate) fn may_ask_ahead(&self, process: ProcessId, port: PortId, at: u64, word: Progress) -> bool {
        let Some(stream) = self.processes.output(process, port) else {
            return false;
        };
        let is_room = self.runs.stream(stream).is_some_and(|stream| stream.epoch.may_ask_ahead(at));
        is_room && self.processes.is_carrier(process) && word.offset <= at
    }

    /// Grants a carrier the window behind its present one, or tells it to stay.
    pub(crate) fn grant_ahead(&mut self, process: ProcessId, port: PortId, want: Want) -> Result<(), StoreError> {
        let Some(id) = self.processes.output(process, port) else {
            return Ok(());
        };
        self.enter_ahead(id);
        let may =
            self.runs.stream(id).is_some_and(|stream| stream.epoch.ahead().is_none() && !stream.epoch.is_remembered());
        if !may || self.is_held_back(process, id, want) {
            self.send(process, ToFunction::Stay { port }, None);
            return Ok(());
        }
        let ring = self.ring_will_do(id, true);
        let (size, huge) = self.window_size(id, want, ring);
        let memory = match self.would_be_short(id.run, size) {
            true => Offer::No,
            false => self.backed_window(process, id, size, huge)?,
        };
        match memory {
            Offer::Now(memory) => {
                if ring {
                    self.register_readers(id)?;
                }
                self.send_window(process, port, &memory, want.at, memory.size, ring)?;
                if let Some(stream) = self.runs.stream_mut(id) {
                    stream.epoch.add_ahead(Piece::window(want.at, memory, ring));
                }
                if !ring {
                    self.back_behind(process, id, want.at + size);
                }
            }
            Offer::Later => {
                if let Some(carrier) = self.processes.carrier_mut(process) {
                    carrier.ahead.insert(id, (port, want));
                }
            }
            Offer::No => self.send(process, ToFunction::Stay { port }, None),
        }
        Ok(())
    }

    /// The window that a carrier waits for has been backed, or could not be.
    pub(crate) fn grant_backed_ahead(&mut self, id: RunStream, has_come: bool) -> Result<(), StoreError> {
        let producer = self.runs.stream(id).and_then(|stream| stream.epoch.producer());
        let Some((process, port)) = producer else { return Ok(()) };
        let carrier = self.processes.carrier_mut(process);
        match carrier.and_then(|carrier| carrier.ahead.remove(&id)) {
            Some((asked, want)) if asked == port && has_come => return self.grant_ahead(process, port, want),
            Some((asked, _)) if asked == port => self.send(process, ToFunction::Stay { port }, None),
            _ => {}
        }
        Ok(())
    }

    /// Makes the window ahead the live one, if the producer has reached it.
    pub(crate) fn enter_ahead(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream(id) else { return };
        let Some(base) = stream.epoch.ahead().map(|ahead| ahead.base) else { return };
        if self.producer_watermark(id) < base {
            return;
        }
        self.end_live(id, base);
        if let Some(stream) = self.runs.stream_mut(id) {
            stream.epoch.enter_ahead();
        }
    }

    /// Frees the window ahead: the producer will not reach it, and no bytes can land there any more.
    pub(crate) fn drop_ahead(&mut self, id: RunStream) {
        let Some(stream) = self.runs.stream_mut(id) else { return };
        if let Some((process, _)) = stream.epoch.producer()
            && let Some(carrier) = self.processes.carrier_mut(process)
        {
            carrier.ahead.remove(&id);
        }
        if let Some(piece) = stream.epoch.take_ahead() {
            self.free(piece);
        }
    }
}
