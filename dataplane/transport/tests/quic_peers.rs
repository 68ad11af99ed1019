//! Connections and their management channel, and what becomes of peers that do not keep to the protocol.

mod quic_common;

use dflow_protocol::limits::{MAX_PEER_MESSAGE, PEER_VERSION};
use dflow_protocol::wire::{FlowId, PeerMessage};
use dflow_transport::identity::ClusterCa;
use dflow_transport::quic::{
    Cause, ConnectError, MAX_MANAGEMENT_MESSAGE, ManagementError, QuicNode, QuicPath, QuicSettings, bare_endpoint,
};
use dflow_transport::{Path, PathError, PathEvent};
use quic_common::hostile::{FLOW, Hostile, INCARNATION, data, framed, greet, header, messages, wait_for};
use quic_common::{Bell, DAY, Pair, lines_about, localhost, log, node, settings, until_refused};
use std::net::SocketAddr;
use std::time::Duration;

// ---- Connections ----

#[test]
fn management_messages_arrive_in_order() {
    let mut pair = Pair::new();
    let [a, b] = pair.connect();
    let bell = Bell::new();
    b.set_waker(bell.waker());
    // More than the queues and the flow control of QUIC hold.
    let messages: Vec<Vec<u8>> = (0..60_000u32).map(|number| vec![number as u8; 500 + number as usize % 97]).collect();
    let mut expected = messages.iter();
    for message in &messages {
        while let Err(error) = a.send(message.clone()) {
            assert_eq!(error, ManagementError::Full);
            // There is room again when the other side reads.
            assert_eq!(Some(&wait_for(&bell, || b.try_recv())), expected.next());
        }
    }
    assert!(expected.len() < messages.len(), "this many do not fit into the queues");
    for message in expected {
        assert_eq!(&wait_for(&bell, || b.try_recv()), message);
    }
    assert_eq!(a.send(vec![0; MAX_MANAGEMENT_MESSAGE + 1]), Err(ManagementError::TooLong(MAX_MANAGEMENT_MESSAGE + 1)));
    assert!(a.stats().round_trip > Duration::ZERO && a.stats().packets_sent > 0);
    a.close("it is enough");
    let reason = wait_for(&bell, || b.closed());
    assert!(reason.contains("it is enough"), "{reason}");
    assert!(matches!(b.send(vec![1]), Err(ManagementError::Closed(_))));
}

/// More than what may wait unread on the other side.
#[test]
fn the_longest_messages_arrive_one_after_the_other() {
    let mut pair = Pair::new();
    let [a, b] = pair.connect();
    let bell = Bell::new();
    b.set_waker(bell.waker());
    let message = |number: u8| vec![number; MAX_MANAGEMENT_MESSAGE];
    (0..4).for_each(|number| a.send(message(number)).expect("it has room"));
    for number in 0..4 {
        assert!(wait_for(&bell, || b.try_recv()) == message(number));
    }
}

#[test]
fn a_writer_without_room_is_woken_when_there_is_some() {
    let mut pair = Pair::new();
    let [a, b] = pair.connect();
    let [room, news] = [Bell::new(), Bell::new()];
    a.set_waker(room.waker());
    b.set_waker(news.waker());
    let mut sent = 0u32;
    let mut fill = || {
        while a.has_room() {
            a.send([&sent.to_le_bytes()[..], &[7; 500]].concat()).expect("it has room");
            sent += 1;
        }
        sent
    };
    let (mut filled, mut received) = (fill(), 0u32);
    for _ in 0..3 {
        // Without a reader there, this does not change.
        while room.wait(Duration::from_millis(200)) {
            filled = fill();
        }
        while !room.wait(Duration::ZERO) {
            let message = wait_for(&news, || b.try_recv());
            assert_eq!(message[..4], received.to_le_bytes());
            received += 1;
            assert!(received < filled, "it has room, but was not woken");
        }
        filled = fill();
    }
}

#[test]
fn several_endpoints_share_an_address() {
    let ca = ClusterCa::create("test").expect("an authority");
    let settings = QuicSettings { endpoints: 3, ..settings() };
    let address = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let [(a, _), (b, mut incoming)] = ["a", "b"].map(|name| {
        QuicNode::bind(address, &ca.issue(name, DAY).expect("an identity"), settings.clone()).expect("a free port")
    });
    let mut open = Vec::new();
    for _ in 0..12 {
        let dialed = a.connect(b.local_address(), "b").wait().expect("of one cluster");
        let accepted = incoming.wait().expect("it is accepted");
        let bell = Bell::new();
        accepted.set_waker(bell.waker());
        dialed.send(b"hello".to_vec()).expect("there is room");
        assert_eq!(wait_for(&bell, || accepted.try_recv()), b"hello");
        open.push((dialed, accepted));
    }
    assert_eq!((a.counters().dialed, b.counters().accepted), (12, 12));
    // Nobody else gets the port by mistake.
    let identity = ca.issue("c", DAY).expect("an identity");
    let problem = QuicNode::bind(b.local_address(), &identity, settings).expect_err("it is taken").to_string();
    assert!(problem.contains(&b.local_address().to_string()), "{problem}");
    drop(b);
    let bell = Bell::new();
    open[0].0.set_waker(bell.waker());
    assert!(wait_for(&bell, || open[0].0.closed()).contains("shutting down"));
}

// ---- Peers that have a certificate and break the rules ----

#[test]
fn a_peer_that_keeps_to_the_rules_is_heard() {
    let mut hostile = Hostile::new();
    hostile.stream(&data(FLOW, 1000, 500));
    let ping = framed(&PeerMessage::Ping(3));
    let stream = hostile.open(&[messages(INCARNATION), ping].concat(), false);
    let events = hostile.events(|events| {
        let placed: u64 =
            events.iter().map(|event| if let PathEvent::Placed { length, .. } = event { *length } else { 0 }).sum();
        placed == 500 && events.iter().any(|event| matches!(event, PathEvent::Message(PeerMessage::Ping(3))))
    });
    assert!(!events.iter().any(|event| matches!(event, PathEvent::Lost(_))), "{events:?}");
    let mut bytes = [0; 500];
    hostile.landing.memory().shared(1000..1500).copy_to(&mut bytes);
    assert_eq!(bytes, [3; 500]);
    drop(stream);
    // It ends its messages: the path is over, and it has broken no rule.
    let error = hostile.lost();
    assert!(!error.is_violation(), "{error}");
    assert_eq!((hostile.node.counters().violations, hostile.connection.closed()), (0, None));
}

#[test]
fn streams_without_a_proper_header_are_violations() {
    let attacks: [(&[u8], &str); 3] =
        [(&[0xff; 64], "malformed header"), (&[1, 0, 0], "after 3 bytes"), (&[], "after 0 bytes")];
    for (bytes, why) in attacks {
        let hostile = Hostile::new();
        hostile.stream(bytes);
        hostile.assert_cut_off(why);
    }
    let hostile = Hostile::new();
    hostile.stream(&header(2, FLOW, INCARNATION, 1 << 62));
    hostile.assert_cut_off("malformed header");
    let hostile = Hostile::new();
    hostile.stream(&[&messages(INCARNATION)[..], &[9, 0, 0, 0, 1]].concat());
    hostile.assert_cut_off("end after 5 bytes of one");
}

#[test]
fn bytes_for_a_place_where_none_may_arrive_are_violations() {
    for (start, length) in [(4000, 97), (4096, 1), (1 << 61, 10)] {
        let hostile = Hostile::new();
        hostile.stream(&data(FLOW, start, length));
        hostile.assert_cut_off("where only 0..4096 may arrive");
    }
    let hostile = Hostile::new();
    hostile.stream(&data(FLOW + 1, 0, 10));
    hostile.assert_cut_off("has no window");
    let hostile = Hostile::new();
    hostile.stream(&data(FLOW, 0, 10));
    hostile.stream(&data(FLOW, 0, 10));
    hostile.assert_cut_off("a second stream for flow 7");
    let hostile = Hostile::new();
    hostile.stream(&header(2, FLOW, INCARNATION + 1, 0));
    hostile.assert_cut_off("a path that this node has not begun");
}

#[test]
fn messages_that_are_none_are_violations() {
    let size = MAX_PEER_MESSAGE + 1;
    let too_long = [&messages(INCARNATION)[..], &(size as u32).to_le_bytes()].concat();
    let hostile = Hostile::new();
    let stream = hostile.open(&too_long, false);
    hostile.assert_cut_off("a message of 8193 bytes");
    drop(stream);
    for noise in [vec![0u8; 40], (0..200).map(|byte| byte ^ 0x5a).collect()] {
        let hostile = Hostile::new();
        let length = (noise.len() as u32).to_le_bytes();
        let stream = hostile.open(&[&messages(INCARNATION)[..], &length, &noise].concat(), false);
        hostile.assert_cut_off("not a valid message of version");
        drop(stream);
    }
    let hostile = Hostile::new();
    let streams = [(); 2].map(|()| hostile.open(&messages(INCARNATION), false));
    hostile.assert_cut_off("a second stream for messages");
    drop(streams);
}

#[test]
fn a_management_message_that_is_too_long_is_a_violation() {
    let mut hostile = Hostile::new();
    let (mut send, receive) = hostile.management.take().expect("it is open");
    hostile.runtime.block_on(async {
        send.write_all(&(MAX_MANAGEMENT_MESSAGE as u32 + 1).to_le_bytes()).await.expect("it is open");
    });
    hostile.assert_cut_off(&format!("a management message of {} bytes", MAX_MANAGEMENT_MESSAGE + 1));
    drop((send, receive));
}

#[test]
fn a_violation_above_quic_closes_the_connection_counts_once_and_keeps_its_reason() {
    let mut hostile = Hostile::new();
    let ping = framed(&PeerMessage::Ping(3));
    let _stream = hostile.open(&[messages(INCARNATION), ping].concat(), false);
    hostile.events(|events| matches!(events, [PathEvent::Message(PeerMessage::Ping(3))]));
    assert_eq!(hostile.connection.violation(), None);
    hostile.connection.violated("it must not say this");
    hostile.connection.violated("nor that");
    hostile.connection.close("the run is over");
    let error = hostile.lost();
    assert!(error.to_string().contains("it must not say this"), "{error}");
    let closed = hostile.runtime.block_on(hostile.quic.closed()).to_string();
    assert!(closed.contains("it must not say this"), "{closed}");
    for reason in [hostile.connection.closed().as_deref(), hostile.connection.violation()] {
        assert_eq!(reason, Some("it must not say this"));
    }
    assert_eq!((hostile.node.counters().violations, lines_about(hostile.connection.address()).len()), (1, 1));
    hostile.assert_others_unaffected();
}

#[test]
fn a_violator_that_has_disconnected_is_counted_as_well() {
    let hostile = Hostile::new();
    hostile.connection.set_waker(hostile.bell.waker());
    hostile.quic.close(0u32.into(), b"goodbye");
    assert!(wait_for(&hostile.bell, || hostile.connection.closed()).contains("goodbye"));
    hostile.connection.violated("its last message was none");
    assert_eq!(hostile.connection.closed().as_deref(), Some("its last message was none"));
    assert_eq!(hostile.node.counters().violations, 1);
}

#[test]
fn why_this_node_has_closed_a_connection_is_kept() {
    let hostile = Hostile::new();
    hostile.connection.close("it is not needed");
    assert_eq!(hostile.connection.closed().as_deref(), Some("it is not needed"));
    assert_eq!((hostile.connection.violation(), hostile.node.counters().violations), (None, 0));
}

#[test]
fn late_streams_are_ignored_as_many_as_there_can_be_and_no_more() {
    let mut hostile = Hostile::new();
    hostile.path.withdraw(FlowId(FLOW));
    // Bytes that were under way when the flow was withdrawn, and a path that is over.
    for bytes in [data(FLOW, 0, 100), messages(INCARNATION - 1), header(2, 1, INCARNATION - 1, 0)] {
        let stream = hostile.open(&bytes, false).expect("nothing is wrong with it");
        assert!(hostile.runtime.block_on(stream.stopped()).expect("the connection stays").is_some(), "it is stopped");
    }
    assert_eq!(hostile.connection.closed(), None);
    let mut bytes = [0; 100];
    hostile.landing.memory().shared(0..100).copy_to(&mut bytes);
    assert_eq!(bytes, [0; 100], "nothing lands in a window that was withdrawn");
    for _ in 0..64 {
        hostile.stream(&data(FLOW, 0, 100));
    }
    hostile.assert_cut_off("more streams than there are flows");
}

#[test]
fn a_peer_that_has_begun_the_next_path_ends_this_one() {
    let mut hostile = Hostile::new();
    let ping = framed(&PeerMessage::Ping(9));
    let stream = hostile.open(&[messages(INCARNATION + 1), ping].concat(), false);
    let error = hostile.lost();
    assert!(!error.is_violation() && error.to_string().contains("another path"), "{error}");
    // Its messages on the next path are not lost.
    hostile.path = QuicPath::new(&hostile.connection, INCARNATION + 1, hostile.bell.waker()).expect("a connection");
    hostile.events(|events| matches!(events, [PathEvent::Message(PeerMessage::Ping(9))]));
    let stale = QuicPath::new(&hostile.connection, INCARNATION + 1, hostile.bell.waker());
    assert!(matches!(stale, Err(PathError::Resource(_))), "a number is used once");
    drop(stream);
}

#[test]
fn noise_is_cut_off_sooner_or_later() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..4 {
        let mut hostile = Hostile::new();
        let stream = hostile.open(&messages(INCARNATION), false);
        for _ in 0..100 {
            let length = random() as usize % 2000;
            let noise: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            hostile.stream(&noise);
        }
        assert!(hostile.lost().is_violation());
        assert_eq!(hostile.node.counters().violations, 1);
        drop(stream);
    }
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    let ca = ClusterCa::create("test").expect("an authority");
    let (node, _incoming) = node(&ca.issue("server", DAY).expect("an identity"));
    let identity = ca.issue("hostile", DAY).expect("an identity");
    log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let address = runtime.block_on(async {
        let endpoint = bare_endpoint(localhost(), &identity, &settings()).expect("a port");
        let quic = endpoint.connect(node.local_address(), "server").expect("a name").await.expect("of the cluster");
        let _streams = greet(&quic, 4711).await;
        let closed = quic.closed().await.to_string();
        assert_names_versions(&closed);
        endpoint.local_addr().expect("bound")
    });
    until_refused(&node);
    assert_eq!(node.counters().causes[Cause::Version as usize], 1);
    let lines = lines_about(address);
    assert!(lines.len() == 1 && lines[0].contains("WARN"), "{lines:?}");
    assert_names_versions(&lines[0]);
}

#[track_caller]
fn assert_names_versions(text: &str) {
    let words = ["version 4711", &format!("this node {PEER_VERSION}"), "run the same release on both"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_dialed_peer_of_another_version_is_recognised() {
    let ca = ClusterCa::create("test").expect("an authority");
    let (node, _incoming) = node(&ca.issue("client", DAY).expect("an identity"));
    let identity = ca.issue("hostile", DAY).expect("an identity");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let endpoint = bare_endpoint(localhost(), &identity, &settings()).expect("an endpoint");
        let dial = node.connect(endpoint.local_addr().expect("bound"), "hostile");
        let quic = endpoint.accept().await.expect("a call").await.expect("a connection");
        let (mut send, _receive) = quic.accept_bi().await.expect("a stream");
        send.write_all(b"dflow\0\r\n").await.expect("it is there");
        send.write_all(&4711u32.to_le_bytes()).await.expect("it is there");
        let error = dial.await.expect_err("another version");
        assert!(matches!(error, ConnectError::Failed { cause: Cause::Version, .. }), "{error:?}");
        assert_names_versions(&error.to_string());
        // The other side also learns this side's version.
        assert_names_versions(&quic.closed().await.to_string());
    });
}

#[test]
fn a_peer_that_vanishes_is_noticed() {
    let limit = Duration::from_secs(1);
    let mut hostile = Hostile::with(QuicSettings { idle_timeout: limit, keep_alive: limit / 4, ..settings() });
    // Its process is gone, so it does not close the connection.
    let (thread, stop) = hostile.thread.take().expect("it runs");
    drop(stop);
    thread.join().expect("it does not panic");
    let error = hostile.lost();
    assert!(!error.is_violation() && error.to_string().contains("too long"), "{error}");
    assert!(hostile.connection.closed().is_some());
}

#[test]
fn the_dialing_side_sets_the_silence_limit() {
    let ca = ClusterCa::create("test").expect("an authority");
    let patient = QuicSettings { idle_timeout: Duration::from_secs(3600), ..settings() };
    let bind = |name: &str| {
        let identity = ca.issue(name, DAY).expect("an identity");
        QuicNode::bind(localhost(), &identity, patient.clone()).expect("a node")
    };
    let (server, mut incoming) = bind("server");
    let (client, _) = bind("client");
    let silence = Duration::from_millis(500);
    let dialed = client.connect_within(server.local_address(), "server", silence).wait().expect("a connection");
    let accepted = incoming.wait().expect("it is accepted");
    // Both say nothing for longer than that, and signs of life keep the connection.
    let bell = Bell::new();
    accepted.set_waker(bell.waker());
    assert!(!bell.wait(3 * silence) && accepted.closed().is_none() && dialed.closed().is_none());

    // Nothing is heard of these any more, although they never said goodbye.
    for (idle_timeout, borne) in [(silence, None), (patient.idle_timeout, Some(silence))] {
        let identity = ca.issue("hostile", DAY).expect("an identity");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let quic = runtime.block_on(async {
            let settings = QuicSettings { idle_timeout, keep_alive: silence / 4, ..settings() };
            let endpoint = bare_endpoint(localhost(), &identity, &settings).expect("an endpoint");
            let quic = endpoint.connect(server.local_address(), "server").expect("a call").await.expect("a connection");
            let (send, mut receive) = greet(&quic, PEER_VERSION).await;
            receive.read_exact(&mut [0; 12]).await.expect("its greeting");
            (endpoint, quic, send, receive)
        });
        let silent = incoming.wait().expect("it is accepted");
        silent.set_waker(bell.waker());
        borne.inspect(|silence| silent.set_silence_limit(*silence));
        let reason = wait_for(&bell, || silent.closed());
        assert!(reason.contains("too long"), "{reason}");
        drop(quic);
    }
}
