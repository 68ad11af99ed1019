//! Parsers of option values.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use dflow_scheduler::planner::{Link, Policy};
use dflow_worker::{Idle, MAX_SILENCE, MIN_SILENCE, RdmaUse};
use dflow_workflow::units;

use crate::cluster::AUTHORITY;

pub fn parse_rdma(text: &str) -> Result<RdmaUse, String> {
    Ok(match text {
        "" => return Err("it must be auto, off, or the name of a device listed by 'dflow doctor'".into()),
        "auto" => RdmaUse::Auto,
        "off" => RdmaUse::Off,
        name => RdmaUse::Device(name.to_owned()),
    })
}

pub fn parse_idle(text: &str) -> Result<Idle, String> {
    match text {
        "sleep" => Ok(Idle::SLEEP),
        "spin" => Ok(Idle::SPIN),
        _ => match parse_spin(text) {
            Ok(spin) => Ok(Idle { spin }),
            Err(error) => Err(format!("{error}; it must be a duration, sleep, or spin")),
        },
    }
}

pub fn parse_node(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() => Ok((name.to_owned(), address.to_owned())),
        _ => Err("a node is NAME=ADDRESS:PORT, as in b=10.0.0.2:7411".into()),
    }
}

/// An address of this machine.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an IP address and a port, as in 0.0.0.0:7411 or [::1]:7411".into())
}

pub fn parse_placement(text: &str) -> Result<(String, Vec<String>), String> {
    let wrong = || "a placement is FUNCTION=NODE[,NODE]…, as in count=a,b".to_owned();
    let (function, nodes) = text.split_once('=').ok_or_else(wrong)?;
    if function.is_empty() || nodes.split(',').any(str::is_empty) {
        return Err(wrong());
    }
    Ok((function.to_owned(), nodes.split(',').map(str::to_owned).collect()))
}

/// A node of a plan: its name and its slots.
pub fn parse_plan_node(text: &str) -> Result<(String, u32), String> {
    let wrong = || "a node is NAME=SLOTS with at least one slot, as in a=4".to_owned();
    let (name, slots) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    let slots = slots.parse().ok().filter(|slots| *slots > 0).ok_or_else(wrong)?;
    Ok((name.to_owned(), slots))
}

/// Bytes per second; `/s` may be left out.
pub fn parse_bandwidth(text: &str) -> Result<u64, String> {
    let size = units::parse_size(text.trim().strip_suffix("/s").unwrap_or(text)).map_err(|error| error.to_string())?;
    (size > 0).then_some(size).ok_or_else(|| "a link without bandwidth carries nothing: write at least 1B/s".into())
}

pub fn parse_latency(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { units::parse_duration(text).map_err(|error| error.to_string()) }
}

/// A link between two nodes.
pub fn parse_link(text: &str) -> Result<((String, String), Link), String> {
    let wrong = || "a link is NAME:NAME=BANDWIDTH,LATENCY, as in a:b=10MB/s,20ms".to_owned();
    let (ends, link) = text.split_once('=').ok_or_else(wrong)?;
    let (one, other) =
        ends.split_once(':').filter(|(one, other)| !one.is_empty() && !other.is_empty()).ok_or_else(wrong)?;
    let (bandwidth, latency) = link.split_once(',').ok_or_else(wrong)?;
    let link = Link { bandwidth: parse_bandwidth(bandwidth)?, latency: parse_latency(latency)? };
    Ok(((one.to_owned(), other.to_owned()), link))
}

/// The name of a policy; completions list them.
pub fn policy_parser() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::ALL.map(Policy::name)).try_map(|name| name.parse::<Policy>())
}

/// How long to wait for a node that does not answer yet.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|error| error.to_string())
}

/// A silence limit.
pub fn parse_silence(text: &str) -> Result<Duration, String> {
    let silence = units::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (MIN_SILENCE..=MAX_SILENCE).contains(&silence);
    fits.then_some(silence).ok_or_else(|| "it must be from 100ms to 1h".into())
}

/// The name of a new node. Only excludes the directory of the authority: the rest is checked when its certificate is
/// issued.
pub fn parse_new_node(text: &str) -> Result<String, String> {
    if text == AUTHORITY {
        return Err("this is the directory of the authority; choose another name".into());
    }
    Ok(text.to_owned())
}

pub fn parse_validity(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_secs(1);
    let validity = units::parse_duration(text).map_err(|error| error.to_string())?;
    (validity >= LEAST).then_some(validity).ok_or_else(|| "it must be at least 1s".into())
}

/// A duration; `0` needs no unit.
pub fn parse_spin(text: &str) -> Result<Duration, units::UnitError> {
    if text == "0" { Ok(Duration::ZERO) } else { units::parse_duration(text) }
}
