//! Ends of runtimes and processes: each test, and some applications, have several.

use std::{collections::BTreeSet, thread};

use meshwork_core::{Backend, Registration, ServiceName, Watch};
use tokio::{runtime, sync::oneshot};

use crate::conformance::{
    bench::{Bench, LONG, Process, SLACK, eventually, live, shown, until},
    flaw::{Flaw, Proof, ensure},
    suite::group,
};

group! { "ends":
    Calm opening_does_nothing = "Backend::open: without any I/O, outside a runtime too",
    Calm a_runtime_that_ends_takes_its_registrations_with_it = "Registration: else the claim's time to live ends it",
    Calm a_view_whose_runtime_ended_says_so = "dubbo-go#3615: a frozen view is indistinguishable from a quiet cluster",
    Calm a_catalog_whose_runtime_ended_says_so = "Catalog: a list that nobody keeps is not fresh",
    Calm a_backend_outlives_a_runtime = "the end of one runtime leaves no dead topic behind",
    Calm watches_that_come_and_go_leave_no_connection = "topics are held weakly",
    Calm a_dropped_registration_leaves_no_connection = "Drive: runs while any subscription or claim lives",
}

/// What is left of a runtime that ended.
struct Left {
    process: Process,
    registration: Option<Registration>,
    watch: Watch,
    /// Where it has a catalog.
    services: Option<Watch<BTreeSet<ServiceName>>>,
}

/// Opens the backend on a runtime of its own, announces and watches there, and ends the runtime in the middle of it.
async fn in_a_runtime_that_ends(
    bench: &Bench,
    backend: Box<dyn Backend>,
    service: &ServiceName,
) -> Result<Left, Flaw> {
    let (tell, told) = oneshot::channel();
    let (instance, service) = (bench.instance(service), service.clone());
    thread::spawn(move || {
        let own = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let own = own.expect("invariant: a machine that runs tests can start a runtime");
        let left = own.block_on(async {
            let process = Process::over(&*backend)?;
            let registration = match process.register(instance) {
                Ok(registration) => Some(registration),
                Err(Flaw::Skipped(_)) => None,
                Err(failed) => return Err(failed),
            };
            if let Some(registration) = &registration {
                live(registration).await?;
            }
            let watch = process.watch(&service)?;
            until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await?;
            let services = process.catalog.as_ref().map(|catalog| catalog.services());
            if let Some(services) = &services {
                eventually(LONG, "the catalog is fresh", || services.latest().staleness().is_fresh()).await?;
            }
            Ok(Left { process, registration, watch, services })
        });
        // Not in the background: what ends here has ended when the other side goes on.
        drop(own);
        // Nobody listens any more when the behaviour was cut.
        let _ = tell.send(left);
    });
    told.await.map_err(|_closed| Flaw::Failed("the other runtime panicked".into()))?
}

async fn opening_does_nothing(bench: Bench) -> Proof {
    let backend = bench.backend();
    let opened = thread::spawn(move || Process::over(&*backend).map(drop)).join();
    opened.map_err(|_panic| Flaw::Failed("opening needs a runtime".into()))??;
    let (process, linked) = bench.open_linked().await?;
    tokio::time::sleep(crate::conformance::bench::QUIET / 2).await;
    let connections = linked.traffic().connections;
    ensure!(connections == 0, "opening made {connections} connections");
    drop(process);
    Ok(())
}

async fn a_runtime_that_ends_takes_its_registrations_with_it(bench: Bench) -> Proof {
    bench.is_open()?;
    let service = bench.service("users");
    let watch = bench.open()?.watch(&service)?;
    let left = in_a_runtime_that_ends(&bench, bench.backend(), &service).await?;
    let registration = left.registration.ok_or_else(|| Flaw::Skipped("it announces nothing".into()))?;
    drop(registration);
    let limit = bench.limits.ttl * SLACK + LONG;
    until(&watch, limit, "it is gone for others", |view| view.known().is_some_and(|all| all.is_empty()))
        .await?;
    Ok(())
}

async fn a_view_whose_runtime_ended_says_so(bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let left = in_a_runtime_that_ends(&bench, bench.backend(), &crowd.service).await?;
    eventually(LONG, "the view says that nobody keeps it", || !left.watch.latest().staleness().is_fresh())
        .await?;
    let view = left.watch.latest();
    ensure!(view.staleness().cause().is_some() && !view.value().is_empty(), "the view is {}", shown(&view));
    Ok(())
}

async fn a_catalog_whose_runtime_ended_says_so(bench: Bench) -> Proof {
    // A closed list is the truth whoever reads it.
    bench.is_open()?;
    let crowd = bench.crowd(1).await?;
    let left = in_a_runtime_that_ends(&bench, bench.backend(), &crowd.service).await?;
    let services = left.services.ok_or_else(|| Flaw::Skipped("it has no catalog".into()))?;
    let what = "the catalog says that nobody keeps it";
    eventually(LONG, what, || !services.latest().staleness().is_fresh()).await?;
    let view = services.latest();
    ensure!(view.staleness().cause().is_some(), "the catalog says no cause");
    ensure!(view.value().contains(&crowd.service), "the catalog forgot what it knew");
    Ok(())
}

/// The next runtime begins anew with the same handle.
async fn a_backend_outlives_a_runtime(bench: Bench) -> Proof {
    let crowd = bench.crowd(1).await?;
    let left = in_a_runtime_that_ends(&bench, bench.backend(), &crowd.service).await?;
    let watch = left.process.watch(&crowd.service)?;
    let known = |view: &meshwork_core::Snapshot| view.value().iter().any(|i| crowd.ids.contains(&i.id));
    until(&watch, LONG, "a new watch is fresh", |view| view.staleness().is_fresh() && known(view)).await?;
    if left.registration.is_some() {
        let again = left.process.register(bench.instance(&crowd.service))?;
        live(&again).await?;
        let id = again.id();
        let what = "a new registration is seen";
        until(&watch, LONG, what, |view| view.value().iter().any(|i| i.id == id)).await?;
    }
    Ok(())
}

async fn watches_that_come_and_go_leave_no_connection(bench: Bench) -> Proof {
    let (process, linked) = bench.open_linked().await?;
    for round in 0..3 {
        let mut watches = Vec::new();
        for n in 0..10 {
            watches.push(process.watch(&bench.service(&format!("gone-{round}-{n}")))?);
        }
        for watch in &watches {
            bench.shows(watch, []).await?;
        }
    }
    drop(process);
    eventually(LONG, "no connection is left", || linked.traffic().open == 0).await?;
    Ok(())
}

async fn a_dropped_registration_leaves_no_connection(bench: Bench) -> Proof {
    let service = bench.service("users");
    let (process, linked) = bench.open_linked().await?;
    let registration = process.announce(bench.instance(&service)).await?;
    let watch = bench.open()?.watch(&service)?;
    bench.shows(&watch, [&registration.id()]).await?;
    drop((registration, process));
    bench.shows(&watch, []).await?;
    eventually(LONG, "no connection is left", || linked.traffic().open == 0).await?;
    Ok(())
}
