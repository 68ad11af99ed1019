//! Word count as a workflow: the logic of the three programs `wordcount-split`, `wordcount-count` and `wordcount-merge`
//! on bytes, independent of their sources and destinations.
//!
//! A word is a maximal run of ASCII letters; upper and lower case are the same. Everything else separates words. So
//! `tr`, `sort` and `uniq` in the C locale count the same words (`reference.sh`).
//!
//! | file | holds | used by |
//! | --- | --- | --- |
//! | `split` | text cut into blocks that are dealt to the parts | `wordcount-split` |
//! | `counter` | words found in chunks of text | `wordcount-count` |
//! | `counts` | how often each word occurs | `wordcount-count`, `wordcount-merge` |
//! | `record` | a word and its count as they travel between the two | `wordcount-count`, `wordcount-merge` |
//! | `ranking` | the words by their counts | `wordcount-merge` |
//!
//! The programs themselves, in `src/bin`, are a loop each: they tie this to the streams of `dflow-function`.

mod counter;
mod counts;
mod ranking;
mod record;
mod split;

pub use counter::{Counter, MAX_WORD, WordTooLong};
pub use counts::{Counts, WordCount};
pub use ranking::rank;
pub use record::{NotARecord, decode, encode, record_length};
pub use split::Splitter;
