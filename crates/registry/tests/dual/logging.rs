//! What people read when a side is lost or the sides disagree.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use meshwork_registry::dual;
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;

use crate::{Rig, eventually, instance, shows, view};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// All that is logged on this thread from now on, INFO and above.
    fn new() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    /// What was logged since the last call.
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_loss_and_the_return_of_a_side_are_told_once_each_with_its_name() {
    let (lines, _guard) = Lines::new();
    let rig = Rig::new();
    let watch = rig.watch();
    // The span of a caller is none of the keeper's.
    let registration = {
        let _request = tracing::info_span!("request").entered();
        rig.registry().register(instance("a", 81))
    };
    shows(&watch, &["a"]).await;
    rig.truth_is(&["a"], &["a"]).await;
    eventually("both live", || rig.dual.stats().secondary.live.get() == 1).await;
    let told = lines.take();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|line| line.contains("announced service=users")), "{told:#?}");
    rig.secondary.fail(true);
    eventually("a loss", || rig.dual.stats().secondary.lost.get() == 1).await;
    view(&watch, "that is stale", |view| !view.staleness().is_fresh()).await;
    sleep(Duration::from_secs(5)).await;
    rig.secondary.fail(false);
    view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
    eventually("both live", || rig.dual.stats().secondary.live.get() == 1).await;
    let told = lines.take();
    let side = "registry{side=\"secondary\" name=\"two\"}: ";
    for (line, count) in [
        (format!("WARN {side}registration lost"), 1),
        (format!("INFO {side}announced again"), 1),
        (format!("WARN {side}view is stale"), 1),
        (format!("INFO {side}view is fresh again"), 1),
    ] {
        assert_eq!(told.iter().filter(|told| told.starts_with(&line)).count(), count, "{line}: {told:#?}");
    }
    assert_eq!(told.len(), 4, "{told:#?}");
    registration.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lasting_disagreement_is_told_once_while_both_sides_are_written() {
    for write in [dual::Write::Both, dual::Write::Secondary] {
        let (lines, _guard) = Lines::new();
        let rig = Rig::with(|dual| dual.write(write));
        rig.primary.put(instance("a", 81));
        let watch = rig.watch();
        shows(&watch, &["a"]).await;
        sleep(Duration::from_secs(100)).await;
        assert_eq!(rig.dual.stats().disagreeing.get(), 1);
        rig.secondary.put(instance("a", 81));
        sleep(Duration::from_secs(5)).await;
        let told = lines.take();
        if write == dual::Write::Secondary {
            assert!(told.is_empty(), "moving over is no fault: {told:#?}");
            continue;
        }
        assert_eq!(told.len(), 2, "{told:#?}");
        let warn = "WARN the sides of a dual registry disagree on instances service=users primary=one \
                    secondary=two only_primary=1 only_secondary=0 records=0 ids=[\"a\"]";
        assert_eq!(told[0], warn);
        assert!(told[1].starts_with("INFO the sides of a dual registry agree again"), "{told:#?}");
    }
}
