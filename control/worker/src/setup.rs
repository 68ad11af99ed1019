//! What attempts are told when they begin.

use crate::time::nanos;
use dflow_ports::{ArgPiece, InputSpec, OutputSpec, OutputStreams, Setup};
use dflow_protocol::limits::PROTOCOL_VERSION;
use dflow_protocol::{PortId, SegmentId};
use dflow_workflow::{ArgPiece as FileArgPiece, Function, Partition, Program};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The name of a sink's input and of a source's output.
pub(crate) const PORT: &str = "stream";

/// The set-up message of an attempt. The store fills in ports, bell and arena; the node fills in how long to spin.
pub(crate) fn setup(
    run: &str,
    run_params: &BTreeMap<String, String>,
    function: &Function,
    instance: &str,
    (part, part_file): (Option<u32>, Option<&Path>),
    number: u32,
) -> Setup {
    let params: Vec<(String, String)> =
        function.params.iter().map(|(name, value)| (name.clone(), value.fill(run_params))).collect();
    let command = match &function.program {
        Program::Sdk(_) => None,
        Program::Command(arguments) => {
            let piece = |piece: &FileArgPiece| match piece {
                FileArgPiece::Text(text) => ArgPiece::Text(text.clone()),
                FileArgPiece::Input(input) => ArgPiece::Input(*input),
                FileArgPiece::Output(output) => ArgPiece::Output(*output),
                FileArgPiece::Param(name) => {
                    let value = params.iter().find(|(key, _)| key == name);
                    ArgPiece::Text(value.map(|(_, value)| value.clone()).unwrap_or_default())
                }
            };
            Some(arguments.iter().map(|pieces| pieces.iter().map(piece).collect()).collect())
        }
    };
    let inputs = function.inputs.iter().map(|input| InputSpec {
        name: input.name.clone(),
        many: input.many,
        keep: input.is_kept(),
        stdin: input.stdin,
    });
    let outputs = function.outputs.iter().map(|output| OutputSpec {
        name: output.name.clone(),
        streams: match output.partition {
            Partition::Single => OutputStreams::Single(PortId(0)),
            Partition::Fixed(count) => OutputStreams::Fixed(PortId(0), count),
            Partition::Discovered => OutputStreams::Discovered,
        },
        stdout: output.stdout,
    });
    Setup {
        version: PROTOCOL_VERSION,
        run: run.into(),
        instance: instance.into(),
        part,
        part_file: part_file.map(|file| file.as_os_str().as_bytes().to_vec()),
        attempt: number,
        inputs: inputs.collect(),
        outputs: outputs.collect(),
        bell: 0,
        arena: SegmentId(0),
        spin_nanos: 0,
        command,
        params,
    }
}

/// The setup of a thread of the daemon: one port, in or out.
pub(crate) fn thread_setup(run: &str, name: &str, number: u32, reads: bool) -> Setup {
    let port = PORT;
    let input = InputSpec { name: port.into(), many: false, keep: false, stdin: false };
    let output = OutputSpec { name: port.into(), streams: OutputStreams::Single(PortId(0)), stdout: false };
    Setup {
        version: PROTOCOL_VERSION,
        run: run.into(),
        instance: name.into(),
        part: None,
        part_file: None,
        attempt: number,
        params: Vec::new(),
        inputs: if reads { vec![input] } else { Vec::new() },
        outputs: if reads { Vec::new() } else { vec![output] },
        bell: 0,
        arena: SegmentId(0),
        // The daemon's own threads do not spin, so that the functions have the cores.
        spin_nanos: 0,
        command: None,
    }
}

/// The setup of the attempt that carries streams from and to other nodes.
pub(crate) fn carrier_setup(run: &str, spin: Duration) -> Setup {
    let mut setup = thread_setup(run, "carrier", 1, true);
    setup.inputs.clear();
    setup.spin_nanos = nanos(spin);
    setup
}
