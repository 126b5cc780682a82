//! IDLE: a service that nobody calls, in each registry, all at the same time.

use std::{thread, time::Duration};

use meshwork_core::BoxError;

use super::{
    greeter::Greeter,
    registry::Registry,
    usage::{self, Doings},
};
use crate::verdict::{Findings, Mode, Verdict};

/// How long after its start the memory is read and the counting begins, and how long is counted.
const FULL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
const QUICK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How often threads are looked at: more often than one can come and go unseen. Looking wakes nobody.
const LOOK: Duration = Duration::from_secs(1);
/// What is aimed at with `local`.
const RESIDENT_KIB: f64 = 12.0 * 1024.0;
const SWITCHES: f64 = 300.0;

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let registries = runtime.block_on(async {
        Ok::<_, BoxError>([Registry::local(dir.path()), Registry::etcd().await?, Registry::consul().await?])
    })?;
    let (settle, length) = mode.of(FULL, QUICK);
    let mut greeters = Vec::new();
    for registry in &registries {
        let own = dir.path().join(registry.name);
        std::fs::create_dir(&own)?;
        registry.configure(&own)?;
        greeters.push(Greeter::start(&own)?);
    }
    thread::sleep(settle);
    let resident =
        greeters.iter().map(|greeter| usage::resident(greeter.pid())).collect::<Result<Vec<_>, _>>()?;
    let mut doings =
        greeters.iter().map(|greeter| Doings::new(greeter.pid())).collect::<Result<Vec<_>, _>>()?;
    let looks = (length.as_secs_f64() / LOOK.as_secs_f64()).round() as u32;
    let mut done = Vec::new();
    for _ in 0..looks {
        thread::sleep(LOOK);
        done = doings.iter_mut().map(Doings::look).collect::<Result<Vec<_>, _>>()?;
    }

    let mut findings = Findings::new(mode);
    for ((registry, resident), done) in registries.iter().zip(resident).zip(done) {
        let name = registry.name;
        findings.text(format!(
            "{name}: VmRSS {:.1} MiB, {} switches, CPU {:.1} ms",
            resident as f64 / 1024.0,
            done.switches,
            done.cpu.as_secs_f64() * 1e3
        ));
        if name == "local" {
            findings.at_most(resident as f64, RESIDENT_KIB, &"local, KiB resident,");
            findings.at_most(done.switches as f64, SWITCHES, &"local, switches,");
        }
    }
    let (settle, length) = (settle.as_secs_f64(), length.as_secs_f64());
    Ok(findings.verdict(&format!(
        "IDLE a service nobody calls, memory after {settle} s, all its threads over the next {length} s"
    )))
}
