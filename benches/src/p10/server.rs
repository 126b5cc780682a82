//! Three instances in one process: most answers take 10 ms, one of a hundred takes a second.

use std::{
    io::BufRead,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use meshwork_core::{BoxError, Instance, InstanceId, ServiceName};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::ports::Port;

use crate::{cpu::Seat, fleet::Chance};

const INSTANCES: usize = 3;
const USUAL: Duration = Duration::from_millis(10);
/// How many times as long the slow ones take, and how many answers there are to each of them.
const SLOW: (u32, u64) = (100, 100);

/// The `nth` instance.
pub(super) fn instance(nth: usize, addr: SocketAddr) -> Result<Instance, BoxError> {
    let mut instance =
        Instance::with_id(ServiceName::new("users")?, InstanceId::new(format!("users-bench-{nth}"))?);
    instance.endpoints = vec![format!("http://{addr}").parse()?];
    Ok(instance)
}

/// Prints its addresses; at each line of its input, how many requests it was sent since the last one.
pub(crate) fn run() -> Result<(), BoxError> {
    Seat::Server.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let requests = Arc::new(AtomicU64::new(0));
        let (mut all, mut addrs) = (Vec::new(), Vec::new());
        for nth in 0..INSTANCES {
            let port = Port::claim()?;
            let listener = Listener::bind(port.addr()).await?;
            let addr = listener.local_addr();
            let (own, identity) = (instance(nth, addr)?, Identity::new());
            identity.set([(&own.service, &own.id)]);
            let counted = Arc::clone(&requests);
            let router = Router::new().route("/", get(move || answer(counted.fetch_add(1, Relaxed))));
            let server = Server::new(ServerConfig::default(), identity, Health::new());
            all.push((server.serve(listener, Services::new().http(router)), port));
            addrs.push(addr.to_string());
        }
        println!("{}", addrs.join(" "));
        let told = tokio::task::spawn_blocking(move || {
            for line in std::io::stdin().lock().lines() {
                let _asked = line?;
                println!("{}", requests.swap(0, Relaxed));
            }
            Ok::<_, std::io::Error>(())
        });
        told.await??;
        all.into_iter().for_each(|(serving, _port)| serving.abort());
        Ok(())
    })
}

async fn answer(number: u64) -> &'static str {
    let bits = Chance(number).bits();
    let usual = USUAL.mul_f64(0.8 + 0.4 * (bits >> 40) as f64 / f64::from(1 << 24));
    let (times, of) = SLOW;
    tokio::time::sleep(if bits.is_multiple_of(of) { usual * times } else { usual }).await;
    "hello"
}
