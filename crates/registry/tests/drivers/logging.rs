//! What people read of an outage: one WARN at the loss, one INFO at the return, little between.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use meshwork_core::{Discovery, ErrorKind, Registry};
use meshwork_registry::{Driven, DriverOptions};
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;

use crate::scripted::{Answer, Scripted, eventually, instance, service};

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

fn driven() -> Driven<Scripted> {
    Driven::new(Scripted::new(Answer::Well), DriverOptions::default().with_seed(1))
}

#[tokio::test(start_paused = true)]
async fn a_lost_view_is_told_in_one_warning_a_line_per_30_s_and_one_return() {
    let (lines, _guard) = Lines::new();
    let driven = driven();
    let watch = driven.watch(&service("users").into());
    watch.ready().await;
    assert_eq!(lines.take(), [""; 0], "nothing is wrong");
    driven.backend().answers(Answer::Error(ErrorKind::Unavailable));
    sleep(Duration::from_secs(100)).await;
    driven.backend().answers(Answer::Well);
    eventually("freshness", || watch.latest().staleness().is_fresh()).await;
    let told = lines.take();
    assert_eq!(told.len(), 5, "{told:#?}");
    let warn =
        "WARN view is stale: calls go on to the last known instances service=users instances=1 retry_in=";
    assert!(told[0].starts_with(warn), "{}", told[0]);
    assert!(told[0].ends_with("error=asking the scripted registry: by order"), "{}", told[0]);
    assert!(told[1..4].iter().all(|line| line.starts_with("INFO view is still stale service=users since=")));
    assert!(told[4].starts_with("INFO view is fresh again service=users after=10"), "{}", told[4]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_registration_is_told_in_one_warning_a_line_per_30_s_and_one_return() {
    let (lines, _guard) = Lines::new();
    let driven = driven();
    let registration = driven.register(instance(&service("users")));
    registration.live().await.unwrap();
    assert_eq!(lines.take(), ["INFO announced service=users id=users-1"]);
    driven.backend().answers(Answer::Error(ErrorKind::Unavailable));
    driven.backend().lose.notify_one();
    sleep(Duration::from_secs(100)).await;
    driven.backend().answers(Answer::Well);
    eventually("it is live", || driven.stats().live.get() == 1).await;
    let told = lines.take();
    assert_eq!(told.len(), 5, "{told:#?}");
    let warn = "WARN registration lost: new clients may not find this instance service=users id=users-1";
    assert!(told[0].starts_with(warn), "{}", told[0]);
    assert!(told[0].ends_with("error=holding the scripted claim: by order"), "{}", told[0]);
    assert!(told[1..4].iter().all(|line| line.starts_with("INFO still not announced")), "{told:#?}");
    assert!(told[4].starts_with("INFO announced again service=users id=users-1 after="), "{}", told[4]);
    registration.deregister().await.unwrap();
    assert_eq!(lines.take(), ["INFO left the registry service=users id=users-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_mend_is_an_alarm_at_once() {
    let (lines, _guard) = Lines::new();
    let driven = driven();
    driven.backend().answers(Answer::Error(ErrorKind::Denied));
    let registration = driven.register(instance(&service("users")));
    let _ = registration.live().await;
    let told = lines.take();
    assert!(told[0].starts_with("ERROR not announced: clients do not find this instance"), "{told:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_faults_does_not_fill_the_log() {
    let (lines, _guard) = Lines::new();
    let driven = driven();
    let _watch = driven.watch(&service("users").into());
    for _ in 0..600 {
        driven.backend().answers(Answer::Error(ErrorKind::Unavailable));
        sleep(Duration::from_millis(500)).await;
        driven.backend().answers(Answer::Well);
        sleep(Duration::from_millis(500)).await;
    }
    let told = lines.take().len();
    assert!(told <= 600 / 10, "{told} lines in 10 minutes");
}
