//! Authentication: certificates, names, and the files in which they are kept.

mod quic_common;

use dflow_transport::identity::{ClusterCa, Identity, IdentityError, Standing, Validity};
use dflow_transport::quic::{Cause, ConnectError, QuicNode};
use quic_common::{DAY, PATIENCE, lines_about, lines_about_once, localhost, log, node, until_refused};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

fn failure(node: &QuicNode, to: SocketAddr, name: &str) -> String {
    node.connect(to, name).wait().expect_err("it must not connect").to_string()
}

/// `client` dials `server`: it is not let in, and the server says why, once, with the client's address.
fn assert_server_refuses(client: &Identity, server: &Identity, cause: Cause, why: &str) {
    log();
    let ((client, _), (server, mut incoming)) = (node(client), node(server));
    let problem = failure(&client, server.local_address(), "server");
    assert!(problem.contains("refused"), "{problem}");
    until_refused(&server);
    let lines = lines_about(client.local_address());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(why) && lines[0].contains("WARN"), "{lines:?}");
    assert_eq!(server.counters().accepted, 0);
    assert_counted(&server, cause);
    assert!(incoming.try_next().is_none());
}

/// `client` dials `server` and does not trust it: it says why, once, with the server's address.
fn assert_client_refuses(client: &Identity, server: &Identity, name: &str, cause: Cause, why: &str) {
    log();
    let ((client, _), (server, _incoming)) = (node(client), node(server));
    let problem = failure(&client, server.local_address(), name);
    assert!(problem.contains(why), "{problem}");
    let lines = lines_about(server.local_address());
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(why) && lines[0].contains("WARN"), "{lines:?}");
    assert_eq!((client.counters().refused, client.counters().dialed), (1, 0));
    assert_counted(&client, cause);
}

/// One was refused, for this cause.
fn assert_counted(node: &QuicNode, cause: Cause) {
    let counted = Cause::ALL.into_iter().zip(node.counters().causes).filter(|(_, count)| *count > 0);
    assert_eq!(counted.collect::<Vec<_>>(), [(cause, 1)]);
}

/// An identity whose certificate is from `ca`, and that trusts `trusts`.
fn mixed(ca: &ClusterCa, trusts: &ClusterCa) -> Identity {
    let (own, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    ca.issue("client", DAY).and_then(|identity| identity.save(own.path())).expect("saved");
    trusts.issue("client", DAY).and_then(|identity| identity.save(other.path())).expect("saved");
    std::fs::copy(other.path().join("ca.pem"), own.path().join("ca.pem")).expect("copied");
    Identity::load(own.path()).expect("loaded")
}

#[test]
fn another_clusters_certificate_is_refused() {
    let [ours, theirs] = [(); 2].map(|()| ClusterCa::create("same-name").expect("an authority"));
    let server = ours.issue("server", DAY).expect("an identity");
    assert_server_refuses(&mixed(&theirs, &ours), &server, Cause::Authority, "invalid peer certificate");
    let stranger = theirs.issue("client", DAY).expect("an identity");
    assert_client_refuses(&stranger, &server, "server", Cause::Authority, "invalid peer certificate");
}

#[test]
fn an_expired_certificate_is_refused() {
    let ca = ClusterCa::create("test").expect("an authority");
    let now = SystemTime::now();
    let [expired, expired_server] =
        ["client", "server"].map(|name| ca.issue_between(name, now - 2 * DAY, now - DAY).expect("an identity"));
    let [valid, server] = ["client", "server"].map(|name| ca.issue(name, DAY).expect("an identity"));
    assert_server_refuses(&expired, &server, Cause::Validity, "expired");
    assert_client_refuses(&valid, &expired_server, "server", Cause::Validity, "expired");
    let early = ca.issue_between("client", now + DAY, now + 2 * DAY).expect("an identity");
    assert_server_refuses(&early, &server, Cause::Validity, "not valid yet");
}

#[test]
fn many_refusals_are_counted_one_by_one_and_make_few_lines() {
    const MANY: u64 = 50;
    log();
    let [ca, other] = ["test", "test"].map(|name| ClusterCa::create(name).expect("an authority"));
    let ((client, _), (server, _incoming)) =
        (node(&mixed(&other, &ca)), node(&ca.issue("server", DAY).expect("an identity")));
    let start = Instant::now();
    for _ in 0..MANY {
        failure(&client, server.local_address(), "server");
    }
    while server.counters().refused < MANY {
        assert!(start.elapsed() < PATIENCE, "{:?}", server.counters());
        std::thread::yield_now();
    }
    assert_eq!(server.counters().refused, MANY);
    // The first, and then one for each second with the number of those in it.
    let count = |line: &String| -> u64 {
        let rest = line.split_once("(the last of ").map(|(_, rest)| rest.split(' ').next().unwrap());
        rest.map_or(1, |count| count.parse().unwrap())
    };
    let all = |lines: &[String]| lines.iter().map(count).sum::<u64>() == MANY;
    let lines = lines_about_once(client.local_address(), all);
    assert!(lines.len() as u64 <= 2 + start.elapsed().as_secs(), "{lines:?}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    log();
    let (ca, home) = (ClusterCa::create("test").expect("an authority"), tempfile::tempdir().expect("a directory"));
    let identity = ca.issue("server", DAY).expect("an identity");
    identity.save(home.path()).expect("saved");
    let (server, mut incoming) = node(&identity);
    // It knows the cluster's authority, which is not secret.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(home.path().join("ca.pem")).expect("a certificate")).expect("an authority");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"dflow".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("TLS 1.3")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (address, closed) = runtime.block_on(async {
        let endpoint = quinn::Endpoint::client(localhost()).expect("a port");
        let dialing = endpoint.connect_with(config, server.local_address(), "server").expect("a name");
        // For the client, the handshake is complete although it has sent no certificate; then it is rejected.
        let closed = match dialing.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        };
        (endpoint.local_addr().expect("bound"), closed.to_string())
    });
    assert!(closed.contains("certificate"), "{closed}");
    until_refused(&server);
    assert_counted(&server, Cause::Certificate);
    let lines = lines_about(address);
    assert!(lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("no certificate"), "{lines:?}");
    assert_eq!(server.counters().accepted, 0);
    assert!(incoming.try_next().is_none());
}

#[test]
fn another_node_of_the_cluster_is_not_mistaken_for_the_peer() {
    let ca = ClusterCa::create("test").expect("an authority");
    let [client, server] = ["client", "server"].map(|name| ca.issue(name, DAY).expect("an identity"));
    assert_client_refuses(&client, &server, "another", Cause::Name, "not valid for name");
    let (client, _) = node(&client);
    let error = client.connect(client.local_address(), "127.0.0.1").wait().expect_err("no name");
    assert!(matches!(error, ConnectError::Name(IdentityError::Name { .. })), "{error}");
}

#[test]
fn identities_are_kept_in_files_that_others_cannot_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ca_home, home) = (directory.path().join("ca"), directory.path().join("node"));
    let ca = ClusterCa::create("test").expect("an authority");
    ca.save(&ca_home).expect("saved");
    assert!(matches!(ca.save(&ca_home), Err(IdentityError::AuthorityExists { .. })), "an authority is never replaced");
    let again = ClusterCa::load(&ca_home).expect("loaded");
    for authority in [&ca, &again] {
        authority.issue("node-1.rack-2", DAY).and_then(|identity| identity.save(&home)).expect("saved");
    }
    let loaded = Identity::load(&home).expect("loaded");
    assert_eq!(loaded.name(), "node-1.rack-2");
    // Certificates of the authority before and after it was saved go together.
    let (a, _) = node(&loaded);
    let (b, mut incoming) = node(&ca.issue("b", DAY).expect("an identity"));
    let dialed = a.connect(b.local_address(), "b").wait().expect("of one cluster");
    let accepted = incoming.wait().expect("it is accepted");
    assert_eq!((dialed.peer(), accepted.peer()), ("b", "node-1.rack-2"));

    for key in [ca_home.join("ca.key"), home.join("node.key")] {
        let mode = |path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&key), 0o600);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).expect("ours");
    }
    assert!(matches!(Identity::load(&home), Err(IdentityError::Exposed { mode: 0o640, .. })));
    assert!(matches!(ClusterCa::load(&ca_home), Err(IdentityError::Exposed { .. })));
    std::fs::write(home.join("node.pem"), "nothing").expect("ours");
    assert!(matches!(Identity::load(&home), Err(IdentityError::Contents { .. })));
}

#[test]
fn files_that_are_missing_or_do_not_belong_together_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let home = |name: &str| directory.path().join(name);
    let authority = |name: &str| {
        let ca = ClusterCa::create("test").expect("an authority");
        ca.save(&home(name)).expect("saved");
        ca
    };
    let (ca, _other) = (authority("ca"), authority("other"));
    for name in ["a", "b"] {
        ca.issue(name, DAY).and_then(|identity| identity.save(&home(name))).expect("saved");
    }
    for file in ["ca.key", "node.key"] {
        let (from, to) = if file == "ca.key" { ("other", "ca") } else { ("b", "a") };
        std::fs::copy(home(from).join(file), home(to).join(file)).expect("ours");
    }
    let told = |error: IdentityError, names: [&str; 2]| {
        let text = error.to_string();
        assert!(text.contains("dflow cluster"), "{text}");
        assert!(names.iter().all(|name| text.contains(&home(name).display().to_string())), "{text}");
        error
    };
    let mixed = told(Identity::load(&home("a")).expect_err("another's key"), ["a/node.key", "a/node.pem"]);
    assert!(matches!(mixed, IdentityError::Mismatch { .. }), "{mixed}");
    let mixed = told(ClusterCa::load(&home("ca")).expect_err("another's key"), ["ca/ca.key", "ca/ca.pem"]);
    assert!(matches!(mixed, IdentityError::Mismatch { .. }), "{mixed}");
    for file in ["node.key", "node.pem", "ca.pem"] {
        ca.issue("b", DAY).and_then(|identity| identity.save(&home("b"))).expect("saved");
        std::fs::remove_file(home("b").join(file)).expect("ours");
        let missing = told(Identity::load(&home("b")).expect_err("it is missing"), ["b", "b"]);
        assert!(matches!(missing, IdentityError::NoIdentity { file: named, .. } if named == file), "{missing}");
    }
    let missing = told(ClusterCa::load(&home("nowhere")).expect_err("it is missing"), ["nowhere", "nowhere"]);
    assert!(matches!(missing, IdentityError::NoAuthority { file: "ca.pem", .. }), "{missing}");
}

#[test]
fn a_certificate_holds_from_its_beginning_to_its_end() {
    let now = SystemTime::now();
    let validity = Validity { from: now - HOUR, until: now + 2 * HOUR };
    assert_eq!(validity.length(), 3 * HOUR);
    assert_eq!(validity.standing(now), Standing::Holds(2 * HOUR));
    assert_eq!(validity.standing(now - HOUR), Standing::Holds(3 * HOUR));
    assert_eq!(validity.standing(now - 2 * HOUR), Standing::Early(HOUR));
    assert_eq!(validity.standing(now + 5 * HOUR), Standing::Expired(3 * HOUR));
}

#[test]
fn names_are_labels_but_not_addresses() {
    let ca = ClusterCa::create("test").expect("an authority");
    for name in ["a", "node-1", "n1.rack-2.example"] {
        assert!(ca.issue(name, DAY).is_ok(), "{name}");
    }
    let long = "a".repeat(64);
    for name in ["", "A", "1", "10.0.0.1", "-a", "a-", "a..b", "a.", "ä", "a b", "*", "::1", long.as_str()] {
        assert!(matches!(ca.issue(name, DAY), Err(IdentityError::Name { .. })), "{name}");
    }
}
