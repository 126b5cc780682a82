//! What this executable is when it starts itself: processes whose registrations are timed, or whose costs are
//! measured, beside the agents that they talk to.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use meshwork::Consul;
use meshwork_core::{Backend, Instance, Query, ServiceName};
use meshwork_testkit::{consul, process::Program};
use meshwork_tests::{ENVIRONMENT, Result, judge::Judge, residue::sockets};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Registrations are spread over so many services, so that no watch is asked too often.
const SERVICES: usize = 8;
/// Between two registrations: an idle cluster.
const EVERY: Duration = Duration::from_millis(150);
/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Of the clock in which the system counts CPU time.
const TICKS_PER_SECOND: f64 = 100.0;

/// Plays the role that the arguments name, if they name one.
pub(crate) async fn played() -> Option<ExitCode> {
    let given: Vec<String> = env::args().skip(1).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let outcome = match given[..] {
        ["announce", url, count] => announce(url, count).await,
        ["watch", url, count, seconds, ref files @ ..] => watch(url, count, seconds, files).await,
        _ => return None,
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    })
}

fn beacon(n: usize) -> Result<ServiceName> {
    Ok(ServiceName::new(format!("beacon-{}", n % SERVICES))?)
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Registers one instance after another, and says of each when.
async fn announce(url: &str, count: &str) -> Result<()> {
    let parts = Consul::new(url).with_env(ENVIRONMENT).with_ttl(Duration::from_secs(60)).open()?;
    let registry = parts.registry.ok_or("consul announces nothing")?;
    let (mut standing, begun) = (Vec::new(), Instant::now());
    for n in 0..count.parse::<usize>()? {
        sleep_until(begun + EVERY * u32::try_from(n)?).await;
        let mut instance = Instance::new(beacon(n)?);
        instance.env = ENVIRONMENT.into();
        instance.endpoints.push(format!("http://127.0.0.1:{}", 1_000 + n).parse()?);
        println!("{} {}", instance.id, now());
        standing.push(registry.register(instance));
    }
    for registration in &standing {
        registration.live().await?;
    }
    sleep(Duration::from_secs(1)).await;
    for registration in standing {
        registration.deregister().await?;
    }
    Ok(())
}

/// Tells how long it takes until a registration of another process, at another agent, is seen here.
pub(crate) async fn seen(consul: &consul::Consul, count: usize, judge: &mut Judge) -> Result<()> {
    let parts = Consul::new(consul.first().url()).with_env(ENVIRONMENT).open()?;
    let discovery = parts.discovery.ok_or("consul finds nothing")?;
    let (told, mut sightings) = tokio::sync::mpsc::unbounded_channel();
    let mut eyes = JoinSet::new();
    for n in 0..SERVICES {
        let (mut watch, told) = (discovery.watch(&Query::new(beacon(n)?)), told.clone());
        timeout(LIMIT, watch.ready()).await?;
        eyes.spawn(async move {
            loop {
                let view = watch.changed().await;
                for instance in view.value().iter() {
                    let _ = told.send((instance.id.to_string(), now()));
                }
            }
        });
    }
    let process = Program::new(env::current_exe()?)
        .args(["announce", &consul.local().url(), &count.to_string()])
        .start()?;
    let status = process.ended(LIMIT).await?;
    if !status.success() {
        return Err(format!("the announcing process ended with {status}: {:?}", process.stderr()).into());
    }
    eyes.shutdown().await;
    drop(told);
    let mut first = BTreeMap::new();
    while let Some((id, at)) = sightings.recv().await {
        first.entry(id).or_insert(at);
    }
    let mut took = Vec::new();
    for line in process.stdout() {
        let (id, at) = line.split_once(' ').ok_or("a line that tells no registration")?;
        let seen = first.get(id).ok_or_else(|| format!("{id} was never seen"))?;
        took.push(Duration::from_nanos(u64::try_from(seen.saturating_sub(at.parse()?))?));
    }
    took.sort();
    judge.told("registrations", took.len());
    judge.holds("every registration is told", took.len() == count);
    let at = |quantile: f64| took.get(((took.len() as f64 * quantile) as usize).min(took.len() - 1));
    judge.told("seen p50", format_args!("{:.1} ms", at(0.5).ok_or("no registration")?.as_secs_f64() * 1e3));
    judge.time("seen p99", *at(0.99).ok_or("no registration")?, Duration::from_millis(100));
    Ok(())
}

/// Watches many services, and says what that takes.
async fn watch(url: &str, count: &str, seconds: &str, files: &[&str]) -> Result<()> {
    let consul = Consul::new(url).with_env(ENVIRONMENT);
    let consul = match files {
        [ca, cert, key] => consul.with_ca_file(*ca).with_client_certificate(*cert, *key),
        _ => consul,
    };
    let idle = resident()?;
    let discovery = consul.open()?.discovery.ok_or("consul finds nothing")?;
    let names = (0..count.parse::<usize>()?).map(|n| ServiceName::new(format!("service-{n}")));
    let watches = names.map(|name| Ok(discovery.watch(&Query::new(name?)))).collect::<Result<Vec<_>>>()?;
    for watch in &watches {
        timeout(LIMIT, watch.ready()).await?;
    }
    // What came with the start is over.
    sleep(Duration::from_secs(2)).await;
    let (before, begun) = (ticks()?, Instant::now());
    sleep(Duration::from_secs(seconds.parse()?)).await;
    let cpu = (ticks()? - before) / TICKS_PER_SECOND / begun.elapsed().as_secs_f64();
    let mib = (resident()? - idle) / 1024.0;
    let sockets = sockets(std::process::id()).ok_or("no descriptors can be counted")?;
    println!("+{mib:.1} MiB, {:.2} % of a core, {sockets} sockets", cpu * 100.0);
    Ok(())
}

/// Tells what it takes to watch `count` idle services.
pub(crate) async fn costs(
    url: &str,
    files: &[&Path],
    count: usize,
    lasting: Duration,
    judge: &mut Judge,
) -> Result<()> {
    let seconds = lasting.as_secs().to_string();
    let process = Program::new(env::current_exe()?)
        .args(["watch", url, &count.to_string(), &seconds])
        .args(files.iter().map(|file| file.as_os_str()))
        .start()?;
    let status = process.ended(LIMIT + lasting).await?;
    let said = process.stdout();
    match said.last().filter(|_| status.success()) {
        Some(line) => {
            let way = if files.is_empty() { "HTTP" } else { "TLS" };
            judge.told(&format!("{count} services over {way}"), line);
            Ok(())
        }
        None => Err(format!("the watching process ended with {status}: {:?}", process.stderr()).into()),
    }
}

/// Memory of this process, in KiB.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// CPU time of this process.
fn ticks() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || Ok::<f64, meshwork::BoxError>(fields.next().ok_or("no CPU time")?.parse()?);
    Ok(next()? + next()?)
}
