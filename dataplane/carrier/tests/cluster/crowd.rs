//! Many streams from the first node to the second, of one run or of many, that are open and on which nothing happens.

use super::Cluster;
use dflow_function::{Error, Input};
use dflow_testkit::node::{Function, Node, RUN_STEP, carrier_of, run_of};
use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Many streams, written by one function and read by another.
pub struct Crowd {
    go_on: Sender<()>,
}

impl Crowd {
    /// Opens the streams. When this returns, the first byte of each has been read, and its writer knows.
    pub fn open(cluster: &mut Cluster, streams: Range<u32>, writer: u32, reader: u32) -> Self {
        let names: Vec<u32> = streams.collect();
        let count = names.len() as u64;
        cluster.cross_all(&names, 0, 1, &[(reader, 0)]);
        let (go_on, wait) = channel();
        let source = Function { outputs: vec![("out", names.clone())], ..Function::default() };
        cluster.on(0, move |node| {
            node.start(writer, &source, move |ctx| {
                let mut parts = ctx.outputs("out")?;
                for byte in 0..2 {
                    parts.iter_mut().try_for_each(|part| part.write_all(&[byte]))?;
                    // Until there is an answer, or the store is gone.
                    let _ = wait.recv();
                }
                Ok(())
            });
        });
        let (arrived, told) = channel();
        let sink = Function { inputs: vec![("in", names, false)], ..Function::default() };
        cluster.on(1, move |node| {
            node.start(reader, &sink, move |ctx| {
                let mut streams = ctx.inputs("in")?;
                let mut inputs = Vec::new();
                while let Some(mut input) = streams.next()? {
                    expect(&mut input, Some(&[0]))?;
                    inputs.push(input);
                }
                let _ = arrived.send(inputs.len());
                inputs.iter_mut().try_for_each(|input| expect(input, Some(&[1])))?;
                inputs.iter_mut().try_for_each(|input| expect(input, None))
            });
        });
        let arrived = told.recv_timeout(Duration::from_secs(60)).expect("they arrive");
        assert_eq!(arrived as u64, count);
        let carrier = carrier_of(run_of(writer));
        cluster.until(0, move |node: &Node| node.store.traffic(carrier).read >= count);
        Self { go_on }
    }

    /// So many runs beside the first one, each with one such stream.
    pub fn of_runs(cluster: &mut Cluster, runs: u32) -> Vec<Self> {
        let begin = |run| {
            let first = run * RUN_STEP;
            (0..2).for_each(|node| cluster.begin(node, run_of(first)));
            Self::open(cluster, first + 10..first + 11, first + 5, first + 101)
        };
        (1..=runs).map(begin).collect()
    }

    /// Writes one more byte to each stream, and finishes it.
    pub fn finish(self) {
        drop(self.go_on);
    }
}

fn expect(input: &mut Input, bytes: Option<&[u8]>) -> Result<(), Error> {
    let chunk = input.chunk()?;
    if chunk == bytes { Ok(()) } else { Err(Error::new(format!("{chunk:?} instead of {bytes:?}"))) }
}

/// CPU time of the threads of carriers in this process so far.
pub fn cpu_of_carriers() -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").expect("this process").flatten() {
        // A thread that has ended in between is not counted.
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if matches!(read("comm").trim_end(), "carrier" | "watch") {
            nanos += read("schedstat").split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}
