//! What is deleted, damaged, planted, forbidden or full.

use std::{
    env, fs,
    io::Write,
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::PathBuf,
    process::Command,
    time::Duration,
};

use meshwork_core::{ErrorKind, RefusalKind};
use meshwork_registry::{Driven, DriverOptions, Local};
use rustix::process::{Signal, geteuid};
use tokio::time::timeout;

use crate::{bench::*, peer::Peer};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_record_deleted_by_hand_comes_back_and_is_never_missed() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    fs::remove_file(record(&dir, &id)).unwrap();
    let watched = stays(&watch, Duration::from_secs(1), |ids| ids == [&id]);
    let back = async { eventually("the record is back", || record(&dir, &id).exists()).await };
    let ((), back) = tokio::join!(watched, back);
    assert!(back < Duration::from_secs(2) * SLACK, "back after {back:?}");
    // Killed before it could bring it back: it does not stay for that.
    fs::remove_file(record(&dir, &id)).unwrap();
    peer.signal(Signal::KILL);
    until(&mut watch, nobody).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_directory_is_made_again_with_all_that_live() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    eventually("the directory is deleted", || fs::remove_dir_all(&dir).is_ok()).await;
    let watched = stays(&watch, Duration::from_secs(2), |ids| ids == [&id]);
    let back = async { eventually("the record is back", || record(&dir, &id).exists()).await };
    let ((), back) = tokio::join!(watched, back);
    assert!(back < Duration::from_secs(2) * SLACK, "back after {back:?}");
    let mut other = Peer::start(&dir);
    other.register();
    until(&mut watch, |ids| ids.len() == 2).await;
    other.signal(Signal::KILL);
    until(&mut watch, |ids| ids == [&id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_damaged_record_is_put_back_while_the_last_good_one_stands() {
    let (_scratch, dir) = scratch();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    until(&mut watch, |ids| ids == [&id]).await;
    let good = fs::read(record(&dir, &id)).unwrap();
    for damage in [&b"nonsense"[..], b"", b"{\"meshwork\":1}\n", &good[..good.len() / 2], &[b'x'; 1 << 20]] {
        fs::write(record(&dir, &id), damage).unwrap();
        let watched = stays(&watch, Duration::from_millis(500), |ids| ids == [&id]);
        let back =
            eventually("the record is put back", || fs::read(record(&dir, &id)).is_ok_and(|now| now == good));
        let ((), back) = tokio::join!(watched, back);
        assert!(back < Duration::from_secs(2) * SLACK, "back after {back:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_planted_among_the_records_is_refused_and_harms_nobody() {
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    let folder = dir.join("dev/users");
    let target = dir.join("elsewhere");
    fs::copy(record(&dir, &id), &target).unwrap();
    symlink(&target, folder.join("users-link.json")).unwrap();
    fs::create_dir(folder.join("users-folder.json")).unwrap();
    fs::write(folder.join("users-notes.json"), "my own notes").unwrap();
    fs::write(folder.join("..json"), "").unwrap();
    fs::write(folder.join("readme.txt"), "not looked at").unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("users-pipe.json")).status().unwrap().success());

    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    until(&mut watch, |ids| ids == [&id]).await;
    let stats = driven.stats();
    eventually("all are refused", || {
        stats.refused(RefusalKind::Misplaced) == 4 && stats.refused(RefusalKind::Syntax) == 1
    })
    .await;
    // Planted under a name in use: the last good record stands, and its owner puts it back.
    fs::remove_file(record(&dir, &id)).unwrap();
    symlink(&target, record(&dir, &id)).unwrap();
    stays(&watch, Duration::from_secs(1), |ids| ids == [&id]).await;
    eventually("the link is replaced", || {
        fs::symlink_metadata(record(&dir, &id)).is_ok_and(|found| found.is_file())
    })
    .await;
    assert!(folder.join("users-notes.json").exists() && folder.join("readme.txt").exists());
    assert!(stats.refused(RefusalKind::Misplaced) <= 5, "counted once each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_directory_that_is_none_is_named_with_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    let in_place = |name: &str| local(&scratch.path().join(name));
    fs::write(scratch.path().join("file"), "").unwrap();
    fs::create_dir(scratch.path().join("real")).unwrap();
    symlink(scratch.path().join("real"), scratch.path().join("link")).unwrap();
    for (name, says) in [("file", "is a file"), ("link", "is a symbolic link")] {
        let (kind, text) = refusal(in_place(name)).await;
        assert!(kind == ErrorKind::Invalid && text.contains(says) && text.contains("`dir`"), "{text}");
        assert_eq!(cause(in_place(name)).await, (kind, text));
    }
    // One level below counts as much.
    symlink(scratch.path(), scratch.path().join("real/dev")).unwrap();
    let (kind, text) = refusal(in_place("real")).await;
    assert!(kind == ErrorKind::Invalid && text.contains("real/dev` is a symbolic link"), "{text}");
    assert!(fs::read_dir(scratch.path().join("real")).unwrap().count() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_directory_that_others_may_write_is_refused_unless_shared() {
    let (_scratch, dir) = scratch();
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
    let (kind, text) = refusal(local(&dir)).await;
    assert!(kind == ErrorKind::Denied && text.contains("chmod go-w"), "{text}");
    let mut shared = config(&dir);
    shared.shared = true;
    let driven = Driven::new(Local::with_config(shared), DriverOptions::default());
    timeout(LIMIT, driven.registry().register(instance()).live()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_directory_that_may_not_be_written_is_named_with_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = scratch.path().join("registry");
    fs::create_dir(&dir).unwrap();
    let mut command = Peer::command(&dir);
    if geteuid().is_root() {
        // Nothing is forbidden to root: another user tries, if it can run this test.
        let exe = scratch.path().join("peer");
        fs::copy(env::current_exe().unwrap(), &exe).unwrap();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(exe);
        command.args(args).env("MESHWORK_PEER", &dir).uid(65534).gid(65534);
        chown(&dir, Some(65534), Some(65534)).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    let mut peer = Peer::run(command);
    let answer = peer.tell("register");
    assert!(answer.starts_with("Denied") && answer.contains("writable for uid"), "{answer}");
    assert!(answer.contains("`dir`") && answer.contains("registry/dev"), "{answer}");
    drop(peer);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn records_and_directories_of_other_users_are_refused_unless_shared() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let (_scratch, dir) = scratch();
    let mut peer = Peer::start(&dir);
    let id = peer.register();
    let driven = driven(&dir);
    let mut watch = driven.discovery().watch(&users());
    until(&mut watch, |ids| ids == [&id]).await;
    // A record that was good before stays; a new one is refused.
    chown(record(&dir, &id), Some(65534), None).unwrap();
    let reader = Driven::new(local(&dir), DriverOptions::default());
    until(&mut reader.discovery().watch(&users()), nobody).await;
    assert_eq!(reader.stats().refused(RefusalKind::Owner), 1);
    assert!(reader.stats().last_refused()[0].reason.to_string().contains("65534"));
    stays(&watch, Duration::from_millis(500), |ids| ids == [&id]).await;

    let mut shared = config(&dir);
    shared.shared = true;
    let trusting = Driven::new(Local::with_config(shared), DriverOptions::default());
    until(&mut trusting.discovery().watch(&users()), |ids| ids == [&id]).await;

    drop(peer);
    chown(&dir, Some(65534), None).unwrap();
    let (kind, text) = refusal(local(&dir)).await;
    assert!(kind == ErrorKind::Denied && text.contains("belongs to uid 65534"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_is_named_and_takes_no_record_away() {
    let (_scratch, dir) = scratch();
    fs::create_dir(&dir).unwrap();
    let shown = dir.display();
    let script = format!("mount -t tmpfs -o size=16k,mode=700 none {shown}");
    let Some(mut peer) = Peer::wrapped(&dir, &script) else {
        eprintln!("skipped: no namespaces for tests here");
        return;
    };
    let id = peer.register();
    // Fill it from outside, through the eyes of the peer.
    let inside = PathBuf::from(format!("/proc/{}/root{shown}", peer.child.id()));
    let mut filler = fs::File::create(inside.join("filler")).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}
    // Longer than the page it has: it cannot grow, and stays as it was.
    let good = fs::read(record(&inside, &id)).unwrap();
    peer.tell("long");
    eventually("the full disk is named", || {
        let state = peer.tell("state");
        state.contains("is full, free space") && state.contains("`dir`")
    })
    .await;
    assert_eq!(fs::read(record(&inside, &id)).unwrap(), good);
    drop(filler);
    fs::remove_file(inside.join("filler")).unwrap();
    eventually("it is announced as wished", || {
        peer.tell("state") == "live" && fs::read(record(&inside, &id)).is_ok_and(|now| now.len() > 4096)
    })
    .await;
}
