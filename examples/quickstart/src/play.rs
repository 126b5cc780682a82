//! The play: start, kill -9 one, start it again, restart another gracefully, count.

use std::{
    collections::HashSet,
    env, fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork::{App, BoxError, Channel};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{args::Args, caller, fleet::Greeter, score::Score, table::Table};

/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// The longest wait for one step.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that goes away with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Play {
    began: Instant,
    length: Duration,
    fleet: Vec<Greeter>,
    channel: Channel,
    score: Arc<Score>,
    table: Table,
    shown: Instant,
}

/// Plays it all; says whether no call failed.
///
/// # Errors
/// When a process cannot be started or a step takes too long.
pub(crate) async fn run(args: Args) -> Result<bool, BoxError> {
    let scratch = Scratch(env::temp_dir().join(format!("meshwork-quickstart-{}", std::process::id())));
    let settings = args.registry.variables(&scratch.0);
    let app = App::new().with_environment("dev").with_config(args.registry.toml(&scratch.0));
    let channel = app.channel("greeter");
    let (stop, score) = (CancellationToken::new(), Arc::new(Score::default()));

    println!(
        "starting {} greeters, calling them {} times a second for {:?}",
        args.instances, args.rate, args.length
    );
    println!("registry: {}", args.registry);
    let began = Instant::now();
    let fleet = (1..=args.instances)
        .map(|place| Greeter::start(place, settings.clone()))
        .collect::<Result<_, _>>()?;
    let calls = tokio::spawn(caller::call(channel.clone(), args.rate, Arc::clone(&score), stop.clone()));
    let length = args.length;
    let mut play = Play { began, length, fleet, channel, score, table: Table::new(), shown: began };
    let figures = play.acts().await;
    stop.cancel();
    calls.await?;
    let (gone, back) = figures?;
    let counts = play.score.read();
    play.finish().await;
    drop(app);

    if let Some(failure) = &counts.first_failure {
        println!("first failure: {failure}");
    }
    println!(
        "calls {}  failed {}  gone after {} ms  back after {} ms",
        counts.calls,
        counts.failed,
        gone.as_millis(),
        back.as_millis()
    );
    println!(
        "\nnext: cargo run -p orders                    a service with HTTP and gRPC, and a call to another\
         \n      cargo run -p quickstart -- --help       more instances, more calls, another registry\
         \n      cargo xtask test                        every test, on real servers with real faults"
    );
    Ok(counts.failed == 0)
}

impl Play {
    /// Gone after, back after.
    async fn acts(&mut self) -> Result<(Duration, Duration), BoxError> {
        let pids: Vec<_> = self.fleet.iter().map(|greeter| greeter.pid).collect();
        self.wait("the first answers of all greeters", |play| pids.iter().all(|pid| play.answered(*pid)))
            .await?;
        let first = self.score.read().first_success.map_or(Duration::ZERO, |at| at - self.began);
        self.say(&format!("first answer after {} ms, all {} answer", first.as_millis(), pids.len()));

        self.until(self.length.mul_f64(0.25)).await?;
        let victim = pids[0];
        let killed = self.fleet[0].kill().await?;
        self.say("kill -9 greeter-1");
        self.wait("the killed greeter to leave the view", |play| !play.listed().contains(&victim)).await?;
        let gone = killed.elapsed();
        self.say(&format!("greeter-1 is gone from the view after {} ms", gone.as_millis()));

        self.until(self.length.mul_f64(0.45)).await?;
        let started = self.fleet[0].restart("1.0.0")?;
        self.say("greeter-1 is started again");
        let again = self.fleet[0].pid;
        self.wait("the restarted greeter to answer", |play| play.answered(again)).await?;
        let back = self.score.first_answer(again).map_or(started.elapsed(), |at| at - started);
        self.say(&format!("greeter-1 answers again after {} ms", back.as_millis()));

        self.until(self.length.mul_f64(0.65)).await?;
        self.say("greeter-2 is restarted gracefully as version 1.1.0");
        let status = self.fleet[1].stop().await?;
        self.say(&format!("greeter-2 drained and ended ({status})"));
        self.fleet[1].restart("1.1.0")?;
        let again = self.fleet[1].pid;
        self.wait("greeter-2 to answer as 1.1.0", |play| play.answered(again)).await?;
        self.say("greeter-2 answers as 1.1.0");
        self.until(self.length).await?;
        Ok((gone, back))
    }

    async fn finish(&mut self) {
        for greeter in &mut self.fleet {
            let _ = greeter.stop().await;
        }
    }

    fn answered(&self, pid: u32) -> bool {
        self.score.first_answer(pid).is_some()
    }

    /// The processes in the caller's view.
    fn listed(&self) -> HashSet<u32> {
        let nodes = self.channel.nodes();
        nodes.iter().filter_map(|node| node.instance.labels.get("pid")?.parse().ok()).collect()
    }

    fn say(&mut self, text: &str) {
        self.table.say(self.began.elapsed(), text);
    }

    async fn until(&mut self, at: Duration) -> Result<(), BoxError> {
        while self.began.elapsed() < at {
            self.look().await?;
        }
        Ok(())
    }

    async fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), BoxError> {
        let since = Instant::now();
        while !done(self) {
            if since.elapsed() > PATIENCE {
                let failure = self.score.read().first_failure.unwrap_or_default();
                return Err(format!("waited {PATIENCE:?} for {what}; {failure}").into());
            }
            self.look().await?;
        }
        Ok(())
    }

    /// One look: redraws when it is time, and notices a greeter that fell over.
    async fn look(&mut self) -> Result<(), BoxError> {
        let every = if self.table.is_live() { Duration::from_millis(250) } else { Duration::from_secs(1) };
        if self.shown.elapsed() >= every {
            self.shown = Instant::now();
            for greeter in &mut self.fleet {
                if let Some(status) = greeter.fell_over()? {
                    return Err(format!("{} ended by itself: {status}", greeter.name).into());
                }
            }
            let listed = self.listed();
            self.table.show(self.began.elapsed(), &self.fleet, &self.score.read(), &listed);
        }
        sleep(LOOK).await;
        Ok(())
    }
}
