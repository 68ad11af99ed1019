//! The real binary: exit statuses, help, and the commands that need no data. What runs do is tested where they are made.

mod check;
mod cluster;
mod completions;
mod dry_run;
mod harness;
mod help;
mod interrupt;
mod man;
mod plan;
mod run;
