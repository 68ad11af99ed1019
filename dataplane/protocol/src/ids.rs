//! Ids. Each is a number of its own type, so that none is taken for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default,
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// An instance of a function, unique within its run.
    InstanceId(u32)
}
id! {
    /// A stream, unique within its run.
    StreamId(u32)
}
id! {
    /// The attempt that writes a stream; the first is 1.
    Epoch(u32)
}
id! {
    /// A port of one attempt: its place in the attempt's control page. Inputs and outputs share one number space.
    PortId(u32)
}
id! {
    /// A piece of memory or a file that the daemon has handed out, unique within the daemon's life.
    SegmentId(u64)
}

/// A run: 128 random bits, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u128);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
