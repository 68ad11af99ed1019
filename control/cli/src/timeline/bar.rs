//! The bar of a row.

use dflow_worker::report::{AttemptReport, AttemptState};

use super::rows::Row;
use crate::terminal::{Look, Style};

/// The phase of an attempt in a span of time. If several share a cell, the last of this list is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It did not exist.
    Absent,
    /// Its program was ready, but its gate was closed or it had no slot.
    Waiting,
    /// It was running and had not read or written anything.
    Started,
    /// It had read its first byte and not written any.
    Reading,
    /// It had written its first byte.
    Writing,
    /// It failed.
    Failed,
}

/// The characters of the bars.
pub struct Glyphs {
    phases: [char; 6],
}

impl Glyphs {
    /// The best characters that the terminal supports.
    pub fn of(unicode: bool) -> &'static Self {
        if unicode {
            &Self { phases: [' ', '·', '░', '▒', '█', '✗'] }
        } else {
            &Self { phases: [' ', '.', '-', '=', '#', 'X'] }
        }
    }

    /// The character of a phase.
    pub fn of_phase(&self, phase: Phase) -> char {
        self.phases[phase as usize]
    }
}

/// The bar of a row: `width` characters for `total` nanoseconds, with colours if they are in use.
pub fn draw(row: &Row<'_>, total: u64, width: usize, glyphs: &Glyphs, look: &Look) -> String {
    let phases = phases(&row.lives, total, width);
    phases
        .chunk_by(|a, b| a == b)
        .map(|same| {
            let text: String = same.iter().map(|&phase| glyphs.of_phase(phase)).collect();
            match same[0] {
                Phase::Absent => text,
                Phase::Waiting => look.paint(Style::Dim, &text),
                Phase::Failed => look.paint(Style::Red, &text),
                Phase::Started | Phase::Reading | Phase::Writing => look.paint(Style::Cyan, &text),
            }
        })
        .collect()
}

/// The phase of each cell. However short a phase is, it gets the cell in which it begins, unless a later one of the
/// list does too.
fn phases(lives: &[&AttemptReport], total: u64, width: usize) -> Vec<Phase> {
    let mut cells = vec![Phase::Absent; width];
    let last = width.saturating_sub(1);
    let cell = |time: u64| {
        let cell = u128::from(time) * width as u128 / u128::from(total.max(1));
        usize::try_from(cell).unwrap_or(last).min(last)
    };
    for life in lives {
        let end = life.ended_ns.unwrap_or(total);
        let started = life.started_ns.unwrap_or(end);
        let first_byte = [life.first_input_byte_ns, life.first_output_byte_ns].into_iter().flatten().min();
        let spans = [
            (Phase::Waiting, life.ready_ns.map(|ready| (ready, started))),
            (Phase::Started, life.started_ns.map(|started| (started, first_byte.unwrap_or(end)))),
            (Phase::Reading, first_byte.map(|byte| (byte, life.first_output_byte_ns.unwrap_or(end)))),
            (Phase::Writing, life.first_output_byte_ns.map(|byte| (byte, end))),
            (Phase::Failed, (life.end == AttemptState::Failed).then_some((end, end))),
        ];
        for (phase, span) in spans {
            // For a very short attempt, the times of its bytes can be recorded after the time of its end.
            let Some((from, to)) = span.filter(|(from, to)| from <= to) else { continue };
            let (from, to) = (cell(from), cell(to));
            for cell in cells.iter_mut().take(to + 1).skip(from) {
                *cell = phase.max(*cell);
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::attempt;

    fn drawn(lives: &[&AttemptReport]) -> String {
        phases(lives, 100, 20).into_iter().map(|phase| Glyphs::of(false).of_phase(phase)).collect()
    }

    #[test]
    fn phases_follow_each_other() {
        let life = attempt("count[0]", [5, 10, 40, 60, 80, 95]);
        assert_eq!(drawn(&[&life]), "  ......----====####");
    }

    #[test]
    fn the_shortest_life_is_seen() {
        let life = attempt("count[0]", [50, 50, 50, 50, 50, 50]);
        assert_eq!(drawn(&[&life]), "          #         ");
        let mut late = attempt("count[0]", [100, 100, 100, 100, 100, 100]);
        late.ended_ns = None;
        assert_eq!(drawn(&[&late]), "                   #");
    }

    #[test]
    fn without_input_or_output() {
        let mut life = attempt("make", [0, 0, 20, 20, 40, 60]);
        life.first_input_byte_ns = None;
        assert_eq!(drawn(&[&life]), "....----#####       ");
        life.first_output_byte_ns = None;
        assert_eq!(drawn(&[&life]), "....---------       ");
        (life.started_ns, life.ended_ns) = (None, None);
        assert_eq!(drawn(&[&life]), "....................");
        life.ready_ns = None;
        assert_eq!(drawn(&[&life]), "                    ");
    }

    #[test]
    fn failure_and_union_of_lives() {
        let mut failed = attempt("a", [0, 0, 0, 10, 20, 50]);
        failed.end = AttemptState::Failed;
        let other = attempt("b", [60, 60, 80, 90, 95, 100]);
        assert_eq!(drawn(&[&failed, &other]), "--==######X ....--=#");
    }

    #[test]
    fn strange_times_and_widths_are_harmless() {
        let life = attempt("a", [90, 80, 70, 60, 50, u64::MAX]);
        for width in 0..5 {
            for total in [0, 1, u64::MAX] {
                assert_eq!(phases(&[&life], total, width).len(), width);
            }
        }
    }
}
