//! The process that the scenarios judge others by does what it is told.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{path::Path, time::Duration};

use meshwork::{App, Channel};
use meshwork_testkit::ports::Port;
use meshwork_tests::{
    ENVIRONMENT, SERVICE,
    behave::{Behaviour, Counts, Work},
    http1,
    provider::{Plan, Provider},
};
use orders::users::{GetUser, users_client::UsersClient};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code;

struct Rig {
    provider: Provider,
    channel: Channel,
    _app: App,
    _dir: TempDir,
    _port: Port,
}

async fn rig() -> Rig {
    let (dir, port) = (TempDir::new().unwrap(), Port::claim().unwrap());
    let plan = Plan::provider().on(&port).local(dir.path());
    let provider = plan.start(Path::new(env!("CARGO_BIN_EXE_actor"))).await.unwrap();
    let registry =
        format!("use = \"local\"\n[registry.local]\ndir = {:?}\n", dir.path().display().to_string());
    let app = App::new().with_environment(ENVIRONMENT).with_config(format!("[registry]\n{registry}"));
    let channel = app.channel(SERVICE);
    Rig { provider, channel, _app: app, _dir: dir, _port: port }
}

impl Rig {
    async fn get(&self) -> Result<(), tonic::Status> {
        UsersClient::new(self.channel.clone()).get(GetUser { id: 7 }).await.map(drop)
    }

    async fn behaves(&self, behaviour: Behaviour) {
        self.provider.controls().behave(behaviour).await.unwrap();
    }
}

#[tokio::test]
async fn handlers_fail_and_recover_while_the_process_runs_and_calls_are_counted() {
    let rig = rig().await;
    rig.get().await.unwrap();
    rig.behaves(Behaviour::default().failing(1.0, Duration::from_millis(1))).await;
    assert_eq!(rig.get().await.unwrap_err().code(), Code::Unavailable);
    let addr = rig.provider.addr();
    assert_eq!(http1::get(addr, "/work").await.unwrap().status, 503);
    assert_eq!(http1::post(addr, "/effect", "").await.unwrap().status, 503);
    rig.behaves(Behaviour::default().working(Work::Echo)).await;
    rig.get().await.unwrap();
    assert_eq!(http1::post(addr, "/effect", "").await.unwrap().body, rig.provider.pid().to_string());

    let served = rig.provider.controls().served().await.unwrap();
    assert_eq!(served.get, Counts { entered: 3, answered: 2, failed: 1 });
    assert_eq!(served.work, Counts { entered: 1, answered: 0, failed: 1 });
    assert_eq!(served.effect, Counts { entered: 2, answered: 1, failed: 1 });
}

#[tokio::test]
async fn handlers_take_as_long_as_they_are_told() {
    let rig = rig().await;
    let least = [
        (Behaviour::default(), 8),
        (Behaviour::default().taking(Duration::from_millis(60)), 60),
        (Behaviour::default().working(Work::Measured), 164),
        (Behaviour::default().working(Work::Echo).with_hiccup(Duration::from_millis(40), 1), 40),
    ];
    for (behaviour, ms) in least {
        rig.behaves(behaviour).await;
        let begun = Instant::now();
        rig.get().await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(ms), "{behaviour:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_behaviour_that_is_not_understood_is_refused() {
    let rig = rig().await;
    let answer = http1::post(rig.provider.addr(), "/behave", r#"{"wrok":"echo"}"#).await.unwrap();
    assert_eq!(answer.status, 422, "{answer:?}");
}
