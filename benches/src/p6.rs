//! P6: from a put in etcd to the first answer of the new instance, over a real etcd and real connections.
//!
//! t0: the put is answered. t1: a bare watch in this process has decoded the event; our own watch is another
//! stream of the same server, so t2 - t1 may be negative. t2: the picker with the new instance is made, right
//! before it is stored. t3: the first answer to a caller that waits for that instance and no other.

use std::{
    collections::HashMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use etcd_client::{EventType, WatchOptions};
use meshwork_balance::{Member, P2c, Picker, Policy};
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{Backend, BoxError, Dialect, Instance, InstanceId, Native, Query, ServiceName, Task};
use meshwork_registry_etcd::Etcd;
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::{etcd, ports::Port};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::{
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const PUTS: usize = 1_000;
const WARM_UP: usize = 20;
const ENV: &str = "bench";
/// New instances take turns on so many loopback addresses: each comes to an address that nobody holds.
const ADDRESSES: usize = 50;
/// Puts without any calm, printed beside them.
const PUTS_IN_A_ROW: usize = 300;
/// Before each put that is judged. Twice the time within which the reflector gathers changes: the removal of the
/// instance before is such a change, and is published up to 20 ms late itself.
const CALM: Duration = Duration::from_millis(45);
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(mode))
}

/// When each id was first seen.
#[derive(Clone, Default)]
struct Sightings(Arc<Mutex<HashMap<InstanceId, Instant>>>);

impl Sightings {
    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: &InstanceId) {
        let now = Instant::now();
        self.lock().entry(id.clone()).or_insert(now);
    }

    fn of(&self, id: &InstanceId) -> Option<Instant> {
        self.lock().get(id).copied()
    }
}

/// The default policy, which notes when a picker with an instance is made.
struct Noting(Sightings);

impl Policy for Noting {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let picker = P2c::default().picker(Arc::clone(&members));
        members.iter().for_each(|member| self.0.note(&member.instance().id));
        picker
    }
}

async fn measure(mode: Mode) -> Result<Verdict, BoxError> {
    let (puts, puts_in_a_row) = mode.of((PUTS, PUTS_IN_A_ROW), (20, 10));
    let server = etcd::Etcd::single().start().await?;
    let endpoints = server.endpoints();
    let native = Native::new("meshwork")?;
    let service = ServiceName::new("users")?;
    let (identity, addrs, _serving, _port) = serve().await?;

    let (raw, ours) = (Sightings::default(), Sightings::default());
    let _watching = watch_bare(&endpoints, Native::new("meshwork")?, &service, raw.clone()).await?;
    let parts = Etcd::new(endpoints.clone()).with_env(ENV).open()?;
    let discovery = parts.discovery.ok_or("etcd finds nothing")?;
    let mut config = ClientConfig::default();
    config.policy = Arc::new(Noting(ours.clone()));
    let channel = Channel::new(service.clone(), discovery.watch(&Query::new(service.clone())), config);
    let mut client = etcd_client::Client::connect(&endpoints, None).await?;

    let [mut bare, mut own, mut total, mut in_a_row] = [const { Rounds::new() }; 4];
    for round in 0..WARM_UP + puts + puts_in_a_row {
        let is_calm = round < WARM_UP + puts;
        if is_calm {
            time::sleep(CALM).await;
        }
        let mut instance = Instance::new(service.clone());
        instance.env = ENV.into();
        instance.endpoints = vec![format!("http://{}", addrs[round % addrs.len()]).parse()?];
        identity.set([(&instance.service, &instance.id)]);
        let records = native.encode(ENV, &instance, 0).map_err(|refusal| refusal.to_string())?;
        let (key, value) = records.into_iter().next().ok_or("a record has a key")?;

        let pinned = channel.to_instance(&instance.id).wait_for_ready(true).timeout(LIMIT);
        let answered = tokio::spawn(async move {
            pinned.get("/").send().await.map(|answer| (answer.status(), Instant::now()))
        });
        client.put(key.clone(), value, None).await?;
        let t0 = Instant::now();
        let (status, t3) = answered.await??;
        if !status.is_success() {
            return Err(format!("the new instance answered {status}").into());
        }
        let t2 = ours.of(&instance.id).ok_or("an instance that no picker had has answered")?;
        let t1 = within(async || raw.of(&instance.id)).await?;
        if !is_calm {
            in_a_row.push(millis(t3, t0));
        } else if round >= WARM_UP {
            bare.push(millis(t1, t0));
            own.push(millis(t2, t1));
            total.push(millis(t3, t0));
        }
        client.delete(key, None).await?;
    }
    let shown = |rounds: &Rounds| format!("p50 {:.2} p99 {:.2} ms", rounds.median(), rounds.quantile(0.99));
    let mut findings = Findings::new(mode);
    findings.text(format!("bare watch t1-t0 {}", shown(&bare)));
    findings.text(format!("own t2-t1 {}", shown(&own)));
    let calmly = shown(&total);
    let gathered = shown(&in_a_row);
    findings.text(format!(
        "first answer t3-t0 {calmly} ({puts_in_a_row} more without calm, so gathered for 20 ms: {gathered})"
    ));
    findings.at_most(own.quantile(0.99), 1.0, &"ms of t2-t1 p99");
    findings.at_most(total.quantile(0.99), 20.0, &"ms of t3-t0 p99");
    Ok(findings.verdict(&format!("P6 {puts} etcd puts, each after {CALM:?} of calm")))
}

/// Milliseconds, negative when `later` was earlier.
fn millis(later: Instant, earlier: Instant) -> f64 {
    let ahead = later.saturating_duration_since(earlier).as_secs_f64();
    let behind = earlier.saturating_duration_since(later).as_secs_f64();
    (ahead - behind) * 1e3
}

async fn within<T, F: Future<Output = Option<T>>>(look: impl Fn() -> F) -> Result<T, BoxError> {
    let until = Instant::now() + LIMIT;
    loop {
        match look().await {
            Some(found) => return Ok(found),
            None if Instant::now() > until => return Err("the bare watch missed an event".into()),
            None => time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// One server on many loopback addresses.
async fn serve() -> Result<(Identity, Vec<SocketAddr>, meshwork_server::Serving, Port), BoxError> {
    let port = Port::claim()?;
    let identity = Identity::new();
    let services = || Services::new().http(Router::new().route("/", get(|| async { "hello" })));
    let addr = |last: usize| SocketAddr::from((Ipv4Addr::new(127, 0, 0, 1 + last as u8), port.number()));
    let addrs: Vec<SocketAddr> = (0..ADDRESSES).map(addr).collect();
    let server = Server::new(ServerConfig::default(), identity.clone(), Health::new());
    let mut serving = server.serve(Listener::bind(addrs[0]).await?, services());
    for addr in &addrs[1..] {
        serving = serving.also(Listener::bind(*addr).await?, services());
    }
    Ok((identity, addrs, serving, port))
}

/// Follows the prefix by etcd-client alone.
async fn watch_bare(
    endpoints: &[String],
    native: Native,
    service: &ServiceName,
    seen: Sightings,
) -> Result<Task, BoxError> {
    let mut client = etcd_client::Client::connect(endpoints, None).await?;
    let prefix = native.prefix(ENV, service);
    let mut stream = client.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = stopped.cancelled() => return,
            };
            let Ok(Some(message)) = message else { return };
            for event in message.events() {
                let key = event.kv().and_then(|kv| kv.key_str().ok());
                let id = key.and_then(|key| native.id_of(key));
                if let Some(id) = id.filter(|_| event.event_type() == EventType::Put) {
                    seen.note(&id);
                }
            }
        }
    });
    Ok(Task::new("bare watch", stop, task))
}
