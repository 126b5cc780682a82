//! How fast the embedded registry is: registration until another process sees it, kill -9 until it is gone.
//!
//! Every repetition starts a process of its own. Prints one line and fails when a figure is missed:
//! `cargo run -p meshwork-registry --example local_latency -- [--n 200] [--poll] [--dir DIR] [--slack 1]`

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork_core::{Backend, Endpoint, Instance, InstanceId, Query, ServiceName, Watch};
use meshwork_registry::{Local, LocalConfig};
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

type Failure = Box<dyn Error + Send + Sync>;

const SERVICE: &str = "latency";
/// The goals: registration seen, kill -9 gone where inotify works, either of them where it does not.
const SEEN: Duration = Duration::from_millis(20);
const GONE: Duration = Duration::from_millis(50);
const POLLED: Duration = Duration::from_millis(1200);
/// Longer than anything that works takes.
const LIMIT: Duration = Duration::from_secs(20);

struct Options {
    child: bool,
    n: usize,
    poll: bool,
    slack: u32,
    dir: PathBuf,
}

fn main() -> ExitCode {
    let ran = options().and_then(|options| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        if options.child {
            let _runtime = runtime.enter();
            announce(&options).map(|()| true)
        } else {
            runtime.block_on(measure(&options))
        }
    });
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("local_latency: {error}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { child: false, n: 200, poll: false, slack: 1, dir: PathBuf::new() };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--child" => options.child = true,
            "--poll" => options.poll = true,
            "--n" => options.n = value()?.parse()?,
            "--slack" => options.slack = value()?.parse()?,
            "--dir" => options.dir = value()?.into(),
            _ => return Err(format!("{word}: only --n, --poll, --dir and --slack are known").into()),
        }
    }
    Ok(options)
}

fn local(options: &Options) -> Local {
    let mut config = LocalConfig::default();
    config.dir = Some(options.dir.clone());
    config.poll = options.poll;
    Local::with_config(config)
}

// === the announced process ===

/// Says its id, registers when told so, and lives until it is killed or its parent is gone.
fn announce(options: &Options) -> Result<(), Failure> {
    let mut instance = Instance::new(ServiceName::new(SERVICE)?);
    instance.endpoints.push("http://127.0.0.1:1".parse::<Endpoint>()?);
    let registry = local(options).open()?.registry.ok_or("no registry")?;
    println!("{}", instance.id);
    io::stdout().flush()?;
    let mut go = String::new();
    io::stdin().lock().read_line(&mut go)?;
    let _registration = registry.register(instance);
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}

// === the measuring process ===

async fn measure(options: &Options) -> Result<bool, Failure> {
    let scratch = options.dir.as_os_str().is_empty().then(tempfile::tempdir).transpose()?;
    let dir = scratch.as_ref().map_or(options.dir.clone(), |scratch| scratch.path().join("registry"));
    let local = local(&Options { dir: dir.clone(), ..*options });
    let discovery = local.open()?.discovery.ok_or("no discovery")?;
    let watch = discovery.watch(&Query::new(ServiceName::new(SERVICE)?));
    timeout(LIMIT, watch.ready()).await?;

    // Polled, every repetition waits about a second: many wait together.
    let lanes = Arc::new(Semaphore::new(if options.poll { 25 } else { 1 }));
    let mut repetitions = JoinSet::new();
    for n in 0..options.n {
        let (lanes, watch, dir, poll) = (Arc::clone(&lanes), watch.clone(), dir.clone(), options.poll);
        repetitions.spawn(async move {
            let _lane = lanes.acquire_owned().await?;
            repetition(n as u64, watch, dir, poll).await
        });
    }
    let (mut seen, mut gone) = (Vec::new(), Vec::new());
    while let Some(done) = repetitions.join_next().await {
        let (registered, killed) = done??;
        seen.push(registered);
        gone.push(killed);
    }
    let polling = local.is_polling();
    let goals = if polling { (POLLED, POLLED) } else { (SEEN, GONE) };
    let (seen, gone) = (Figures::of(seen), Figures::of(gone));
    println!(
        "local: registration seen {seen}; kill -9 gone {gone}; inotify {}",
        if polling { "no (polling once a second)" } else { "yes" }
    );
    Ok(seen.p99 <= goals.0 * options.slack && gone.p99 <= goals.1 * options.slack)
}

async fn repetition(
    n: u64,
    mut watch: Watch,
    dir: PathBuf,
    poll: bool,
) -> Result<(Duration, Duration), Failure> {
    let (mut child, id) = spawn_blocking(move || start(&dir, poll)).await??;
    // Away from the last change, and at every moment of a poll.
    sleep(Duration::from_millis(if poll { 137 * (n % 8) } else { 30 + 7 * (n % 8) })).await;
    let registered = Instant::now();
    child.tell()?;
    wait(&mut watch, |is_listed| is_listed, &id).await?;
    let seen = registered.elapsed();

    sleep(Duration::from_millis(if poll { 113 * (n % 9) } else { 30 + 5 * (n % 9) })).await;
    let killed = Instant::now();
    child.0.kill()?;
    wait(&mut watch, |is_listed| !is_listed, &id).await?;
    Ok((seen, killed.elapsed()))
}

async fn wait(watch: &mut Watch, is_met: fn(bool) -> bool, id: &InstanceId) -> Result<(), Failure> {
    let met =
        async { while !is_met(watch.changed().await.value().iter().any(|instance| instance.id == *id)) {} };
    timeout(LIMIT, met).await.map_err(|_elapsed| format!("`{id}`: nothing seen within {LIMIT:?}").into())
}

/// A process that dies with this one.
struct Announced(Child);

fn start(dir: &PathBuf, poll: bool) -> Result<(Announced, InstanceId), Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("--child").arg("--dir").arg(dir).args(poll.then_some("--poll"));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut child = Announced(child);
    let mut line = String::new();
    let stdout = child.0.stdout.as_mut().ok_or("no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    Ok((child, InstanceId::new(line.trim())?))
}

impl Announced {
    fn tell(&mut self) -> Result<(), Failure> {
        let stdin = self.0.stdin.as_mut().ok_or("no input")?;
        stdin.write_all(b"go\n")?;
        Ok(stdin.flush()?)
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Figures {
    p50: Duration,
    p99: Duration,
    n: usize,
}

impl Figures {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let n = times.len();
        let at =
            |percent: usize| times.get((n * percent).div_ceil(100).max(1) - 1).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99), n }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "p50 {:.1} p99 {:.1} ms (n={})", ms(self.p50), ms(self.p99), self.n)
    }
}
