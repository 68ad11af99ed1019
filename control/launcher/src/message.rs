//! The messages between daemon and launcher.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::codec::{Decoder, Encoder, Malformed};
use crate::containment::{ContainmentKind, MemoryLimits};
use crate::sys::End;
use crate::{Containment, ContainmentChoice, ExitStatus, LauncherEvent, Usage};

/// How many bytes of an encoded message belong to [`Channel`](crate::channel::Channel).
pub(crate) const RESERVED: usize = 1;

/// From the daemon to the launcher.
#[derive(Debug, PartialEq)]
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
#[derive(Debug, PartialEq)]
pub(crate) struct SpawnMessage {
    pub(crate) id: u64,
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: Option<CString>,
    /// The numbers of the descriptors that come with the message, in their order.
    pub(crate) targets: Vec<i32>,
    pub(crate) stderr_tail: usize,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) oom_score_adj: Option<i16>,
}

/// From the launcher to the daemon.
#[derive(Debug, PartialEq)]
pub(crate) enum ToDaemon {
    Ready(Containment),
    Refused(String),
    Event(LauncherEvent),
}

impl ToLauncher {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::after(RESERVED);
        match self {
            Self::Configure { containment } => {
                to.u8(0);
                to.u8(match containment {
                    ContainmentChoice::Auto => 0,
                    ContainmentChoice::Cgroup => 1,
                    ContainmentChoice::Subreaper => 2,
                });
            }
            Self::Spawn(message) => {
                to.u8(1);
                message.encode(&mut to);
            }
            Self::Stop { id, grace } => {
                to.u8(2);
                to.u64(*id);
                put_duration(&mut to, *grace);
            }
        }
        to.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(bytes);
        let message = match from.u8()? {
            0 => Self::Configure {
                containment: match from.u8()? {
                    0 => ContainmentChoice::Auto,
                    1 => ContainmentChoice::Cgroup,
                    2 => ContainmentChoice::Subreaper,
                    _ => return Err(Malformed("an unknown containment")),
                },
            },
            1 => Self::Spawn(SpawnMessage::decode(&mut from)?),
            2 => Self::Stop { id: from.u64()?, grace: take_duration(&mut from)? },
            _ => return Err(Malformed("an unknown request")),
        };
        from.end()?;
        Ok(message)
    }
}

impl SpawnMessage {
    fn encode(&self, to: &mut Encoder) {
        to.u64(self.id);
        to.bytes(self.program.as_bytes());
        to.list(&self.argv, |to, argument| to.bytes(argument.as_bytes()));
        to.list(&self.env, |to, variable| to.bytes(variable.as_bytes()));
        to.option(self.cwd.as_ref(), |to, cwd| to.bytes(cwd.as_bytes()));
        to.list(&self.targets, |to, target| to.i32(*target));
        to.u64(self.stderr_tail as u64);
        to.option(self.memory_limit, Encoder::u64);
        to.option(self.oom_score_adj, |to, adjustment| to.i32(adjustment.into()));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            id: from.u64()?,
            program: from.c_string()?,
            argv: from.list(Decoder::c_string)?,
            env: from.list(Decoder::c_string)?,
            cwd: from.option(Decoder::c_string)?,
            targets: from.list(Decoder::i32)?,
            stderr_tail: usize::try_from(from.u64()?).map_err(|_| Malformed("a length is too large"))?,
            memory_limit: from.option(Decoder::u64)?,
            oom_score_adj: from
                .option(Decoder::i32)?
                .map(i16::try_from)
                .transpose()
                .map_err(|_| Malformed("an adjustment is out of range"))?,
        })
    }
}

impl ToDaemon {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::after(RESERVED);
        match self {
            Self::Ready(Containment { kind, memory }) => {
                to.u8(0);
                match kind {
                    ContainmentKind::Cgroup { directory } => {
                        to.u8(0);
                        to.bytes(directory.as_os_str().as_bytes());
                    }
                    ContainmentKind::Subreaper { reason } => {
                        to.u8(1);
                        to.bytes(reason.as_bytes());
                    }
                }
                match memory {
                    MemoryLimits::Unified => to.u8(0),
                    MemoryLimits::Version1 { directory } => {
                        to.u8(1);
                        to.bytes(directory.as_os_str().as_bytes());
                    }
                    MemoryLimits::None { reason } => {
                        to.u8(2);
                        to.bytes(reason.as_bytes());
                    }
                }
            }
            Self::Refused(reason) => {
                to.u8(1);
                to.bytes(reason.as_bytes());
            }
            Self::Event(LauncherEvent::Spawned { id, pid }) => {
                to.u8(2);
                to.u64(*id);
                to.i32(*pid);
            }
            Self::Event(LauncherEvent::SpawnFailed { id, error }) => {
                to.u8(3);
                to.u64(*id);
                to.bytes(error.as_bytes());
            }
            Self::Event(LauncherEvent::Exited {
                id,
                status,
                killed,
                out_of_memory,
                stderr_tail,
                stderr_bytes,
                usage,
            }) => {
                to.u8(4);
                to.u64(*id);
                let (status, usage) = (*status, *usage);
                put_end(&mut to, End { status, usage });
                to.u8(u8::from(*killed));
                to.u8(u8::from(*out_of_memory));
                to.bytes(stderr_tail);
                to.u64(*stderr_bytes);
            }
            Self::Event(LauncherEvent::Output { id, bytes }) => {
                to.u8(5);
                to.u64(*id);
                to.bytes(bytes);
            }
        }
        to.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Decoder::new(bytes);
        let message = match from.u8()? {
            0 => Self::Ready(Containment {
                kind: match from.u8()? {
                    0 => ContainmentKind::Cgroup { directory: path(&mut from)? },
                    1 => ContainmentKind::Subreaper { reason: from.text()? },
                    _ => return Err(Malformed("an unknown containment")),
                },
                memory: match from.u8()? {
                    0 => MemoryLimits::Unified,
                    1 => MemoryLimits::Version1 { directory: path(&mut from)? },
                    2 => MemoryLimits::None { reason: from.text()? },
                    _ => return Err(Malformed("an unknown kind of memory limits")),
                },
            }),
            1 => Self::Refused(from.text()?),
            2 => Self::Event(LauncherEvent::Spawned { id: from.u64()?, pid: from.i32()? }),
            3 => Self::Event(LauncherEvent::SpawnFailed { id: from.u64()?, error: from.text()? }),
            4 => {
                let id = from.u64()?;
                let End { status, usage } = take_end(&mut from)?;
                Self::Event(LauncherEvent::Exited {
                    id,
                    status,
                    killed: from.u8()? != 0,
                    out_of_memory: from.u8()? != 0,
                    stderr_tail: from.bytes()?.to_vec(),
                    stderr_bytes: from.u64()?,
                    usage,
                })
            }
            5 => Self::Event(LauncherEvent::Output { id: from.u64()?, bytes: from.bytes()?.to_vec() }),
            _ => return Err(Malformed("an unknown event")),
        };
        from.end()?;
        Ok(message)
    }
}

fn path(from: &mut Decoder<'_>) -> Result<PathBuf, Malformed> {
    Ok(OsString::from_vec(from.bytes()?.to_vec()).into())
}

/// How a process ended; a [`Reaper`](crate::reaper::Reaper) sends this, too.
pub(crate) fn put_end(to: &mut Encoder, end: End) {
    let (kind, number) = match end.status {
        ExitStatus::Exited(code) => (0, code),
        ExitStatus::Signaled(signal) => (1, signal),
    };
    to.u8(kind);
    to.i32(number);
    put_duration(to, end.usage.user);
    put_duration(to, end.usage.system);
    to.u64(end.usage.max_rss);
}

pub(crate) fn take_end(from: &mut Decoder<'_>) -> Result<End, Malformed> {
    let status = match (from.u8()?, from.i32()?) {
        (0, code) => ExitStatus::Exited(code),
        (1, signal) => ExitStatus::Signaled(signal),
        _ => return Err(Malformed("an unknown status")),
    };
    let usage = Usage { user: take_duration(from)?, system: take_duration(from)?, max_rss: from.u64()? };
    Ok(End { status, usage })
}

/// The kernel counts in microseconds; a longer time than fits (half a million years) is truncated.
fn put_duration(to: &mut Encoder, duration: Duration) {
    to.u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

fn take_duration(from: &mut Decoder<'_>) -> Result<Duration, Malformed> {
    from.u64().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutation::{Random, Verdict, fuzz};
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
                SpawnMessage {
                    id,
                    program,
                    argv,
                    env,
                    cwd,
                    targets,
                    stderr_tail: tail as usize,
                    memory_limit,
                    oom_score_adj,
                }
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
            prop_assert_eq!(ToLauncher::decode(&request.encode()[RESERVED..]), Ok(request));
            prop_assert_eq!(ToDaemon::decode(&event.encode()[RESERVED..]), Ok(event));
        }

        #[test]
        fn a_cut_message_is_an_error(request in to_launcher(), event in to_daemon(), cut in any::<prop::sample::Index>()) {
            let bytes = &request.encode()[RESERVED..];
            prop_assert!(ToLauncher::decode(&bytes[..cut.index(bytes.len())]).is_err());
            let bytes = &event.encode()[RESERVED..];
            prop_assert!(ToDaemon::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn nonsense_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = ToDaemon::decode(&bytes);
            if let Ok(message) = ToLauncher::decode(&bytes) {
                prop_assert_eq!(&message.encode()[RESERVED..], &bytes[..]);
            }
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
                stderr_tail: random.number() as usize,
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

    #[test]
    fn accepted_messages_encode_to_the_same_bytes() {
        fuzz(
            |random| any_to_launcher(random).encode().split_off(RESERVED),
            |bytes| {
                let Ok(message) = ToLauncher::decode(bytes) else { return Verdict::Refused };
                assert_eq!(&message.encode()[RESERVED..], bytes);
                Verdict::Accepted
            },
        );
        fuzz(
            |random| any_to_daemon(random).encode().split_off(RESERVED),
            |bytes| {
                // Invalid UTF-8 is replaced when decoded, and a flag is any number except 0.
                let Ok(message) = ToDaemon::decode(bytes) else { return Verdict::Refused };
                assert_eq!(ToDaemon::decode(&message.encode()[RESERVED..]), Ok(message));
                Verdict::Accepted
            },
        );
    }
}
