//! What calls leave allocated, in live bytes rather than in what the allocator keeps: the client runs on a thread
//! whose allocations are counted, its peers on another. In a process of its own for that.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod bursts;
mod floods;
#[path = "../it/villain.rs"]
mod villain;

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, Once},
    time::Duration,
};

use allocation_counter::AllocationInfo;
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{Instance, InstanceId, Origin, ServiceName, Watch};
use tokio::{
    runtime::{Builder, Runtime},
    time::{self, Instant},
};

const MS: Duration = Duration::from_millis(1);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Where the peers run.
fn peers() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Where the client runs, on this thread.
struct Client(Runtime);

impl Client {
    fn new() -> Self {
        count_panics();
        Self(Builder::new_current_thread().enable_all().build().unwrap())
    }

    /// What the client allocated during `work`, and has of it at its end.
    fn measure<F: Future>(&self, work: F) -> (F::Output, AllocationInfo) {
        let mut output = None;
        let info = allocation_counter::measure(|| output = Some(self.0.block_on(work)));
        (output.unwrap(), info)
    }

    /// Waits until every task has ended.
    fn until_no_task_is_left(&self) {
        let metrics = self.0.metrics();
        self.0.block_on(async {
            let end = Instant::now() + Duration::from_secs(10);
            while metrics.num_alive_tasks() > 0 {
                assert!(Instant::now() < end, "{} tasks are left", metrics.num_alive_tasks());
                time::sleep(5 * MS).await;
            }
        });
    }
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// A panic in a task is seen by nobody else.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

fn nobody_panicked() {
    assert_eq!(PANICS.get(), 0, "a task panicked");
}

/// A record of somebody else: nobody is asked who he is.
fn record(name: &str, scheme: &str, addr: SocketAddr) -> Arc<Instance> {
    let service = ServiceName::new("users").unwrap();
    let mut instance = Instance::with_id(service, InstanceId::new(name).unwrap());
    instance.endpoints.push(format!("{scheme}://{addr}").parse().unwrap());
    instance.origin = Origin::Foreign;
    Arc::new(instance)
}

fn channel(records: &[Arc<Instance>], connect_timeout: Duration) -> Channel {
    let mut config = ClientConfig::default();
    config.connect_timeout = connect_timeout;
    Channel::new(ServiceName::new("users").unwrap(), Watch::fixed(records.into()), config)
}
