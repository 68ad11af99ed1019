//! What may happen next on a simulated node.

use super::{Move, Node, State, StreamState};
use crate::simulation::generate::Style;
use dflow_scheduler::{Epoch, Event, InstanceId, InstanceKind, Outcome, Producer, StreamId};
use std::time::Duration;

impl Node<'_> {
    pub fn moves(&mut self) -> Vec<Move> {
        let mut moves = Vec::new();
        let ids: Vec<InstanceId> = self.processes.keys().copied().collect();
        for id in ids {
            let (state, attempt) = (self.processes[&id].state, self.processes[&id].attempt);
            match state {
                State::Spawning => moves.push(Move::Tell(Event::Ready { instance: id, attempt })),
                State::Ready => {}
                State::Running { parked } => self.moves_of_running(id, parked, &mut moves),
                State::Dying { .. } => {
                    let outcome = match self.choices.below(3) {
                        0 => Outcome::Succeeded,
                        _ => Outcome::Failed { reason: "killed".to_owned() },
                    };
                    moves.push(Move::End(id, outcome));
                }
            }
            let doomed =
                self.failures > 0 && !matches!(state, State::Dying { .. }) && self.choices.once_in(self.rarely);
            if doomed {
                moves.push(Move::End(id, Outcome::Failed { reason: "bad luck".to_owned() }));
            }
        }
        for (stream, epoch) in self.values.clone() {
            let text = match self.choices.below(24) {
                0 if self.failures > 0 => Err("no text".to_owned()),
                1 => Ok("c".to_owned()),
                2..12 => Ok("b".to_owned()),
                _ => Ok("a".to_owned()),
            };
            moves.push(Move::Tell(Event::Value { stream, epoch, text }));
        }
        if self.surveys > 0 {
            moves.push(Move::Tell(Event::Surveyed { copies: self.copies() }));
        }
        // Time passes slowly as long as something else happens.
        if let Some(at) = self.timer
            && (moves.is_empty() || at < self.now + Duration::from_secs(10) || self.choices.once_in(40))
        {
            moves.push(Move::Fire);
        }
        if !moves.is_empty() && self.choices.once_in(10) {
            moves.push(self.noise());
        }
        if self.failures > 0 && self.choices.once_in(2000) {
            moves.push(Move::Tell(Event::Cancel { reason: "enough".to_owned() }));
        }
        moves
    }

    fn moves_of_running(&mut self, id: InstanceId, parked: bool, moves: &mut Vec<Move>) {
        let process = &self.processes[&id];
        let attempt = process.attempt;
        let style = match process.kind {
            InstanceKind::Function(function) => self.case.styles[function.0 as usize],
            InstanceKind::Sink { .. } => Style::Full,
        };
        let own: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, s)| matches!(s.producer, Producer::Instance { instance, .. } if instance == id))
            .filter(|(_, s)| s.epoch.0 == attempt && s.state == StreamState::Open)
            .map(|(stream, _)| *stream)
            .collect();
        if self.is_reported_unread(id, &own) {
            moves.push(Move::End(id, Outcome::Unread));
        }
        if parked {
            let goes_on = match style {
                Style::Full => self.whims > 0 || self.has_read_all(id),
                Style::Early => true,
                Style::Endless => false,
            };
            if goes_on {
                moves.push(Move::Park(id, false));
            }
            return;
        }
        for stream in &own {
            let epoch = Epoch(attempt);
            let state = &self.streams[stream];
            if !state.bytes {
                moves.push(Move::Tell(Event::FirstBytes { stream: *stream, epoch }));
            } else if style != Style::Endless && self.choices.once_in(3) {
                moves.push(Move::Tell(Event::Finished { stream: *stream, epoch, length: 7 }));
            }
            if state.base != state.epoch && self.choices.once_in(12) {
                moves.push(Move::Tell(Event::Diverged { stream: *stream, epoch }));
            }
        }
        let process = &self.processes[&id];
        let mut opening = false;
        for (output, left) in &process.parts {
            match left {
                Some(0) => moves.push(Move::CompleteParts(id, *output)),
                Some(_) => {
                    opening = true;
                    moves.push(Move::OpenPart(id, *output));
                }
                None => {}
            }
        }
        let is_function = matches!(process.kind, InstanceKind::Function(_));
        match style {
            Style::Endless if own.iter().all(|stream| self.streams[stream].bytes) => moves.push(Move::Park(id, true)),
            Style::Endless => {}
            Style::Early => moves.push(Move::End(id, Outcome::Succeeded)),
            Style::Full if opening => {}
            Style::Full if self.has_read_all(id) => moves.push(Move::End(id, Outcome::Succeeded)),
            // It waits for data, and there may be none before others get its slots.
            Style::Full => moves.push(Move::Park(id, true)),
        }
        if is_function && style != Style::Endless && self.whims > 0 && self.choices.once_in(8) {
            moves.push(Move::Park(id, true));
        }
    }

    fn has_read_all(&self, id: InstanceId) -> bool {
        let process = &self.processes[&id];
        let inputs = match process.kind {
            InstanceKind::Function(function) => self.workflow.functions[function.0 as usize].inputs.len(),
            InstanceKind::Sink { .. } => 1,
        };
        process.complete.len() == inputs
            && process.inputs.values().flatten().all(|(stream, _)| {
                let stream = &self.streams[stream];
                stream.state == StreamState::Finished
            })
    }

    /// As the store sees it: every reader of every open output is unsubscribed, or cannot come back and is dead.
    fn is_reported_unread(&self, id: InstanceId, open: &[StreamId]) -> bool {
        !open.is_empty()
            && open.iter().all(|id| {
                let stream = &self.streams[id];
                let gone = |(reader, _): &(InstanceId, u32)| self.is_through(*reader, *id);
                let let_go = |(reader, input): &(InstanceId, u32)| self.gone.contains(&(*id, *reader, *input));
                !stream.held
                    && stream.read
                    && stream
                        .readers
                        .iter()
                        .all(|(reader, restartable)| (!restartable && gone(reader)) || let_go(reader))
            })
            && self.processes[&id].parts.values().all(Option::is_none)
    }

    /// An event that comes too late, or makes no sense.
    fn noise(&mut self) -> Move {
        let instance = InstanceId(self.choices.below(40) as u32);
        let attempt = self.machine.view(instance).map_or(3, |view| view.attempt).wrapping_sub(1);
        let stream = StreamId(self.choices.below(40) as u32);
        let epoch = Epoch(self.streams.get(&stream).map_or(1, |stream| stream.epoch.0).wrapping_sub(1));
        let reason = "late".to_owned();
        Move::Tell(match self.choices.below(9) {
            0 => Event::Ready { instance, attempt },
            1 => Event::Ended { instance, attempt, outcome: Outcome::Succeeded },
            2 => Event::Ended { instance, attempt, outcome: Outcome::Failed { reason } },
            3 => Event::FirstBytes { stream, epoch },
            4 => Event::Finished { stream, epoch, length: 0 },
            5 => Event::PartOpened { instance, attempt, output: 0 },
            6 => Event::Resumed { instance, attempt },
            7 => Event::Diverged { stream, epoch },
            _ => Event::Value { stream, epoch, text: Ok("b".to_owned()) },
        })
    }
}
