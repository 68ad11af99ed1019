//! The limits of a workflow file. Everything that a file can count has its limit here.

use std::time::Duration;

/// The largest workflow file, in bytes: 100,000 functions at 600 bytes each.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Maximum number of values in a file after its aliases are expanded. A few lines of nested aliases ("billion laughs")
/// are then an error instead of exhausting memory.
pub const MAX_YAML_NODES: usize = 4_000_000;

/// Maximum depth of nested lists and maps.
pub const MAX_YAML_DEPTH: usize = 32;

/// Maximum number of errors in a report; further errors are only counted.
pub const MAX_DIAGNOSTICS: usize = 50;

/// Maximum length of the name of a function, port or parameter, in bytes: that of a file name on Linux.
pub const MAX_NAME_BYTES: usize = 255;

/// Maximum number of entries under `functions` (functions and switches together).
pub const MAX_FUNCTIONS: usize = 100_000;

/// Maximum number of switches. For each function, the branches under which it can run are computed for every switch
/// upstream of it, so a chain of switches takes memory in proportion to the square of its length.
pub const MAX_SWITCHES: usize = 1024;

/// Maximum number of ports in one list: inputs of a workflow, outputs of a workflow, inputs or outputs of one function.
pub const MAX_PORTS: usize = 16_384;

/// Maximum number of sources of one input or one workflow output.
pub const MAX_SOURCES: usize = 65_536;

/// Maximum number of parts of an output with a fixed `partition`.
pub const MAX_PARTS: u32 = 65_536;

/// Maximum number of parameters or environment variables in one list.
pub const MAX_PARAMS: usize = 256;

/// Maximum number of arguments of a command: an option and a value for each of its ports.
pub const MAX_ARGUMENTS: usize = 4 * MAX_PORTS;

/// Maximum length of an argument, parameter or environment variable, in bytes: the limit of Linux for one argument.
pub const MAX_TEXT_BYTES: usize = 128 << 10;

/// Maximum number of cases of a switch.
pub const MAX_CASES: usize = 256;

/// Maximum number of retries of a function.
pub const MAX_RETRIES: u32 = 1000;

/// Default of `grace`: the time from SIGTERM until a function is killed.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(3);

/// Maximum of `grace`.
pub const MAX_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Default of `start_timeout`: the time until a program is ready to start. Importing a large library from a busy
/// network file system takes tens of seconds.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of slots of one instance.
pub const MAX_SLOTS: u32 = 4096;

/// Maximum number of exit statuses that a command may list as success: every status.
pub const MAX_STATUSES: usize = 256;
