//! The phase, as everybody who may ask sees it: over HTTP, by gRPC health, in the record, from the handle.

use std::time::Duration;

use meshwork::{Memory, Phase, ServiceName};
use meshwork_testkit::truth::eventually;
use meshwork_tests::{SERVICE, http1};
use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus::{self, NotServing, Serving},
    health_client::HealthClient,
};

use super::rig::{LIMIT, Running, app, users};

/// Any client of the standard health service.
struct Probe {
    running: Running,
    memory: Memory,
    grpc: HealthClient<Channel>,
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

impl Probe {
    /// What each door says, as soon as all say this.
    async fn says(&self, phase: Phase, ready: u16, grpc: ServingStatus, record: Option<&str>) {
        let wanted = (phase, ready, true, 200, [Some(grpc); 2], record.map(str::to_owned));
        let now = || async {
            let handle = &self.running.handle;
            let answer = http1::get(self.running.addr(), "/.meshwork/ready").await.unwrap();
            let live = http1::get(self.running.addr(), "/.meshwork/health").await.unwrap();
            let named = answer.body.contains(&format!("\"phase\":\"{}\"", handle.phase()));
            let mut grpc = [None; 2];
            for (at, service) in ["", "users.v1.Users"].into_iter().enumerate() {
                let answer = self.grpc.clone().check(of(service)).await.unwrap();
                grpc[at] = Some(answer.into_inner().status());
            }
            let found = self.memory.instances(&ServiceName::new(SERVICE).unwrap());
            let record = found.first().map(|record| record.status.as_str().to_owned());
            (handle.phase(), answer.status, named, live.status, grpc, record)
        };
        let what = format!("all say {wanted:?}");
        let said = eventually(LIMIT, &what, || async { now().await == wanted }).await;
        if let Err(error) = said {
            panic!("{error}: {:?}", now().await);
        }
    }
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> Result<ServingStatus, Code> {
    let next = timeout(LIMIT, watch.message()).await.expect("it is told in time");
    next.map(|answer| answer.expect("the watch ends with a status").status()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_says_the_phase_and_liveness_is_none_of_it() {
    let memory = Memory::new();
    let times = "[service.readiness]\nloss_delay = \"20ms\"\nreturn_delay = \"20ms\"\n\
                 [drain]\nsettle = \"3s\"\ndeadline = \"20s\"\n";
    let app = users(app(SERVICE).with_registry(memory.clone()).with_config(times), "Ada");
    let cache = app.handle().readiness("cache");
    let running = Running::launch(app);
    let bound = || async { running.handle.local_addr().is_some() };
    eventually(LIMIT, "it is bound", bound).await.unwrap();
    let url = format!("http://{}", running.addr());
    let grpc = HealthClient::new(Channel::from_shared(url).unwrap().connect().await.unwrap());
    let probe = Probe { running, memory, grpc };
    let mut watch = probe.grpc.clone().watch(of("users.v1.Users")).await.unwrap().into_inner();

    probe.says(Phase::Starting, 503, NotServing, None).await;
    assert_eq!(next(&mut watch).await, Ok(NotServing));
    cache.set(true);
    probe.says(Phase::Serving, 200, Serving, Some("up")).await;
    assert_eq!(next(&mut watch).await, Ok(Serving));
    cache.set(false);
    probe.says(Phase::Serving, 503, NotServing, Some("unready")).await;
    assert_eq!(next(&mut watch).await, Ok(NotServing));
    cache.set(true);
    probe.says(Phase::Serving, 200, Serving, Some("up")).await;
    assert_eq!(next(&mut watch).await, Ok(Serving));
    assert_eq!(probe.grpc.clone().check(of("no.such.Service")).await.unwrap_err().code(), Code::NotFound);

    probe.running.handle.stop();
    // It says so from the first moment, while calls are still served.
    probe.says(Phase::Leaving, 503, NotServing, None).await;
    assert_eq!(next(&mut watch).await, Ok(NotServing));
    assert_eq!(next(&mut watch).await, Err(Code::Unavailable), "the drain ends it politely");
    let handle = probe.running.handle.clone();
    let report = probe.running.ended().await.unwrap();
    assert!(report.is_clean() && report.took < Duration::from_secs(15), "{report}");
    assert_eq!(handle.phase(), Phase::Stopped);
}
