//! Every backend of ours keeps the contract: the suite that third parties run too, against each of them.
//!
//! The rigs mostly wait, so all that are asked for run beside each other: the first test starts them, each test waits
//! for its own. When all have ended, the table backend × behaviour is written to the terminal, and to the file that
//! `MESHWORK_CONFORMANCE_TABLE` names:
//!
//! ```sh
//! MESHWORK_CONFORMANCE_TABLE=docs/conformance.md cargo test -p meshwork-tests --test all conformance
//! ```

mod consul;
mod etcd;
mod fixed;
mod joined;
mod local;
mod memory;
mod running;

use meshwork_testkit::conformance::{Report, check, on_own_runtime};

/// One test for each rig.
macro_rules! rigs {
    ($($name:ident = $make:expr,)+) => {
        /// All rigs, and how each is run.
        const RIGS: &[(&str, fn() -> Report)] = &[$((stringify!($name), || on_own_runtime(async { check($make).await })),)+];

        $(
            #[test]
            fn $name() {
                running::ends_well(stringify!($name));
            }
        )+
    };
}

rigs! {
    memory = memory::InMemory::new(),
    local = local::OnDisk::new(),
    fixed = fixed::Listed::new(),
    etcd_of_one = etcd::Cluster::of(1).await,
    etcd_of_three = etcd::Cluster::of(3).await,
    consul_dev = consul::Agents::dev().await,
    consul_client_agent = consul::Agents::with_client().await,
    dual = joined::Both::new(etcd::Cluster::of(1).await, consul::Agents::dev().await),
    dual_in_memory = joined::Both::new(memory::InMemory::new(), memory::InMemory::new()),
    split = joined::Apart::new(memory::InMemory::new(), etcd::Cluster::of(1).await),
}
