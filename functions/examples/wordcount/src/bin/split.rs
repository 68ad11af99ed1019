//! `wordcount-split`: deals the input `text` to the parts of the output `parts`, without ever cutting a word.

use dflow_function::{Context, Error};
use std::process::ExitCode;
use wordcount::Splitter;

/// The size of a block in bytes: little enough that every part has something to do early on.
const BLOCK: usize = 64 * 1024;

fn main() -> ExitCode {
    dflow_function::run(split)
}

fn split(ctx: &mut Context) -> Result<(), Error> {
    let mut text = ctx.input("text")?;
    let mut parts = ctx.outputs("parts")?;
    let mut splitter = Splitter::new(parts.len(), BLOCK);
    while let Some(mut chunk) = text.chunk()? {
        while let Some((part, piece)) = splitter.deal(&mut chunk) {
            parts[part].write_all(piece)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dflow_function::testing::Test;

    #[test]
    fn words_stay_whole_wherever_the_text_is_cut() {
        let text = "alpha beta gamma ".repeat(20_000);
        for piece in [1000, 65_537, 1 << 30] {
            let run = Test::new(split).input("text", &text).parts("parts", 3).pieces(piece).run().unwrap();
            let parts = run.parts("parts");
            assert_eq!(parts.len(), 3);
            assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), text.len());
            for part in parts {
                let words = std::str::from_utf8(part).unwrap().split_ascii_whitespace();
                assert!(words.into_iter().all(|word| ["alpha", "beta", "gamma"].contains(&word)));
            }
        }
    }
}
