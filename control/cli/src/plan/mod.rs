//! `dflow plan`: where the instances of a run should be, and what the run will look like.
//!
//! | file | holds |
//! | --- | --- |
//! | `question` | the problem that the arguments describe |
//! | `text`, `chart` | the plan for people; its timeline in the form of a run's |
//! | `reason` | why a function is where it is, in words |
//! | `document` | the plan as JSON |

mod chart;
mod document;
mod question;
mod reason;
mod text;

use std::io;
use std::time::Duration;

use dflow_scheduler::planner::{Policy, plan as make_plan};

use crate::args::{Format, PlanArgs};
use crate::error::{CallError, render_note};
use crate::exit::Exit;
use crate::file;
use crate::terminal::{Look, print, print_error};
use question::Question;

/// The predicted result of a policy.
struct Rival {
    policy: Policy,
    end: Duration,
    bytes_moved: u64,
}

/// Plans a run and prints the plan. The inner result is the result of printing.
///
/// # Errors
/// If the command line or the workflow file is wrong.
pub fn plan(args: &PlanArgs) -> Result<io::Result<Exit>, CallError> {
    let (file, inputs) = args.file_and_inputs()?;
    let workflow = file::load(file).map_err(CallError::Workflow)?;
    let question = Question::new(&workflow, inputs, args)?;
    let plan = make_plan(&question.problem, args.policy)?;
    let mut rivals = Vec::new();
    for policy in Policy::ALL.into_iter().filter(|_| args.compare) {
        let timeline =
            if policy == args.policy { plan.timeline.clone() } else { make_plan(&question.problem, policy)?.timeline };
        rivals.push(Rival { policy, end: timeline.end, bytes_moved: timeline.bytes_moved() });
    }
    for note in &question.notes {
        print_error(&render_note(&Look::of(&io::stderr()), note));
    }
    let printed = match args.format() {
        Format::Json => print(&format!("{:#}\n", document::of(&question, &plan, &rivals, args.profile))),
        Format::Human => print(&text::render(&question, &plan, &rivals, args.profile, &Look::of(&io::stdout()))),
    };
    Ok(printed.map(|()| Exit::Success))
}
