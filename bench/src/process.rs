//! The processes of a measurement, called actors: children of this program, each pinned to a core, which execute orders
//! of their parent.
//!
//! The parent only waits while they measure. An actor that fails, hangs or dies affects only its own row of the report.
//! No actor outlives the parent.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::failure::{Failure, Trying};
use crate::latency::Recorded;

/// The time limit of a round, after which the measurement is aborted.
const ROUND_LIMIT: Duration = Duration::from_secs(120);

/// How long an actor may take to exit on its own.
const END_GRACE: Duration = Duration::from_secs(2);

/// The task of an actor. Each topic has its own.
pub trait Task: Serialize + DeserializeOwned + 'static {
    /// Tells it from the tasks of other topics.
    const TOPIC: &str;

    /// Runs in the actor's process: prepares its part of the measurement.
    fn actor(self) -> Result<Box<dyn Actor>, Failure>;
}

/// A kind of task that an actor of this program can execute.
pub struct Skill {
    topic: &'static str,
    actor: fn(serde_json::Value) -> Result<Box<dyn Actor>, Failure>,
}

impl Skill {
    /// To execute tasks of this kind.
    pub const fn of<T: Task>() -> Skill {
        Skill { topic: T::TOPIC, actor: |task| serde_json::from_value::<T>(task).trying("decode a task")?.actor() }
    }
}

/// One process of a measurement.
pub trait Actor {
    /// Does its part of a round. All actors of a measurement run the same round.
    fn round(&mut self, round: Round) -> Result<Findings, Failure>;
}

/// One round of a measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Round {
    /// The number of messages, round trips or streams.
    pub count: u64,
    /// Nanoseconds between their starts; 0 for full speed.
    pub interval: u64,
}

/// The result of an actor's round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// Its start time, in nanoseconds of the shared clock.
    pub began: u64,
    /// Its end time.
    pub ended: u64,
    /// The latencies that it measured.
    pub latency: Recorded,
    /// The processor time of its process during the round, in nanoseconds.
    pub cpu: u64,
}

#[derive(Serialize, Deserialize)]
struct Order {
    topic: String,
    task: serde_json::Value,
    core: Option<usize>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Ready,
    Done(Findings),
    Failed(Failure),
}

/// All actors of one measurement.
pub struct Actors {
    members: Vec<Member>,
    answers: Receiver<(usize, Result<Answer, Failure>)>,
    failed: bool,
}

struct Member {
    child: Child,
    line: UnixStream,
}

impl Actors {
    /// Starts an actor for each task, pinned to the given core if any, and waits until all are ready.
    pub fn start<T: Task>(tasks: Vec<(T, Option<usize>)>) -> Result<Actors, Failure> {
        let (sender, answers) = channel();
        let mut actors = Actors { members: Vec::new(), answers, failed: true };
        for (index, (task, core)) in tasks.into_iter().enumerate() {
            let task = serde_json::to_value(task).trying("encode a task")?;
            let order = Order { topic: T::TOPIC.to_owned(), task, core };
            actors.members.push(Member::start(index, &order, sender.clone())?);
        }
        for answer in actors.answers()? {
            if !matches!(answer, Answer::Ready) {
                return Err(Failure::new("an actor answered out of turn"));
            }
        }
        actors.failed = false;
        Ok(actors)
    }

    /// Runs a round with all actors. The results are in the order of their tasks.
    pub fn round(&mut self, round: Round) -> Result<Vec<Findings>, Failure> {
        self.failed = true;
        for member in &mut self.members {
            send(&mut member.line, &round)?;
        }
        let mut findings = Vec::new();
        for answer in self.answers()? {
            match answer {
                Answer::Done(found) => findings.push(found),
                _ => return Err(Failure::new("an actor answered out of turn")),
            }
        }
        self.failed = false;
        Ok(findings)
    }

    /// Warms up, and returns the number of steps, within `bounds`, that take about `budget`.
    pub fn calibrate(&mut self, budget: Duration, bounds: (u64, u64)) -> Result<u64, Failure> {
        /// Steps of the first round, which warms up code and memory.
        const COLD: u64 = 16;
        /// The fraction of the budget for the second round.
        const WARM: u32 = 5;
        let mut count = COLD.min(bounds.1);
        for budget in [budget / WARM, budget] {
            let findings = self.round(Round { count, interval: 0 })?;
            let began = findings.iter().map(|found| found.began).min().unwrap_or(0);
            let ended = findings.iter().map(|found| found.ended).max().unwrap_or(0);
            let each = ended.saturating_sub(began).max(1) as f64 / count as f64;
            count = ((budget.as_nanos() as f64 / each) as u64).clamp(bounds.0, bounds.1);
        }
        Ok(count)
    }

    /// One answer from each actor, or the first failure.
    fn answers(&mut self) -> Result<Vec<Answer>, Failure> {
        let deadline = Instant::now() + ROUND_LIMIT;
        let mut answers: Vec<Option<Answer>> = self.members.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            match self.answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((_, Ok(Answer::Failed(failure)) | Err(failure))) => return Err(failure),
                Ok((index, Ok(answer))) => answers[index] = Some(answer),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::new(format!("no answer within {} s", ROUND_LIMIT.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("all actors have ended")),
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

impl Drop for Actors {
    fn drop(&mut self) {
        let deadline = Instant::now() + if self.failed { Duration::ZERO } else { END_GRACE };
        for member in &self.members {
            // Closing its socket tells an actor to exit.
            let _ = member.line.shutdown(std::net::Shutdown::Both);
        }
        for member in &mut self.members {
            while matches!(member.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

impl Member {
    fn start(index: usize, order: &Order, sender: Sender<(usize, Result<Answer, Failure>)>) -> Result<Member, Failure> {
        let (mut line, far) = UnixStream::pair().trying("make a socket pair")?;
        let program = std::env::current_exe().trying("find this program")?;
        let child = Command::new(program)
            .arg("actor")
            .stdin(Stdio::from(OwnedFd::from(far)))
            .stdout(Stdio::null())
            .spawn()
            .trying("start a process of the measurement")?;
        send(&mut line, order)?;
        let mut answers = BufReader::new(line.try_clone().trying("share a socket")?);
        std::thread::spawn(move || {
            loop {
                let answer = match receive(&mut answers) {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => Err(Failure::new("a process of the measurement died")),
                    Err(failure) => Err(failure),
                };
                let last = answer.is_err();
                if sender.send((index, answer)).is_err() || last {
                    return;
                }
            }
        });
        Ok(Member { child, line })
    }
}

/// Runs this program as an actor with these skills: executes the orders from the socket on its standard input.
pub fn act(skills: &[Skill]) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).trying("tie this process to its parent")?;
    let line = std::io::stdin().as_fd().try_clone_to_owned().trying("take over standard input")?;
    let mut line = UnixStream::from(line);
    let mut orders = BufReader::new(line.try_clone().trying("share a socket")?);
    let Some(order) = receive(&mut orders)? else { return Ok(()) };
    let outcome = obey(skills, order, &mut line, &mut orders);
    if let Err(failure) = outcome {
        send(&mut line, &Answer::Failed(failure))?;
    }
    Ok(())
}

fn obey(
    skills: &[Skill],
    order: Order,
    line: &mut UnixStream,
    orders: &mut BufReader<UnixStream>,
) -> Result<(), Failure> {
    if let Some(core) = order.core {
        pin(core)?;
    }
    let skill = skills.iter().find(|skill| skill.topic == order.topic);
    let skill = skill.ok_or_else(|| Failure::new(format!("an actor has no skill for {}", order.topic)))?;
    let mut actor = (skill.actor)(order.task)?;
    send(line, &Answer::Ready)?;
    while let Some(round) = receive(orders)? {
        let before = clock::processor_time();
        let findings = actor.round(round)?;
        let cpu = clock::processor_time().saturating_sub(before);
        send(line, &Answer::Done(Findings { cpu, ..findings }))?;
    }
    Ok(())
}

/// Pins this process to a core.
fn pin(core: usize) -> Result<(), Failure> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).trying(format_args!("pin the process to core {core}"))
}

/// Sends a message as a line of JSON.
fn send(line: &mut UnixStream, message: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(message).trying("encode a message")?;
    text.push('\n');
    line.write_all(text.as_bytes()).trying("send to a process of the measurement")
}

/// Receives the next message; `None` if the other side has closed its socket.
fn receive<M: DeserializeOwned>(line: &mut BufReader<UnixStream>) -> Result<Option<M>, Failure> {
    let mut text = String::new();
    match line.read_line(&mut text) {
        Ok(0) => Ok(None),
        Ok(_) => serde_json::from_str(&text).trying("decode a message").map(Some),
        Err(error) => Err(error).trying("receive from a process of the measurement"),
    }
}
