//! Against real agents.

use super::*;
use crate::truth::eventually;

#[tokio::test]
async fn an_agent_answers_and_one_without_data_on_disk_forgets_when_killed() {
    let consul = Consul::dev().start().await.unwrap();
    consul.local().must("PUT", "/v1/kv/a", "1").await.unwrap();
    assert_eq!(consul.cli(["kv", "get", "a"]).await.unwrap().trim(), "1");
    consul.local().kill9().await.unwrap();
    assert!(consul.local().ask("GET", "/v1/kv/a", "").await.is_err());
    consul.local().restart().await.unwrap();
    assert_eq!(consul.local().ask("GET", "/v1/kv/a", "").await.unwrap().0, 404);
}

#[tokio::test]
async fn a_client_agent_sees_what_the_server_holds_and_keeps_or_loses_its_own() {
    let consul = Consul::with_client_agent().start().await.unwrap();
    let service = r#"{"ID":"a","Name":"a","Port":1}"#;
    consul.local().must("PUT", "/v1/agent/service/register", service).await.unwrap();
    consul.local().kill9().await.unwrap();
    consul.local().restart().await.unwrap();
    assert_eq!(consul.local().ask("GET", "/v1/agent/service/a", "").await.unwrap().0, 200);
    consul.local().stop().await.unwrap();
    consul.local().wipe().unwrap();
    consul.local().restart().await.unwrap();
    assert_eq!(consul.local().ask("GET", "/v1/agent/service/a", "").await.unwrap().0, 404);
}

#[tokio::test]
async fn of_three_servers_another_leads_when_the_leader_is_killed() {
    let consul = Consul::servers(3).start().await.unwrap();
    let former = consul.leader().await.unwrap().name().to_owned();
    consul.leader().await.unwrap().kill9().await.unwrap();
    eventually(READY, "another one leads", || async {
        consul.leader().await.is_ok_and(|leader| leader.name() != former)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn with_acl_only_tokens_may() {
    let consul = Consul::dev().acl().start().await.unwrap();
    let (_, token) = consul.make_token("reader", r#"key_prefix "" { policy = "read" }"#).await.unwrap();
    assert_eq!(consul.local().ask("PUT", "/v1/kv/a", "1").await.unwrap().0, 200);
    assert_eq!(consul.local().ask_as(Some(&token), "GET", "/v1/kv/a?raw", "").await.unwrap().0, 200);
    assert_eq!(consul.local().ask_as(Some(&token), "PUT", "/v1/kv/a", "2").await.unwrap().0, 403);
}

#[tokio::test]
async fn an_agent_that_cannot_start_says_why() {
    let error = Consul::dev().hcl("no_such_key = 1").start().await.unwrap_err();
    assert!(error.output().contains("no_such_key"), "{error:?}");
}

#[tokio::test]
async fn a_meddler_hands_on_changes_and_cuts() {
    let consul = Consul::dev().start().await.unwrap();
    let meddler = Meddler::start(consul.local().addr()).await.unwrap();
    let to = meddler.url().trim_start_matches("http://").parse().unwrap();
    let ask = || ask::ask(to, "PUT", "/v1/kv/a", None, "1", COMMAND);
    assert_eq!(ask().await.unwrap(), (200, "true".to_owned()));
    meddler.meddle(|exchange| {
        exchange.status = 418;
        exchange.fate = Fate::Cut;
    });
    assert_eq!(ask().await.unwrap(), (418, "tr".to_owned()));
    meddler.behave();
    assert_eq!(ask().await.unwrap().0, 200);
    assert_eq!((meddler.count("/v1/kv/"), meddler.asked().len()), (3, 3));
    let another = Consul::dev().start().await.unwrap();
    meddler.redirect(another.local().addr());
    assert_eq!(another.local().ask("GET", "/v1/kv/a", "").await.unwrap().0, 404);
    assert_eq!(ask().await.unwrap().0, 200);
    assert_eq!(another.local().ask("GET", "/v1/kv/a", "").await.unwrap().0, 200);
}
