//! The measured process: makes calls on order.

use std::{
    future::Future,
    io::BufRead,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use meshwork_core::BoxError;
use tokio::runtime::Runtime;

use super::{Figures, Order};
use crate::cpu;

/// One of the tasks that call, one call after the other.
pub(crate) trait Caller: Send + 'static {
    /// Makes a call and reads the answer to its end.
    fn call(&mut self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// The sockets of this process before it connected.
pub(crate) struct Sockets(usize);

impl Sockets {
    /// Counts them; the runtime is there already.
    pub(crate) fn before() -> Self {
        Self(sockets())
    }

    fn more(&self) -> usize {
        sockets().saturating_sub(self.0)
    }
}

fn sockets() -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Takes orders from the input and prints the figures of each, until the input ends. `caller` makes one that calls
/// with bodies of so many bytes.
pub(crate) fn obey<C: Caller>(
    runtime: &Runtime,
    before: &Sockets,
    caller: impl Fn(usize) -> C,
) -> Result<(), BoxError> {
    for line in std::io::stdin().lock().lines() {
        let figures = line?.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let [concurrency, calls, bytes] = figures[..] else {
            return Err("an order has three figures".into());
        };
        let order = Order { concurrency, calls, bytes };
        let (cpu, began) = (cpu::of_process(), Instant::now());
        runtime.block_on(slice(order, &caller))?;
        let per_call = |seconds: f64| seconds * 1e6 / calls as f64;
        let figures = Figures {
            cpu: per_call((cpu::of_process() - cpu).as_secs_f64()),
            elapsed: per_call(began.elapsed().as_secs_f64()),
            connections: before.more(),
        };
        println!("{} {} {}", figures.cpu, figures.elapsed, figures.connections);
    }
    Ok(())
}

async fn slice<C: Caller>(order: Order, caller: &impl Fn(usize) -> C) -> Result<(), BoxError> {
    let begun = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..order.concurrency)
        .map(|_| {
            let (begun, mut caller) = (Arc::clone(&begun), caller(order.bytes));
            tokio::spawn(async move {
                while begun.fetch_add(1, Relaxed) < order.calls {
                    caller.call().await?;
                }
                Ok::<_, BoxError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
