//! How large a workflow may be. Every count that a file can state has its limit here.

use std::time::Duration;

/// The largest workflow file, in bytes: 100,000 functions at 600 bytes each.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// The most values of a file after its aliases are expanded. A few lines of nested aliases ("billion laughs") are then
/// an error and do not exhaust the memory.
pub const MAX_YAML_NODES: usize = 4_000_000;

/// How deep lists and maps may be nested.
pub const MAX_YAML_DEPTH: usize = 32;

/// How many errors a report lists; the others are only counted.
pub const MAX_DIAGNOSTICS: usize = 50;

/// The longest name of a function, port or parameter, in bytes: the longest name of a file on Linux.
pub const MAX_NAME_BYTES: usize = 255;

/// The most entries under `functions` (functions and switches together).
pub const MAX_FUNCTIONS: usize = 100_000;

/// The most switches. Under which branches a function can run is worked out for every switch above it, so that switches
/// in a row take memory with the square of their number.
pub const MAX_SWITCHES: usize = 1024;

/// The most ports in one list: inputs of a workflow, outputs of a workflow, inputs or outputs of one function.
pub const MAX_PORTS: usize = 16_384;

/// The most sources that one input or one workflow output may list.
pub const MAX_SOURCES: usize = 65_536;

/// The most parts that an output may be partitioned into by a number in the file.
pub const MAX_PARTS: u32 = 65_536;

/// The most parameters or environment variables in one list.
pub const MAX_PARAMS: usize = 256;

/// The most arguments of a command: one, and an option before it, for each of its ports.
pub const MAX_ARGUMENTS: usize = 4 * MAX_PORTS;

/// The longest text of an argument, parameter or environment variable, in bytes (what Linux takes for one argument).
pub const MAX_TEXT_BYTES: usize = 128 << 10;

/// The most cases of a switch.
pub const MAX_CASES: usize = 256;

/// The most retries of a function.
pub const MAX_RETRIES: u32 = 1000;

/// How long a function may take to clean up before it is killed, if the file does not say.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(3);

/// The longest time to clean up that a file may give.
pub const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a program may take until it is ready to start, if the file does not say: the import of a large library from a
/// busy network file system takes tens of seconds.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);

/// The most slots that one instance may hold.
pub const MAX_SLOTS: u32 = 4096;

/// The most exit statuses that a command may list as successes: all that there are.
pub const MAX_STATUSES: usize = 256;
