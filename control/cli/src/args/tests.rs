use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use dflow_disk::IoChoice;
use dflow_launcher::ContainmentChoice;
use dflow_scheduler::Invocation;
use dflow_worker::{Idle, RdmaUse};

use super::values::parse_idle;
use super::{Cli, Command, Format, asks_for_json};
use crate::inputs::InputError;
use crate::record;

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once(&"dflow").chain(args))
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_of_run() {
    let line = "run w.yaml --input text=a --input b -p k=v=w --output out --slots 3 --memory 64MiB --window 1MB \
                --spill-dir /tmp --logs none --log-size 4KiB --keep-runs 3 --follow --spill-io io_uring --containment subreaper --spin 50us --rdma rxe0 --rdma-idle spin --invocation control-flow \
                --format json --trace t.json";
    let Command::Run(run) = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap().command else {
        panic!("no run");
    };
    assert_eq!(run.inputs, ["text=a", "b"]);
    assert_eq!(run.file_and_inputs().unwrap().0, Path::new("w.yaml"));
    assert_eq!(run.params, ["k=v=w"]);
    assert_eq!((run.record.log_size, run.record.keep_runs, run.follow), (4096, 3, true));
    assert_eq!(record::options(&run.record).folder, None);
    assert_eq!((run.node.slots, run.node.memory, run.node.window), (Some(3), Some(64 << 20), Some(1_000_000)));
    assert_eq!(run.node.spin, Some(Duration::from_micros(50)));
    assert_eq!((run.node.rdma, run.node.rdma_idle), (RdmaUse::Device("rxe0".into()), Some(Idle::SPIN)));
    assert_eq!(IoChoice::from(run.node.spill_io), IoChoice::IoUring);
    assert_eq!(ContainmentChoice::from(run.node.containment), ContainmentChoice::Subreaper);
    assert_eq!(Invocation::from(run.invocation), Invocation::ControlFlow);
    assert_eq!(run.format, Format::Json);
}

#[test]
fn the_workflow_file_stands_before_or_after_several_inputs() {
    for (line, file, inputs) in [
        ("run w.yaml -i a b c -o out", "w.yaml", &["a", "b", "c"][..]),
        ("run -i a b w.yaml", "w.yaml", &["a", "b"]),
        ("run -i a.yaml -i b -o out w.yml", "w.yml", &["a.yaml", "b"]),
        ("run - -i a -i -", "-", &["a", "-"]),
    ] {
        let Command::Run(run) = parse(&line.split(' ').collect::<Vec<_>>()).unwrap().command else { panic!() };
        let (found, given) = run.file_and_inputs().unwrap();
        assert_eq!((found, given), (Path::new(file), &inputs.iter().map(OsString::from).collect::<Vec<_>>()[..]));
    }
    let Command::Run(run) = parse(&["run", "-i", "a", "b"]).unwrap().command else { panic!() };
    assert_eq!(run.file_and_inputs(), Err(InputError::NoWorkflow));
    assert!(parse(&["run"]).unwrap_err().to_string().contains("FILE"));
}

#[test]
fn errors_about_values_name_the_valid_ones() {
    for (args, expected) in [
        (["--slots", "0"], "1.."),
        (["--memory", "64 Mebi"], "MiB"),
        (["--spin", "5"], "30s"),
        (["--rdma-idle", "never"], "a duration, sleep, or spin"),
        (["--silence", "10ms"], "from 100ms to 1h"),
        (["--silence", "2h"], "from 100ms to 1h"),
        (["--place", "s="], "FUNCTION=NODE"),
        (["--place", "=b"], "FUNCTION=NODE"),
        (["--place", "s=a,"], "FUNCTION=NODE"),
        (["--place", "s=b"], "--with"),
        (["--with", "=10.0.0.2:7411"], "NAME=ADDRESS:PORT"),
        (["--spill-io", "uring"], "io_uring"),
        (["--format", "xml"], "json"),
    ] {
        let error = parse(&["run", "w.yaml", args[0], args[1]]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let error = parse(&["worker", "--identity", "lab/b", "--listen", "localhost:7411"]).unwrap_err();
    assert!(error.to_string().contains("an IP address and a port"), "{error}");
    assert!(parse(&["run", "w.yaml", "--spin", "0"]).is_ok());
    for (text, idle) in [("0", Idle::SLEEP), ("sleep", Idle::SLEEP), ("1ms", Idle { spin: Duration::from_millis(1) })] {
        assert_eq!(parse_idle(text), Ok(idle));
    }
    assert!(parse(&["run", "w.yaml", "--spill-io", "io-uring"]).is_ok());
}

#[test]
fn json_is_recognised_in_invalid_arguments() {
    let asks = |line: &str| asks_for_json(&line.split(' ').map(Into::into).collect::<Vec<_>>());
    assert!(asks("dflow run --format json --what"));
    assert!(asks("dflow run --format=json"));
    assert!(!asks("dflow run --format human json"));
}
