//! Ids. Each kind has its own type, so that the compiler rejects one used in place of another.

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
    /// A port of one attempt: its index in the attempt's control page. Inputs and outputs share one number space.
    PortId(u32)
}
id! {
    /// Memory or a file that the daemon has passed to an attempt. Never reused during the daemon's lifetime.
    SegmentId(u64)
}

/// A run: 128 random bits, displayed as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u128);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
