//! What a worker tells Prometheus, while a run goes on and afterwards.

use crate::nodes::Cluster;
use crate::support::{Case, eventually};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// The status line, the head and the body of an answer.
fn request(address: &str, head: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let (status, head) = head.split_once("\r\n").unwrap_or((head, ""));
    (status.to_owned(), head.to_ascii_lowercase(), body.to_owned())
}

/// A scrape: every series with its value.
pub fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, head, body) = request(address, "GET /metrics HTTP/1.1\r\nHost: worker\r\n\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    parse(&body)
}

/// Reads the text format as a scraper does, and fails where that would or where a name breaks the conventions.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
    let (mut series, mut families) = (BTreeMap::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && name.starts_with("dflow_") && help.ends_with('.'), "{line}");
            assert!(!families.contains(&name), "{name} comes twice");
            families.push(name);
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(["gauge", "counter"].contains(&kind), "{kind}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(value >= 0.0, "{line}");
        let (family, labels) = match name.split_once('{') {
            Some((family, labels)) => (family, labels.strip_suffix('}').unwrap()),
            None => (name, ""),
        };
        assert_eq!(families.last(), Some(&family), "a sample of another family");
        let mut rest = labels;
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let mut escaped = false;
            let end = after.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &after[end.unwrap() + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        assert!(series.insert(name.to_owned(), value).is_none(), "{name} comes twice");
    }
    series
}

#[test]
fn attempts_that_a_cancelled_run_ends_have_not_failed() {
    let cluster = Cluster::with_options(&["b"], &["--metrics", "127.0.0.1:0"]);
    let case =
        Case::new("s: { program: dflow-probe, outputs: [o], params: { bytes: 100000000000, pause_us: 1000 } }", "{}");
    let running = cluster.spawn(&case, &["s=b"]);
    eventually("it does not start", || cluster.probes() == 1);
    crate::nodes::kill("-INT", running.id());
    assert_eq!(case.finish(running.wait()).code, Some(130));
    cluster.assert_idle();
    let now = scrape(&cluster.metrics("b"));
    let ended = |outcome: &str| now[&format!("dflow_attempts_ended_total{{outcome=\"{outcome}\"}}")];
    assert_eq!((ended("stopped"), ended("failed")), (1.0, 0.0), "{now:?}");
}

#[test]
fn a_scrape_during_a_run() {
    const LENGTH: u64 = 2_000_000;
    let cluster = Cluster::with_options(&["b"], &["--metrics", "127.0.0.1:0", "--slots", "3", "--memory", "64MiB"]);
    let address = cluster.metrics("b");
    let at_first = scrape(&address);
    assert_eq!(at_first["dflow_slots"], 3.0);
    assert_eq!((at_first["dflow_runs"], at_first["dflow_runs_total"]), (0.0, 0.0));
    assert_eq!(at_first[&format!("dflow_build_info{{node=\"b\",version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let days_left = (at_first["dflow_certificate_expiry_timestamp_seconds"] - now) / 86400.0;
    assert!((1.0..400.0).contains(&days_left), "{days_left}");

    // s goes on until the test says so.
    let case = Case::new(
        &format!(
            "t: {{ command: [head, -n1, GATE] }}
             s: {{ program: dflow-probe, outputs: [o], params: {{ bytes: {LENGTH} }} }}
             r: {{ program: dflow-probe, inputs: {{ i: s.o, j: {{ from: t.out, gate: start }} }}, outputs: [o], params: {{ order: one-by-one }} }}"
        ),
        "{ o: r.o }",
    );
    let mut gate = case.gate();
    let running = cluster.spawn(&case, &["s=a", "t=b", "r=b"]);
    let received = "dflow_peer_received_bytes_total{peer=\"a\",path=\"quic\"}";
    let waiting = "dflow_instances{state=\"waiting\"}";
    eventually("the run is not to be seen", || {
        let now = scrape(&address);
        now.get(received) == Some(&(LENGTH as f64)) && now[waiting] >= 1.0
    });
    let now = scrape(&address);
    assert_eq!((now["dflow_runs"], now["dflow_runs_total"]), (1.0, 1.0));
    assert_eq!(now["dflow_memory_budget_bytes"], (64 << 20) as f64);
    assert!(now["dflow_memory_used_bytes"] > 0.0, "{now:?}");
    assert!(now["dflow_slots_used"] <= 3.0, "{now:?}");
    assert_eq!(now["dflow_peer_paths{peer=\"a\",path=\"quic\"}"], 1.0, "{now:?}");
    assert_eq!(now["dflow_peer_paths{peer=\"a\",path=\"rdma\"}"], 0.0, "{now:?}");
    let why = "dflow_peer_without_rdma_info{peer=\"a\",reason=\"it is switched off\"}";
    assert_eq!(now[why], 1.0, "{now:?}");
    assert!(now["dflow_peer_streams{peer=\"a\",direction=\"out\"}"] >= 1.0, "{now:?}");
    assert_eq!(now["dflow_connections_total{direction=\"in\"}"], 1.0, "{now:?}");

    gate.open();
    case.finish(running.wait()).succeeded();
    cluster.assert_idle();
    let after = scrape(&address);
    assert_eq!((after["dflow_runs"], after["dflow_runs_total"]), (0.0, 1.0));
    assert_eq!(after["dflow_attempts_ended_total{outcome=\"succeeded\"}"], 2.0, "{after:?}");
    assert_eq!(after[received], LENGTH as f64, "what was counted stays");
    let sent = after["dflow_peer_sent_bytes_total{peer=\"a\",path=\"quic\"}"];
    assert_eq!(sent, (LENGTH + 3) as f64, "{after:?}");
    assert_eq!((after["dflow_peer_failovers_total{peer=\"a\"}"], after["dflow_memory_used_bytes"]), (0.0, 0.0));
    // Counters only go up.
    for (name, value) in &now {
        if name.split('{').next().unwrap().ends_with("_total") {
            assert!(after[name] >= *value, "{name}: {value}, then {}", after[name]);
        }
    }
}

#[test]
fn refused_connections_are_counted() {
    let mut cluster = Cluster::without_workers(&["a", "b"]);
    cluster.start("b", &["--metrics", "127.0.0.1:0"]);
    let metrics = cluster.metrics("b");
    let other = Cluster::without_workers(&["a"]);
    let address = cluster.worker("b").address.clone();
    // It trusts this cluster, and shows a certificate of the other.
    std::fs::copy(cluster.identity("a").join("ca.pem"), other.identity("a").join("ca.pem")).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_dflow"))
        .args(["doctor", "--peer", &format!("b={address}"), "--identity"])
        .arg(other.identity("a"))
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(1));
    eventually("it is not counted", || {
        let now = scrape(&metrics);
        let refused: Vec<_> = now
            .iter()
            .filter(|(name, value)| name.starts_with("dflow_connections_refused_total") && **value > 0.0)
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        refused == [("dflow_connections_refused_total{cause=\"authority\"}", 1.0)]
    });
}

#[test]
fn requests_that_are_not_scrapes() {
    let cluster = Cluster::with_options(&["b"], &["--metrics", "127.0.0.1:0"]);
    let address = cluster.metrics("b");
    let (status, _, body) = request(&address, "GET / HTTP/1.1\r\nHost: worker\r\n\r\n");
    assert!(status.contains("404") && body.contains("/metrics"), "{status} {body}");
    let (status, head, _) = request(&address, "POST /metrics HTTP/1.1\r\nHost: worker\r\nContent-Length: 0\r\n\r\n");
    assert!(status.contains("405") && head.contains("allow: get, head"), "{status} {head}");
    let (status, head, body) = request(&address, "HEAD /metrics HTTP/1.1\r\nHost: worker\r\n\r\n");
    assert!(status.contains("200") && head.contains("content-length") && body.is_empty(), "{status} {body}");
    let (status, ..) = request(&address, "nonsense\r\n\r\n");
    assert!(status.contains("400"), "{status}");
    let (status, ..) = request(&address, &format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(100_000)));
    assert!(status.contains("431") || status.is_empty(), "{status}");
    // Silent connections do not lock out others: connections beyond the limit are closed at once.
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
    drop(silent);
    eventually("nobody is served any more", || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let mut answer = String::new();
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("dflow_runs 0")
    });
    let refused = Command::new(env!("CARGO_BIN_EXE_dflow"))
        .args(["worker", "--listen", "127.0.0.1:0", "--metrics", &address, "--identity"])
        .arg(cluster.identity("b"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot serve metrics") && text.contains(&address), "{text}");
}
