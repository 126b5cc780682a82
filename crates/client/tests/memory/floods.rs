//! Hostile peers: whatever they send, little of it is held, and nothing when they are left.

use std::net::SocketAddr;

use meshwork_client::Channel;
use tokio::runtime::Runtime;

use crate::{
    Client, KIB, MIB, MS, channel, nobody_panicked, peers, record,
    villain::{Evil, Villain, http1, http1_evils},
};

/// Calls in both ways that a client may: whatever comes of it.
async fn call(channel: &Channel) {
    let limited = channel.timeout(100 * MS);
    for content in ["text/plain", "application/grpc"] {
        let request = limited.post("/").header("content-type", content).body("x");
        if let Ok(answer) = request.send().await {
            let _read = answer.bytes().await;
        }
    }
}

/// What the client holds of a peer: at most, and when its channel was dropped.
fn held(name: &str, scheme: &str, addr: SocketAddr) {
    let client = Client::new();
    let meet = |rounds: usize| {
        let ((), met) = client.measure(async {
            let channel = channel(&[record("evil", scheme, addr)], 300 * MS);
            for _ in 0..rounds {
                call(&channel).await;
            }
            assert!(channel.nodes().iter().all(|node| node.inflight == 0));
        });
        let ((), left) = client.measure(async {
            // What the channel's owners drop when they are told.
            tokio::time::sleep(20 * MS).await;
        });
        client.until_no_task_is_left();
        (met.bytes_max, met.bytes_current + left.bytes_current)
    };
    // What the thread keeps for itself.
    let (most, _) = meet(1);
    assert!(most < 4 * MIB, "{name}: {} KiB at a time", most / KIB);
    let (more, left) = meet(3);
    assert!(more < most + 2 * MIB, "{name}: {} KiB, then {} KiB at a time", most / KIB, more / KIB);
    assert!(left < 16 * KIB as i64, "{name}: {left} bytes are left");
}

fn all(peers: &Runtime, part: usize) {
    for evil in Evil::ALL.into_iter().skip(part).step_by(2) {
        let villain = peers.block_on(Villain::start(evil));
        held(&format!("{evil:?}"), "grpc", villain.addr);
        assert!(villain.accepted() > 0, "{evil:?} was never met");
        println!("{evil:?}: {} connections, {} requests", villain.accepted(), villain.asked());
    }
    nobody_panicked();
}

#[test]
fn no_http2_peer_makes_a_client_hold_much_or_for_long() {
    all(&peers(), 0);
}

#[test]
fn no_other_http2_peer_does() {
    all(&peers(), 1);
}

#[test]
fn no_http1_peer_makes_a_client_hold_much_or_for_long() {
    let peers = peers();
    for answer in http1_evils() {
        let (addr, _task) = peers.block_on(http1(answer));
        held(&String::from_utf8_lossy(&answer[..answer.len().min(40)]), "http", addr);
    }
    nobody_panicked();
}
