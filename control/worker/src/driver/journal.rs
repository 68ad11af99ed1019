//! What a run reports while it goes on: to its progress display, and to its record.

use crate::logs::{RecordOptions, Recorder, Recording};
use crate::report::{Progress, RunReport};
use std::path::Path;

/// What happens while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Update<'a> {
    /// How far it is; a few times a second.
    Progress(&'a Progress),
    /// A function has printed something.
    Output(&'a Output),
    /// An attempt has ended and prints nothing more.
    Ended {
        /// The instance.
        instance: &'a str,
        /// Which attempt, counted from 1.
        attempt: u32,
    },
    /// Something that the user should know.
    Note(&'a str),
}

/// What an attempt has printed on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The instance, as `count[3]`.
    pub instance: String,
    /// Which attempt, counted from 1.
    pub attempt: u32,
    /// The bytes as they came: not whole lines, and not always text.
    pub bytes: Vec<u8>,
    /// How many bytes before these were dropped on their way from another node.
    pub lost: u64,
}

/// Collects what is to be told until the loop of the run hands it on.
pub(crate) struct Journal {
    recorder: Option<Recorder>,
    entries: Vec<Entry>,
}

enum Entry {
    Note(String),
    Printed(Output),
    /// This instance's attempt has ended.
    Ended(String, u32),
}

impl Journal {
    /// Begins the record of a run, if it is to have one. That it cannot have one is a note.
    pub(crate) fn begin(options: &RecordOptions, run: &str, workflow: &str) -> Self {
        match Recorder::start(options, run, workflow) {
            Recording::On(recorder) => Self { recorder: Some(recorder), entries: Vec::new() },
            Recording::Off => Self { recorder: None, entries: Vec::new() },
            Recording::Impossible(reason) => Self { recorder: None, entries: vec![Entry::Note(reason)] },
        }
    }

    /// The directory of the record.
    pub(crate) fn record(&self) -> Option<&Path> {
        self.recorder.as_ref().map(Recorder::path)
    }

    pub(crate) fn note(&mut self, text: String) {
        self.entries.push(Entry::Note(text));
    }

    pub(crate) fn printed(&mut self, output: Output) {
        self.entries.push(Entry::Printed(output));
    }

    pub(crate) fn ended(&mut self, instance: String, attempt: u32) {
        self.entries.push(Entry::Ended(instance, attempt));
    }

    /// Hands on what was collected.
    pub(crate) fn hand_on(&mut self, observe: &mut impl FnMut(Update<'_>)) {
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Note(note) => observe(Update::Note(&note)),
                Entry::Printed(output) => {
                    observe(Update::Output(&output));
                    if let Some(recorder) = &mut self.recorder {
                        recorder.append(&output.instance, output.attempt, output.bytes, output.lost);
                    }
                }
                Entry::Ended(instance, attempt) => {
                    observe(Update::Ended { instance: &instance, attempt });
                    if let Some(recorder) = &mut self.recorder {
                        recorder.close(&instance, attempt);
                    }
                }
            }
        }
    }

    /// The run is over: hands on the rest, and completes the record.
    pub(crate) fn finish(mut self, report: &RunReport, observe: &mut impl FnMut(Update<'_>)) {
        self.hand_on(observe);
        let Some(recorder) = self.recorder else { return };
        let note = match serde_json::to_vec_pretty(report) {
            Ok(report) => recorder.finish(report),
            Err(error) => Some(format!("the report of the run cannot be written to its record: {error}")),
        };
        if let Some(note) = note {
            observe(Update::Note(&note));
        }
    }
}
