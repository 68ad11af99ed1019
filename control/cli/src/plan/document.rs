//! A plan as JSON. Times are nanoseconds since the start of the run, sizes are bytes.

use dflow_scheduler::planner::{Plan, Profile};
use dflow_workflow::{Amount, Function, FunctionId};
use serde_json::{Value, json};

use super::question::Question;
use super::{Rival, chart, reason, text};
use crate::terminal::Look;

/// The words of reasons do not depend on the terminal here.
const LOOK: Look = Look { width: 0, color: false, unicode: true };

/// The document.
pub fn of(question: &Question<'_>, plan: &Plan, rivals: &[Rival], profile: bool) -> Value {
    let problem = &question.problem;
    let nodes =
        problem.nodes.iter().map(|node| json!({ "name": node.name, "slots": node.slots, "memory_bytes": node.memory }));
    let links = plan
        .timeline
        .links
        .iter()
        .map(|link| json!({ "from": question.node(link.from), "to": question.node(link.to), "bytes": link.bytes }));
    let functions = (0..).map(FunctionId).zip(&problem.workflow.functions).zip(&plan.reasons);
    let functions = functions.map(|((id, function), why)| {
        let places = plan.placement.places_of(id).iter().map(|place| question.node(*place));
        json!({
            "name": function.name,
            // Of part 0, of part 1 and so on, repeating from the first.
            "nodes": places.collect::<Vec<_>>(),
            "reason": reason::kind(*why),
            "why": reason::words(question, *why, &LOOK),
        })
    });
    let instances = plan.timeline.instances.iter().map(|instance| {
        json!({
            "name": chart::name(question, instance),
            "function": problem.workflow.function(instance.function).name,
            "part": instance.part,
            "node": question.node(instance.place),
            "slots": instance.slots,
            "ready_ns": chart::nanos(instance.ready),
            "started_ns": chart::nanos(instance.start),
            "first_output_byte_ns": chart::nanos(instance.first_output),
            "busy_ns": [chart::nanos(instance.busy.0), chart::nanos(instance.busy.1)],
            "ended_ns": chart::nanos(instance.end),
            "bytes_read": instance.bytes_read,
            "bytes_written": instance.bytes_written,
        })
    });
    let mut document = json!({
        "workflow": problem.workflow.name,
        "policy": plan.policy.name(),
        "end_ns": chart::nanos(plan.timeline.end),
        "bytes_over_network": plan.timeline.bytes_moved(),
        "nodes": nodes.collect::<Vec<_>>(),
        "links": links.collect::<Vec<_>>(),
        "functions": functions.collect::<Vec<_>>(),
        "instances": instances.collect::<Vec<_>>(),
        "notes": question.notes,
    });
    if profile {
        let profiles = problem.workflow.functions.iter().zip(&problem.profiles).zip(&question.learned);
        let profiles = profiles.map(|((function, profile), learned)| {
            profile_of(function, profile, learned.as_ref().map(|learned| learned.runs))
        });
        document["profiles"] = profiles.collect();
    }
    if !rivals.is_empty() {
        let rivals = rivals.iter().map(|rival| {
            json!({
                "policy": rival.policy.name(),
                "end_ns": chart::nanos(rival.end),
                "bytes_over_network": rival.bytes_moved,
            })
        });
        document["policies"] = rivals.collect();
    }
    document
}

fn profile_of(function: &Function, profile: &Profile, runs: Option<u32>) -> Value {
    let amount = |amount: &Option<Amount>| match amount {
        None => Value::Null,
        Some(Amount::Bytes(bytes)) => json!({ "bytes": bytes }),
        Some(Amount::OfInput(share)) => json!({ "share_of_input": share }),
    };
    let outputs = function.outputs.iter().enumerate().map(|(port, output)| {
        let known = profile.outputs.get(port).copied().flatten();
        (output.name.clone(), amount(&known))
    });
    json!({
        "function": function.name,
        "time_ns": profile.time.map(chart::nanos),
        "measured_at_input_bytes": profile.measured_at,
        "first_output_ns": chart::nanos(profile.first_output),
        "tail_ns": chart::nanos(profile.tail),
        "outputs": outputs.collect::<serde_json::Map<_, _>>(),
        "other_outputs": amount(&profile.rest),
        "parts": profile.parts,
        "learned_runs": runs.unwrap_or(0),
        "from": text::origin(function, runs),
    })
}
