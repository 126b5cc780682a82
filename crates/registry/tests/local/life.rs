//! What comes, changes, freezes, dies and leaves, as other processes see it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use meshwork_core::{
    Announcer, Backend, Change, Departure, Drive, ErrorKind, Instance, ServiceName, Source, Status,
};
use meshwork_registry::{Driven, DriverOptions, Local};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{bench::*, peer::Peer};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_process_is_gone_at_once_and_its_file_with_it() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    let path = record(&dir, &id);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"meshwork\":1,") && text.contains("\"schema\":1"), "{text}");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    peer.signal(Signal::KILL);
    let gone = until(&mut watch, nobody).await;
    assert!(gone < Duration::from_millis(50) * SLACK, "seen after {gone:?}");
    eventually("the file is removed", || !path.exists()).await;
    assert!(!driven.backend().is_polling());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_frozen_process_stays_listed() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    peer.signal(Signal::STOP);
    // Three times the time after which a heartbeat that stands still is doubted.
    stays(&watch, config(&dir).ttl * 3, |ids| ids == [&id]).await;
    // A reader that comes while it is frozen finds it too.
    let other = Driven::new(local(&dir), DriverOptions::default());
    until(&mut other.discovery().watch(&users()), |ids| ids == [&id]).await;
    peer.signal(Signal::CONT);
    assert_eq!(peer.tell("leave"), "left");
    until(&mut watch, nobody).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn processes_see_each_other_come_change_and_leave() {
    let (_scratch, dir) = scratch();
    let (mut one, mut two) = (Peer::start(&dir), Peer::start(&dir));
    let ids = [one.register(), two.register()];
    assert_eq!((one.tell("count 2"), two.tell("count 2")), ("2".into(), "2".into()));
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    until(&mut watch, |seen| seen.len() == 2).await;

    one.tell("weight 7");
    let changed = async {
        while !watch.changed().await.value().iter().any(|i| i.id == ids[0] && i.weight == 7 && is_whole(i)) {}
    };
    timeout(LIMIT, changed).await.unwrap();

    assert_eq!(one.tell("leave"), "left");
    assert!(!record(&dir, &ids[0]).exists());
    assert_eq!(two.tell("count 1"), "1");
    until(&mut watch, |seen| seen == [&ids[1]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn readers_see_the_mark_of_a_record_before_it_goes() {
    let (_scratch, dir) = scratch();
    let backend = local(&dir);
    let driver = tokio::spawn({
        let backend = backend.clone();
        async move { drop(backend.drive().await) }
    });
    let mut changes = backend.subscribe(&users());
    let mut next = async || timeout(LIMIT, changes.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(next().await, Change::Set(set) if set.is_empty()));

    let announcing = driven(&dir);
    for (departure, marked) in [(Departure::Marked, true), (Departure::Silent, false)] {
        let registration = announcing.registry().register(instance());
        let id = registration.id();
        assert!(matches!(next().await, Change::Delta { put, .. } if put[0].id == id));
        // A departure that cuts the claim leaves nothing to mark.
        timeout(LIMIT, registration.live()).await.unwrap().unwrap();
        registration.depart(departure).await.unwrap();
        let mut change = next().await;
        if marked {
            assert!(
                matches!(&change, Change::Delta { put, .. } if put.len() == 1 && put[0].status == Status::Leaving),
                "{change:?}"
            );
            change = next().await;
        }
        assert!(matches!(&change, Change::Delta { put, removed } if put.is_empty() && *removed == [id]));
    }
    driver.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_rewritten_under_hammering_readers_is_never_garbage() {
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    peer.order("hammer 1500");
    let backend = local(&dir);
    let driver = tokio::spawn({
        let backend = backend.clone();
        async move { drop(backend.drive().await) }
    });
    let reading = async {
        let mut seen = 0_u32;
        loop {
            // New readers have no last good record to fall back to.
            let mut changes = backend.subscribe(&users());
            for _ in 0..20 {
                match changes.next().await.unwrap().unwrap() {
                    Change::Set(all) => {
                        assert!(all.iter().all(|instance| instance.id == id && is_whole(instance)));
                    }
                    Change::Delta { put, removed } => {
                        assert!(removed.is_empty() && put.iter().all(|instance| is_whole(instance)));
                        seen += put.len() as u32;
                    }
                    other => panic!("{other:?}"),
                }
                if seen > 100 {
                    return;
                }
            }
        }
    };
    timeout(LIMIT, reading).await.unwrap();
    let written = peer.answer().parse::<u16>().unwrap();
    driver.abort();
    // The last content of all arrives.
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let last = async { while !watch.changed().await.value().iter().any(|i| i.weight == written) {} };
    timeout(LIMIT, last).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_dead_processes_left_is_removed() {
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    peer.signal(Signal::KILL);
    peer.child.wait().unwrap();
    let folder = dir.join("dev/users");
    fs::write(folder.join(".new-users-1-0123456789abcdef"), "cut off").unwrap();
    fs::write(folder.join("users-cut.json"), "").unwrap();
    assert!(record(&dir, &id).exists());
    let driven = driven(&dir);
    until(&mut driven.discovery().watch(&users()), nobody).await;
    eventually("all are removed", || fs::read_dir(&folder).unwrap().count() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stranger_who_locks_a_dead_record_does_not_keep_it_alive() {
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    peer.signal(Signal::KILL);
    peer.child.wait().unwrap();
    let stranger = fs::File::open(record(&dir, &id)).unwrap();
    stranger.lock().unwrap();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    until(&mut watch, |ids| ids == [&id]).await;
    until(&mut watch, nobody).await;
    assert_eq!(driven.stats().subscriptions_lost.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_inotify_it_looks_once_a_second() {
    let (_scratch, dir) = scratch();
    let mut polling = config(&dir);
    polling.poll = true;
    let local = Local::with_config(polling);
    assert!(local.open().unwrap().description.contains("once a second"));
    let driven = Driven::new(local, DriverOptions::default());
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    assert!(driven.backend().is_polling());
    peer.signal(Signal::KILL);
    let gone = until(&mut watch, nobody).await;
    assert!(gone < Duration::from_millis(1200) * SLACK, "seen after {gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_inotify_instances_left_it_polls_by_itself() {
    let (_scratch, dir) = scratch();
    let script = "echo 0 > /proc/sys/user/max_inotify_instances";
    let Some(mut peer) = Peer::wrapped(&dir, script) else {
        eprintln!("skipped: no namespaces for tests here");
        return;
    };
    assert_eq!(peer.tell("polling"), "true");
    peer.register();
    assert_eq!(peer.tell("count 1"), "1");
    let mut other = Peer::start(&dir);
    other.register();
    assert_eq!(other.tell("polling"), "false");
    assert_eq!(peer.tell("count 2"), "2");
    other.signal(Signal::KILL);
    assert_eq!(peer.tell("count 1"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_instances_come_and_go() {
    let (_scratch, dir) = scratch();
    let readers = [driven(&dir), driven(&dir), driven(&dir)];
    let mut watches = readers.each_ref().map(|driven| driven.discovery().watch(&users()));
    let mut peers: Vec<Peer> = (0..4).map(|_| Peer::start(&dir)).collect();
    for peer in &mut peers {
        peer.order("crowd 250");
    }
    for watch in &mut watches {
        until(watch, |ids| ids.len() == 1000).await;
    }
    peers.pop().unwrap().signal(Signal::KILL);
    let gone = until(&mut watches[0], |ids| ids.len() == 750).await;
    assert!(gone < Duration::from_secs(1) * SLACK, "seen after {gone:?}");
    drop(peers);
    for watch in &mut watches {
        until(watch, nobody).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_claim_that_was_cut_leaves_nothing_once_it_is_released() {
    let (_scratch, dir) = scratch();
    let backend = local(&dir);
    for n in 0..100_u64 {
        let mut claim = None;
        let wanted = instance();
        let _ = timeout(Duration::from_micros(n * 10), backend.claim(&wanted, &mut claim)).await;
        if let Some(claim) = claim {
            backend.release(claim).await.unwrap();
        }
        let left = || fs::read_dir(dir.join("dev/users")).map_or(0, Iterator::count);
        assert_eq!(left(), 0, "after {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_claimed_again_and_again_is_never_absent() {
    let (_scratch, dir) = scratch();
    let backend = local(&dir);
    let driver = tokio::spawn({
        let backend = backend.clone();
        async move { drop(backend.drive().await) }
    });
    let (mut wanted, mut claim) = (instance(), None);
    backend.claim(&wanted, &mut claim).await.unwrap();
    let mut changes = backend.subscribe(&users());
    let releasing = AtomicBool::new(false);
    let claiming = async {
        for n in 0..300 {
            vary(&mut wanted, n);
            backend.claim(&wanted, &mut claim).await.unwrap();
        }
        releasing.store(true, Ordering::SeqCst);
        backend.release(claim.take().unwrap()).await.unwrap();
    };
    let watching = async {
        loop {
            match changes.next().await.unwrap().unwrap() {
                Change::Set(all) => assert_eq!(all.len(), 1),
                Change::Delta { put, removed } if removed.is_empty() => {
                    assert!(put.iter().all(|instance| is_whole(instance)));
                }
                Change::Delta { .. } => {
                    return assert!(releasing.load(Ordering::SeqCst), "removed too early");
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let ((), watched) = tokio::join!(claiming, timeout(LIMIT, watching));
    watched.unwrap();
    driver.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_living_clone_of_our_id_is_a_conflict() {
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    let mut wanted = Instance::with_id(service(), id.clone());
    wanted.endpoints.push("http://127.0.0.1:81".parse().unwrap());
    let backend = local(&dir);
    let mut claim = None;
    let error = backend.claim(&wanted, &mut claim).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    peer.signal(Signal::KILL);
    peer.child.wait().unwrap();
    backend.claim(&wanted, &mut claim).await.unwrap();
    backend.release(claim.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn environments_and_neighbours_are_apart() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let registry = driven.registry();
    let mut elsewhere = instance();
    elsewhere.env = "staging".into();
    let mut neighbour = Instance::new(ServiceName::new("users-admin").unwrap());
    neighbour.endpoints.push("http://127.0.0.1:82".parse().unwrap());
    let registrations = [registry.register(elsewhere), registry.register(neighbour)];
    for registration in &registrations {
        timeout(LIMIT, registration.live()).await.unwrap().unwrap();
    }
    until(&mut driven.discovery().watch(&users()), nobody).await;
    let staging = users().in_env("staging");
    until(&mut driven.discovery().watch(&staging), |ids| ids == [&registrations[0].id()]).await;
    for query in [users().in_env("../users"), users().with("tag", "v2")] {
        let mut watch = driven.discovery().watch(&query);
        let cause = timeout(LIMIT, async {
            loop {
                if let Some(cause) = watch.changed().await.staleness().cause() {
                    return cause.kind();
                }
            }
        });
        assert_eq!(cause.await.unwrap(), ErrorKind::Invalid);
    }
}
