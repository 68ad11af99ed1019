//! Generated workflows.

use std::fmt::Write;

/// How many functions of the layer before a function reads.
const READS: usize = 3;

/// A workflow in layers: each function reads three of the layer before, computes for 0.1 to 1 s, half of it before its
/// first output byte, and writes up to 4 MB. Equal arguments give equal workflows.
pub fn text(layers: usize, width: usize) -> String {
    let mut random = Random(1);
    let mut text = String::from("workflow: layered\ninputs: { data: { expect: { size: 1MB } } }\nfunctions:\n");
    for layer in 0..layers {
        for index in 0..width {
            let inputs = match layer.checked_sub(1) {
                None => "data: inputs.data".to_owned(),
                Some(before) => {
                    let inputs =
                        (0..READS).map(|input| format!("i{input}: f{before}_{}.out", random.below(width as u64)));
                    inputs.collect::<Vec<_>>().join(", ")
                }
            };
            let (time, output) = (100 + random.below(900), random.below(4000));
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  f{layer}_{index}: {{ program: task, inputs: {{ {inputs} }}, outputs: [out], expect: {{ time: {time}ms, \
                 first_output: {}ms, output: {output}kB }} }}",
                time / 2
            );
        }
    }
    text
}

/// The linear congruential generator of Knuth's MMIX, whose high bits are good enough for a workflow.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}
