//! START: from before the process is spawned, by its parent's clock, until its line says that it serves.

use std::time::Duration;

use meshwork_core::BoxError;

use super::{greeter::Greeter, registry::Registry};
use crate::{
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const RUNS: usize = 50;
/// What is aimed at, ms; nothing yet with Consul, whose agent must first see the check pass.
const GOALS: [(&str, f64); 2] = [("local", 30.0), ("etcd", 60.0)];

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let registries = runtime.block_on(async {
        Ok::<_, BoxError>([Registry::local(dir.path()), Registry::etcd().await?, Registry::consul().await?])
    })?;
    let mut figures = [const { (Rounds::new(), Rounds::new()) }; 3];
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    for registry in &registries {
        let own = dir.path().join(registry.name);
        std::fs::create_dir(&own)?;
        registry.configure(&own)?;
    }
    // In turns, so that what changes slowly on the machine meets all alike.
    for _ in 0..mode.rounds(RUNS) {
        for (registry, (took, cpu)) in registries.iter().zip(&mut figures) {
            let greeter = Greeter::start(&dir.path().join(registry.name))?;
            took.push(millis(greeter.took));
            cpu.push(millis(greeter.cpu));
        }
    }

    let mut findings = Findings::new(mode);
    for (registry, (took, cpu)) in registries.iter().zip(&figures) {
        let name = registry.name;
        findings.text(format!("{name}: {} (CPU {:.1})", took.spread(), cpu.median()));
        if let Some((_, goal)) = GOALS.iter().find(|(of, _)| *of == name) {
            findings.at_most(took.median(), *goal, &format!("{name}, ms,"));
        }
    }
    Ok(findings.verdict(&format!(
        "START spawn to the line that says it serves, ms, median [quartiles] of {} runs",
        mode.rounds(RUNS)
    )))
}
