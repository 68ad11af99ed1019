//! The messages between daemon and launcher. Each end checks what it receives, although both run the same program:
//! bytes that are no message are an error, never a crash of the process that is the parent of every function.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use rkyv::rancor::{self, Fallible};
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Archive, Deserialize, Place, Serialize};

use crate::sys::ProcessEnd;
use crate::{Containment, ContainmentChoice, LauncherEvent, MAX_REQUEST_BYTES};

/// From the daemon to the launcher.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum ToLauncher {
    /// The first message; answered by `Ready` or `Refused`.
    Configure {
        containment: ContainmentChoice,
    },
    Spawn(SpawnMessage),
    /// SIGTERM to all processes of an attempt, and SIGKILL to those that remain after `grace`.
    Stop {
        id: u64,
        grace: Duration,
    },
}

/// A checked [`SpawnRequest`](crate::SpawnRequest) without its descriptors.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) struct SpawnMessage {
    pub(crate) id: u64,
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: Option<CString>,
    /// The numbers of the descriptors that come with the message, in their order.
    pub(crate) targets: Vec<i32>,
    pub(crate) stderr_tail: u32,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) oom_score_adj: Option<i16>,
}

/// From the launcher to the daemon.
#[derive(Debug, PartialEq, Archive, Serialize, Deserialize)]
pub(crate) enum ToDaemon {
    Ready(Containment),
    Refused(String),
    Event(LauncherEvent),
}

/// Why a message cannot be sent or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than any message may be.
    #[error("a message of {0} bytes exceeds the maximum of {MAX_REQUEST_BYTES} bytes")]
    TooLong(usize),
    /// The bytes are not a message of this program.
    #[error("{0} bytes are not a valid message")]
    Malformed(usize),
    /// There is no memory for its bytes.
    #[error("a message cannot be encoded: there is no memory for it")]
    Memory,
}

macro_rules! codec {
    ($name:ident) => {
        impl $name {
            pub(crate) fn encode(&self) -> Result<Vec<u8>, MessageError> {
                let bytes = rkyv::to_bytes::<rancor::Failure>(self).map_err(|_| MessageError::Memory)?;
                match bytes.len() {
                    size if size > MAX_REQUEST_BYTES => Err(MessageError::TooLong(size)),
                    _ => Ok(bytes.into_vec()),
                }
            }

            /// Decodes a message after full validation; its size is checked before anything is allocated.
            pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
                if bytes.len() > MAX_REQUEST_BYTES {
                    return Err(MessageError::TooLong(bytes.len()));
                }
                rkyv::from_bytes::<Self, rancor::Failure>(bytes).map_err(|_| MessageError::Malformed(bytes.len()))
            }
        }
    };
}

codec!(ToLauncher);
codec!(ToDaemon);
// The report of a reaper about the main process of its attempt.
codec!(ProcessEnd);

impl ProcessEnd {
    /// The length of an encoded report: it has no part of variable length.
    pub(crate) const ENCODED_LENGTH: usize = size_of::<rkyv::Archived<ProcessEnd>>();
}

/// Encodes a path as its bytes: a path need not be UTF-8, which rkyv's own encoding of paths requires.
pub(crate) struct PathBytes;

impl ArchiveWith<PathBuf> for PathBytes {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve_with(path: &PathBuf, resolver: VecResolver, out: Place<Self::Archived>) {
        ArchivedVec::resolve_from_slice(path.as_os_str().as_bytes(), resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> SerializeWith<PathBuf, S> for PathBytes {
    fn serialize_with(path: &PathBuf, serializer: &mut S) -> Result<VecResolver, S::Error> {
        ArchivedVec::serialize_from_slice(path.as_os_str().as_bytes(), serializer)
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<ArchivedVec<u8>, PathBuf, D> for PathBytes {
    fn deserialize_with(bytes: &ArchivedVec<u8>, _: &mut D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(bytes.to_vec()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ContainmentKind, ExitStatus, MemoryLimits, Usage};
    use dflow_testkit::fuzz::{Random, Verdict, fuzz};
    use proptest::prelude::*;

    fn c_string() -> impl Strategy<Value = CString> {
        prop::collection::vec(1u8..=255, 0..12).prop_map(|bytes| CString::new(bytes).unwrap())
    }

    fn spawn() -> impl Strategy<Value = SpawnMessage> {
        let strings = || prop::collection::vec(c_string(), 0..5);
        (
            (any::<u64>(), c_string(), strings(), strings()),
            prop::option::of(c_string()),
            prop::collection::vec(any::<i32>(), 0..5),
            any::<u32>(),
            any::<Option<u64>>(),
            any::<Option<i16>>(),
        )
            .prop_map(|((id, program, argv, env), cwd, targets, tail, memory_limit, oom_score_adj)| {
                SpawnMessage { id, program, argv, env, cwd, targets, stderr_tail: tail, memory_limit, oom_score_adj }
            })
    }

    fn to_launcher() -> impl Strategy<Value = ToLauncher> {
        let choices = [ContainmentChoice::Auto, ContainmentChoice::Cgroup, ContainmentChoice::Subreaper];
        prop_oneof![
            prop::sample::select(choices.to_vec()).prop_map(|containment| ToLauncher::Configure { containment }),
            spawn().prop_map(ToLauncher::Spawn),
            (any::<u64>(), 0..u64::MAX / 2)
                .prop_map(|(id, grace)| ToLauncher::Stop { id, grace: Duration::from_micros(grace) }),
        ]
    }

    fn exited() -> impl Strategy<Value = LauncherEvent> {
        let status =
            prop_oneof![any::<i32>().prop_map(ExitStatus::Exited), any::<i32>().prop_map(ExitStatus::Signaled)];
        let usage = (0..u64::MAX / 2, 0..u64::MAX / 2, any::<u64>()).prop_map(|(user, system, max_rss)| Usage {
            user: Duration::from_micros(user),
            system: Duration::from_micros(system),
            max_rss,
        });
        let flags = any::<(bool, bool)>();
        (any::<u64>(), status, flags, prop::collection::vec(any::<u8>(), 0..50), any::<u64>(), usage).prop_map(
            |(id, status, (killed, out_of_memory), stderr_tail, stderr_bytes, usage)| LauncherEvent::Exited {
                id,
                status,
                killed,
                out_of_memory,
                stderr_tail,
                stderr_bytes,
                usage,
            },
        )
    }

    fn kind() -> impl Strategy<Value = ContainmentKind> {
        prop_oneof![
            "[a-z/]{0,9}".prop_map(|directory| ContainmentKind::Cgroup { directory: directory.into() }),
            ".{0,9}".prop_map(|reason| ContainmentKind::Subreaper { reason }),
        ]
    }

    fn limits() -> impl Strategy<Value = MemoryLimits> {
        prop_oneof![
            Just(MemoryLimits::Unified),
            "[a-z/]{0,9}".prop_map(|directory| MemoryLimits::Version1 { directory: directory.into() }),
            ".{0,9}".prop_map(|reason| MemoryLimits::None { reason }),
        ]
    }

    fn to_daemon() -> impl Strategy<Value = ToDaemon> {
        prop_oneof![
            (kind(), limits()).prop_map(|(kind, memory)| ToDaemon::Ready(Containment { kind, memory })),
            ".{0,9}".prop_map(ToDaemon::Refused),
            (any::<u64>(), any::<i32>()).prop_map(|(id, pid)| ToDaemon::Event(LauncherEvent::Spawned { id, pid })),
            (any::<u64>(), ".{0,9}").prop_map(|(id, error)| ToDaemon::Event(LauncherEvent::SpawnFailed { id, error })),
            exited().prop_map(ToDaemon::Event),
            (any::<u64>(), prop::collection::vec(any::<u8>(), 0..50))
                .prop_map(|(id, bytes)| ToDaemon::Event(LauncherEvent::Output { id, bytes })),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip(request in to_launcher(), event in to_daemon()) {
            prop_assert_eq!(ToLauncher::decode(&request.encode().unwrap()), Ok(request));
            prop_assert_eq!(ToDaemon::decode(&event.encode().unwrap()), Ok(event));
        }

        #[test]
        fn nonsense_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ToDaemon::decode(&bytes);
            let _ = ToLauncher::decode(&bytes);
            let _ = ProcessEnd::decode(&bytes);
        }
    }

    #[test]
    fn a_message_of_no_bytes_or_too_many_is_an_error() {
        assert_eq!(ToLauncher::decode(&[]), Err(MessageError::Malformed(0)));
        let size = MAX_REQUEST_BYTES + 1;
        assert_eq!(ToLauncher::decode(&vec![0; size]), Err(MessageError::TooLong(size)));
        let refused = ToDaemon::Refused("x".repeat(size));
        assert!(matches!(refused.encode(), Err(MessageError::TooLong(_))));
    }

    #[test]
    fn a_path_that_is_not_utf8_arrives_unchanged() {
        let directory = PathBuf::from(OsString::from_vec(b"/sys/fs/cgroup/\xff".to_vec()));
        let kind = ContainmentKind::Cgroup { directory };
        let ready = ToDaemon::Ready(Containment { kind, memory: MemoryLimits::Unified });
        assert_eq!(ToDaemon::decode(&ready.encode().unwrap()), Ok(ready));
    }

    #[test]
    fn every_report_of_a_reaper_has_the_length_that_the_launcher_receives() {
        let usage = Usage { user: Duration::MAX, system: Duration::ZERO, max_rss: u64::MAX };
        for status in [ExitStatus::Exited(0), ExitStatus::Signaled(i32::MIN)] {
            let report = ProcessEnd { status, usage }.encode().unwrap();
            assert_eq!(report.len(), ProcessEnd::ENCODED_LENGTH);
            assert_eq!(ProcessEnd::decode(&report), Ok(ProcessEnd { status, usage }));
        }
    }

    fn any_to_launcher(random: &mut Random) -> ToLauncher {
        let string = |random: &mut Random| {
            let bytes: Vec<u8> = random.bytes(12).into_iter().filter(|byte| *byte != 0).collect();
            CString::new(bytes).expect("without a zero")
        };
        match random.below(3) {
            0 => ToLauncher::Configure { containment: ContainmentChoice::Cgroup },
            1 => ToLauncher::Stop { id: random.number(), grace: Duration::from_micros(random.number()) },
            _ => ToLauncher::Spawn(SpawnMessage {
                id: random.number(),
                program: string(random),
                argv: random.list(4, string),
                env: random.list(4, string),
                cwd: random.option(string),
                targets: random.list(4, |random| random.number() as i32),
                stderr_tail: random.next() as u32,
                memory_limit: random.option(Random::number),
                oom_score_adj: random.option(|random| random.next() as i16),
            }),
        }
    }

    fn any_to_daemon(random: &mut Random) -> ToDaemon {
        match random.below(5) {
            4 => ToDaemon::Event(LauncherEvent::Output { id: random.number(), bytes: random.bytes(40) }),
            0 => ToDaemon::Refused(random.text(20)),
            1 => ToDaemon::Event(LauncherEvent::Spawned { id: random.number(), pid: random.next() as i32 }),
            2 => ToDaemon::Ready(Containment {
                kind: ContainmentKind::Subreaper { reason: random.text(20) },
                memory: MemoryLimits::Version1 { directory: random.text(20).into() },
            }),
            _ => ToDaemon::Event(LauncherEvent::Exited {
                id: random.number(),
                status: ExitStatus::Signaled(9),
                killed: random.flag(),
                out_of_memory: random.flag(),
                stderr_tail: random.bytes(40),
                stderr_bytes: random.number(),
                usage: Usage { user: Duration::ZERO, system: Duration::from_micros(5), max_rss: random.number() },
            }),
        }
    }

    /// The encoding of a message is not unique: padding may hold anything. But a message that was accepted is within
    /// the limits, and sending it on does not change it.
    #[test]
    fn accepted_messages_can_be_sent_on_unchanged() {
        fuzz(
            |random| any_to_launcher(random).encode().expect("it is within its limits"),
            |bytes| {
                let Ok(message) = ToLauncher::decode(bytes) else { return Verdict::Refused };
                let again = message.encode().expect("a decoded message is within the limits");
                assert_eq!(ToLauncher::decode(&again), Ok(message));
                Verdict::Accepted
            },
        );
        fuzz(
            |random| any_to_daemon(random).encode().expect("it is within its limits"),
            |bytes| {
                let Ok(message) = ToDaemon::decode(bytes) else { return Verdict::Refused };
                let again = message.encode().expect("a decoded message is within the limits");
                assert_eq!(ToDaemon::decode(&again), Ok(message));
                Verdict::Accepted
            },
        );
    }
}
