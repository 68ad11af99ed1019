//! The C interface of dflow: what `dflow.h` declares. Functions in C, C++, Fortran and every language that can call C are
//! built on it.
//!
//! It is the Rust SDK behind handles. Four rules make it hard to crash:
//!
//! - A handle is a number in the shape of a pointer and is looked up in a table ([`handle`]), so that a handle that is
//!   `NULL`, closed, of another kind or made up is an error.
//! - Every function catches panics ([`status::guard`]), and every pointer is compared with `NULL`.
//! - What a handle refers to is locked while it is used. A second thread gets an error instead of a data race.
//! - Everything that belongs to an attempt ends with it, except views, which keep their memory until they are released.
//!
//! `tests/header.rs` generates `dflow.h` from the comments in this crate.

mod context;
mod fan_in;
mod fork;
mod framing;
mod handle;
mod input;
mod output;
mod parts;
mod poller;
mod serve;
mod status;
mod text;
mod view;
mod wait;

pub use context::*;
pub use fan_in::*;
pub use framing::*;
pub use input::*;
pub use output::*;
pub use parts::*;
pub use poller::*;
pub use serve::*;
pub use status::{dflow_last_error, dflow_status, dflow_status_name, dflow_version};
pub use view::*;
pub use wait::*;
