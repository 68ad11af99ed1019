//! The launcher with real processes, under each containment.

/// Makes a test for each containment from functions that take one.
macro_rules! under_each_containment {
    ($($name:ident),* $(,)?) => {
        mod cgroup {
            $(#[test] fn $name() { super::$name(dflow_launcher::ContainmentChoice::Cgroup) })*
        }
        mod subreaper {
            $(#[test] fn $name() { super::$name(dflow_launcher::ContainmentChoice::Subreaper) })*
        }
    };
}

mod containment;
mod daemon;
mod failures;
mod grace;
mod harness;
mod programs;
