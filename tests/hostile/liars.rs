//! TCP peers that say what is not true: about what they have, and about how much they will take.

use std::time::Duration;

use zerosink::Proof;

use crate::{
    scene::{CHUNK, FIRST, Scene, with_each_way},
    wire::raw_peer::RawPeer,
    without_network,
};

/// The packets are still in the device when it says that it has them.
#[test]
fn a_peer_that_acknowledges_what_has_not_left_gets_later_bytes_only_from_who_took_its_word() {
    if without_network("a_peer_that_acknowledges_what_has_not_left_gets_later_bytes_only_from_who_took_its_word") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        let released = scene.released_by(|peer| peer.acknowledge_unread(CHUNK).unwrap());
        assert_eq!(released, Ok(()), "{}", way.name);
        scene.overwrite();
        let wrong = scene.received(CHUNK).wrong as usize;
        if way.trusts() {
            // What the documentation of `trust_peer_acks` warns of. The kernel copies the head of the first packet.
            assert!(wrong > CHUNK * 9 / 10, "{}: the warning is wrong: {wrong} bytes", way.name);
        } else {
            assert_eq!(wrong, 0, "{}", way.name);
        }
        scene.balances(0);
    });
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_releases_nothing() {
    if without_network("an_acknowledgement_of_what_was_not_sent_releases_nothing") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        // More than is in the stream, more than is in the socket, more than has left: after a while one more segment does.
        for claim in [1 << 30, CHUNK + 1, CHUNK, FIRST + RawPeer::SEGMENT + 1] {
            scene.peer.claim(claim).unwrap();
            assert_eq!(scene.unacknowledged(), CHUNK, "{}: the kernel believed {claim}", way.name);
        }
        scene.holds_what_it_must();
        scene.overwrite();
        // Control: it does believe what may be true.
        scene.peer.claim(RawPeer::SEGMENT).unwrap();
        assert_eq!(scene.unacknowledged(), CHUNK - RawPeer::SEGMENT, "{}", way.name);
        assert_eq!(scene.received(CHUNK).wrong, 0, "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

/// A selective acknowledgement can be taken back, so it is none.
#[test]
fn a_selective_acknowledgement_that_is_a_lie_releases_nothing() {
    if without_network("a_selective_acknowledgement_that_is_a_lie_releases_nothing") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        // All but the first segment; then such as make no sense.
        for (from, upto) in
            [(RawPeer::SEGMENT, FIRST), (0, FIRST), (FIRST, 2 * CHUNK), (100, 200), (FIRST, RawPeer::SEGMENT)]
        {
            scene.peer.claim_part(from, upto).unwrap();
        }
        assert_eq!(scene.unacknowledged(), CHUNK, "{}", way.name);
        scene.holds_what_it_must();
        // It never had them.
        while scene.peer.lose(Duration::from_millis(20)).unwrap() {}
        scene.overwrite();
        assert_eq!(scene.received(CHUNK).wrong, 0, "{}", way.name);
        // The kernel has believed one of them for a while.
        let count = |name| scene.peer.namespace().tcp_counter(name).unwrap();
        assert!(count("TCPSACKDiscard") > 0 && count("TCPSACKReneging") > 0, "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

#[test]
fn a_window_that_shrinks_below_what_is_on_its_way_delays_and_spoils_nothing() {
    if without_network("a_window_that_shrinks_below_what_is_on_its_way_delays_and_spoils_nothing") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::sent(way);
        scene.received(FIRST / 2);
        scene.peer.shrink_window(0).unwrap();
        // It refuses what it had room for before, and what comes to probe it.
        for _ in 0..8 {
            assert_eq!(scene.peer.step().unwrap(), 0, "{}: a closed window takes nothing", way.name);
        }
        scene.overwrite();
        scene.peer.open_window(CHUNK).unwrap();
        assert_eq!(scene.received(CHUNK).wrong, 0, "{}", way.name);
        assert_eq!(scene.released(), Ok(()), "{}", way.name);
        scene.balances(0);
    });
}

/// It answers each probe: alive, and taking nothing.
#[test]
fn a_window_that_stays_closed_is_given_up_at_the_deadline() {
    if without_network("a_window_that_stays_closed_is_given_up_at_the_deadline") {
        return;
    }
    with_each_way(|way| {
        let mut scene = Scene::impatient(way);
        scene.peer.shrink_window(0).unwrap();
        let held = scene.pinned();
        let released = scene.released_by(|peer| {
            peer.step().unwrap();
        });
        if way.trusts() {
            assert_eq!(released, Err(held), "{}", way.name);
        } else {
            assert_eq!(released, Ok(()), "{}", way.name);
        }
        if held > 0 {
            scene.fails_with_time_out();
        }
        scene.overwrite();
        scene.peer.open_window(CHUNK).unwrap();
        assert_eq!(scene.received_rest().wrong, 0, "{}", way.name);
        scene.balances(if way.proof == Proof::Acked { held } else { 0 });
    });
}
