//! Against real servers.

use super::*;

#[tokio::test]
async fn a_single_server_answers_keeps_its_data_and_forgets_it_when_wiped() {
    let etcd = Etcd::single().start().await.unwrap();
    etcd.etcdctl(["put", "a", "1"]).await.unwrap();
    assert_eq!(etcd.etcdctl(["get", "a", "--print-value-only"]).await.unwrap().trim(), "1");
    assert_eq!(etcd.leader().await.unwrap(), 0);

    etcd.restart(false).await.unwrap();
    assert_eq!(etcd.etcdctl(["get", "a", "--print-value-only"]).await.unwrap().trim(), "1");

    etcd.member(0).stop().await.unwrap();
    etcd.wipe().unwrap();
    etcd.member(0).restart().await.unwrap();
    assert_eq!(etcd.etcdctl(["get", "a", "--print-value-only"]).await.unwrap().trim(), "");
}

#[tokio::test]
async fn a_frozen_server_answers_again_when_thawed() {
    let etcd = Etcd::single().start().await.unwrap();
    etcd.member(0).freeze().await.unwrap();
    let error = etcd.member(0).ready(Duration::from_millis(100)).await.unwrap_err();
    assert!(etcd.member(0).is_running());
    assert!(error.to_string().contains("not so after"), "{error:?}");
    etcd.member(0).thaw();
    etcd.ready(READY).await.unwrap();
    assert!(etcd.member(0).wipe().is_err());
}

#[tokio::test]
async fn a_cluster_elects_another_leader_when_its_leader_is_killed() {
    let etcd = Etcd::cluster(3).start().await.unwrap();
    assert_eq!(etcd.endpoints().len(), 3);
    let first = etcd.leader().await.unwrap();
    etcd.member(first).kill9().await.unwrap();
    let second = etcd.leader().await.unwrap();
    assert_ne!(first, second);
    etcd.etcdctl(["put", "a", "1"]).await.unwrap();
    etcd.member(first).restart().await.unwrap();
    etcd.ready(READY).await.unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = Etcd::single().flag("--no-such-flag").start().await.unwrap_err();
    assert!(error.output().contains("no-such-flag"), "{error:?}");
}

#[tokio::test]
async fn a_command_that_fails_shows_what_it_said() {
    let etcd = Etcd::single().start().await.unwrap();
    let error = etcd.etcdctl(["lease", "revoke", "7"]).await.unwrap_err();
    assert!(error.output().contains("lease not found"), "{error:?}");
}

#[tokio::test]
async fn over_tls_and_with_users_the_operator_still_gets_through() {
    for tokens in [Tokens::Simple(Duration::from_secs(3)), Tokens::Jwt(Duration::from_secs(3))] {
        let etcd = Etcd::single().tls().users(tokens).start().await.unwrap();
        etcd.make_user("one", "secret", "/one/").await.unwrap();
        etcd.etcdctl(["put", "/one/a", "1"]).await.unwrap();
        let theirs = ["get", "/two/a", "--user=one:secret"];
        assert!(etcd.etcdctl(theirs).await.unwrap_err().output().contains("permission denied"));
        assert!(etcd.endpoints()[0].starts_with("https://"));
        let logins = ("grpc_server_started_total", "grpc_method=\"Authenticate\"");
        assert!(etcd.member(0).metric(logins.0, logins.1).await.unwrap() > 1.0);
        assert!(etcd.member(0).metric("etcd_no_such_thing", "").await.unwrap() == 0.0);
    }
}
