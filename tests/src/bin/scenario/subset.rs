//! Scenario 23: a large fleet and as many clients, each connected to twenty of its instances by its place on a ring;
//! one instance leaves, and one comes.
//!
//! First the decision alone at the full size. Then the same with real connections and calls: one process answers for
//! nearly all addresses, in a network of 127.0.0.0/8 of their own; a process of its own is the one that leaves.

use std::{
    collections::BTreeMap,
    env,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use meshwork::{App, Channel};
use meshwork_client::{
    ClientConfig, ConnectionState, Limit,
    balance::{RingAperture, Subsetting, WeightedRoundRobin},
};
use meshwork_core::{Discovery, Instance, InstanceId, Query, Scheme, ServiceName};
use meshwork_testkit::{
    ports::Port,
    process::{Process, Program},
    truth::eventually,
};
use meshwork_tests::{
    ENVIRONMENT, Result, SERVICE,
    behave::{Behaviour, Conduct, Work},
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    provider::Plan,
    residue::Residue,
    users::Directory,
};
use orders::users::users_server::UsersServer;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{
    caller::{Failure, ask},
    clients::leave,
};

/// Clients, and instances.
const FULL: usize = 300;
/// How many instances a client connects to.
const SIZE: usize = 20;
/// The largest load of an instance over the mean.
const UNEVEN: f64 = 1.05;
/// New connections per client when one instance leaves and one comes.
const NEW: f64 = 2.1;
/// So many clients call at a time. A channel in use looks after its connections all the time, and here one process has
/// three hundred.
const AT_A_TIME: usize = 25;
/// How long anything may take until all clients are connected as they should be.
const PATIENCE: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(60);
/// For how long an instance gets less than its share from who has just met it.
const SLOW_START: Duration = Duration::from_secs(3);
/// The time limit of a call, a connection, a sign of life: this is not about time.
const DEADLINE: Duration = Duration::from_secs(20);
/// The network in which one process answers for many addresses.
const NETWORK: [u8; 2] = [127, 23];
/// Only how many calls an instance gets matters.
const QUICK: Behaviour = Behaviour { work: Work::Echo, hiccup: None, fault: None, workers: 0 };
/// The argument by which this executable is that process.
const ROLE: &str = "answer-for";

/// Plays the process that answers for many, if the arguments say so.
pub(crate) async fn played() -> Option<ExitCode> {
    let given: Vec<String> = env::args().skip(1).collect();
    let [role, registry, port, count] = &given[..] else { return None };
    if role != ROLE {
        return None;
    }
    Some(match answer(registry, port, count).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    })
}

/// An app for each address, until the process is asked to stop.
async fn answer(registry: &str, port: &str, count: &str) -> Result<()> {
    let (port, count) = (port.parse::<u16>()?, count.parse::<u16>()?);
    let (told, mut serving) = mpsc::channel(usize::from(count.max(1)));
    let mut apps = JoinSet::new();
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let addr = SocketAddr::from((Ipv4Addr::new(NETWORK[0], NETWORK[1], high, low), port));
        let app = App::new().with_environment(ENVIRONMENT).with_config(format!(
            "[service]\nname = \"{SERVICE}\"\nhttp = \"{addr}\"\n[drain]\nsettle = \"0s\"\n[registry]\n{registry}"
        ));
        let conduct = Arc::<Conduct>::default();
        conduct.behave(QUICK);
        let directory = Directory::new(number.to_string(), app.handle().stopping()).with_conduct(conduct);
        let told = told.clone();
        let app = app.grpc(UsersServer::new(directory)).on_serving(move |_| async move {
            let _nobody_waits = told.send(()).await;
        });
        apps.spawn(app.serve());
    }
    for _ in 0..count {
        serving.recv().await.ok_or("an app ended before it served")?;
    }
    println!("{ROLE} {count}");
    while let Some(ended) = apps.join_next().await {
        ended?.map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let decided = decided(FULL)?;
    bound("decided, 300 x 300: max/mean", decided.uneven, UNEVEN, judge);
    bound("new connections per client", decided.new as f64 / FULL as f64, NEW, judge);
    // Fewer than 42, and arcs of twenty are longer by one when one instance is missing: that makes them new.
    let size = length.pick(50, FULL, FULL);
    let mut fleet = LocalFleet::start(actor, 1).await?;
    fleet.providers[0].controls().behave(QUICK).await?;
    let port = Port::claim()?;
    let others = Program::new(env::current_exe()?)
        .args([ROLE, &fleet.registry(), &port.number().to_string(), &(size - 1).to_string()])
        .start()?;
    others.wait_for_line(|line| line.starts_with(ROLE), PATIENCE).await.map_err(|e| format!("{e:?}"))?;

    let before = Residue::now();
    let clients = Clients::new(fleet.discovery()?, size)?;
    judge.told("| real:", format_args!("{size} clients, {size} instances"));
    let mut chosen = vec![clients.settled(size).await?];
    let first = clients.opened();
    judge.told("connections", first.iter().map(|of| of.values().sum::<u64>()).sum::<u64>());
    clients.even(length, judge).await?;

    fleet.providers[0].stop(STOP).await?;
    chosen.push(clients.settled(size - 1).await?);
    let fewer = clients.opened();
    fleet.grow(vec![Plan::provider()]).await?;
    fleet.providers[1].controls().behave(QUICK).await?;
    chosen.push(clients.settled(size).await?);
    let made = made(&first, &fewer) + made(&fewer, &clients.opened());
    bound("new connections per client", made as f64 / size as f64, NEW, judge);
    judge.count("of them without need", usize::try_from(made)?.saturating_sub(new(&chosen)), 0);
    clients.even(length, judge).await?;

    clients.end(judge).await;
    judge.succeeds("the others stop", stopped(&others).await);
    leave(fleet, before, judge).await;
    Ok(())
}

async fn stopped(others: &Process) -> Result<()> {
    others.terminate();
    match others.ended(STOP).await? {
        status if status.success() => Ok(()),
        status => Err(format!("{status}: {:?}", others.stderr().last()).into()),
    }
}

fn bound(what: &str, value: f64, most: f64, judge: &mut Judge) {
    judge.told(what, format_args!("{value:.3}"));
    judge.holds(&format!("{what}: {value:.3}, allowed are {most}"), value <= most);
}

// === the decision alone ===

/// What the ring decides for a fleet of which one leaves and one comes.
struct Decided {
    /// The largest load over the mean.
    uneven: f64,
    /// New connections of all clients.
    new: usize,
}

/// For so many clients of so many instances, without any of them.
fn decided(size: usize) -> Result<Decided> {
    let instance = |n: usize| {
        let id = InstanceId::new(format!("{SERVICE}-{n:032x}"))?;
        Ok::<_, meshwork::BoxError>(Arc::new(Instance::with_id(ServiceName::new(SERVICE)?, id)))
    };
    let all = (0..=size).map(instance).collect::<Result<Vec<_>>>()?;
    let sets = [&all[..size], &all[1..size], &all[1..]];
    let chosen = sets.map(|nodes| (0..size).map(|rank| choice(rank, size, nodes)).collect::<Vec<_>>());
    Ok(Decided {
        uneven: chosen.iter().map(|clients| uneven(clients)).fold(0.0, f64::max),
        new: new(&chosen),
    })
}

/// How many instances the clients came to choose, step by step.
fn new(chosen: &[Vec<Choice>]) -> usize {
    let steps = chosen.windows(2).flat_map(|pair| pair[1].iter().zip(&pair[0]));
    steps.map(|(now, before)| now.keys().filter(|id| !before.contains_key(*id)).count()).sum()
}

/// What a client connects to, and the part of its calls that each gets.
type Choice = BTreeMap<InstanceId, f64>;

/// The choice of the client of this rank.
fn choice(rank: usize, clients: usize, nodes: &[Arc<Instance>]) -> Choice {
    let portions = RingAperture::new(SIZE, rank, clients).choose(nodes);
    let all: f64 = portions.iter().map(|portion| f64::from(portion.weight)).sum();
    portions.iter().map(|portion| (nodes[portion.at].id.clone(), f64::from(portion.weight) / all)).collect()
}

/// The largest load over the mean.
fn uneven(clients: &[Choice]) -> f64 {
    let mut loads = BTreeMap::<_, f64>::new();
    for (id, part) in clients.iter().flatten() {
        *loads.entry(id).or_default() += part;
    }
    loads.values().copied().fold(0.0, f64::max) * loads.len() as f64 / clients.len() as f64
}

// === real clients ===

/// Channels that share a view, each with a rank.
struct Clients {
    discovery: Arc<dyn Discovery>,
    channels: Vec<Channel>,
}

/// How many connections a client has opened to each address.
type Opened = BTreeMap<Arc<str>, u64>;

impl Clients {
    fn new(discovery: Arc<dyn Discovery>, count: usize) -> Result<Self> {
        let service = ServiceName::new(SERVICE)?;
        let watch = discovery.watch(&Query::new(service.clone()));
        let channel = |rank| {
            let mut config = ClientConfig::default();
            config.timeout = Some(Limit::new(DEADLINE, "the scenario"));
            config.connect_timeout = DEADLINE;
            config.ping_timeout = DEADLINE;
            config.subsetting = Some(Arc::new(RingAperture::new(SIZE, rank, count)));
            // One connection to each, also where plain HTTP has an endpoint of its own.
            config.scheme = Some(Scheme::Grpc);
            // Exact, so that few calls tell how even the parts are.
            config.policy = Arc::new(WeightedRoundRobin::default());
            Channel::new(service.clone(), watch.clone(), config)
        };
        let channels = (0..count).map(channel).collect();
        Ok(Self { discovery, channels })
    }

    /// Waits until each is connected to all that it has chosen of so many, which must be what the ring says, and says
    /// what that is.
    async fn settled(&self, nodes: usize) -> Result<Vec<Choice>> {
        for channel in &self.channels {
            channel.ready().await?;
        }
        let watch = self.discovery.watch(&Query::new(ServiceName::new(SERVICE)?));
        let told = format!("all are connected to their part of {nodes}");
        let chosen = || -> Vec<Choice> {
            let (view, count) = (watch.latest(), self.channels.len());
            (0..count).map(|rank| choice(rank, count, view.value())).collect()
        };
        let is_so = |(channel, choice): (&Channel, &Choice)| {
            let nodes = channel.nodes();
            nodes.len() == choice.len()
                && nodes.iter().all(|node| {
                    node.state == ConnectionState::Connected && choice.contains_key(&node.instance.id)
                })
        };
        let all = || watch.latest().value().len() == nodes && self.channels.iter().zip(&chosen()).all(is_so);
        eventually(PATIENCE, &told, || async { all() }).await?;
        Ok(chosen())
    }

    fn opened(&self) -> Vec<Opened> {
        let of =
            |channel: &Channel| channel.nodes().into_iter().map(|node| (node.address, node.opened)).collect();
        self.channels.iter().map(of).collect()
    }

    /// Each makes its calls, and all instances get equally many.
    async fn even(&self, length: Length, judge: &mut Judge) -> Result<()> {
        sleep(SLOW_START).await;
        let calls = length.pick(200, 200, 600);
        let (mut loads, mut failed) = (BTreeMap::<u32, usize>::new(), Vec::new());
        for some in self.channels.chunks(AT_A_TIME) {
            let mut asking = JoinSet::new();
            for channel in some {
                asking.spawn(asked(channel.clone(), calls));
            }
            while let Some(answered) = asking.join_next().await {
                match answered? {
                    Ok(answers) => {
                        for (who, count) in answers {
                            *loads.entry(who).or_default() += count;
                        }
                    }
                    Err(failure) => failed.push(failure.to_string()),
                }
            }
        }
        judge.count("failed", failed.len(), 0);
        failed.first().into_iter().for_each(|first| judge.note(&format!("first failure: {first}")));
        let most = loads.values().copied().max().unwrap_or_default() as f64;
        let mean = loads.values().sum::<usize>() as f64 / loads.len().max(1) as f64;
        bound("max/mean of calls", most / mean, UNEVEN, judge);
        Ok(())
    }

    async fn end(self, judge: &mut Judge) {
        let mut in_time = true;
        for channel in &self.channels {
            in_time &= channel.close().await;
        }
        judge.holds("no call is left", in_time);
    }
}

/// So many calls, one after the other: how many each instance answered.
async fn asked(channel: Channel, calls: usize) -> Result<BTreeMap<u32, usize>, Failure> {
    let mut answers = BTreeMap::new();
    for _ in 0..calls {
        *answers.entry(ask(channel.clone()).await?).or_default() += 1;
    }
    Ok(answers)
}

/// How many connections were opened between two looks.
fn made(before: &[Opened], after: &[Opened]) -> u64 {
    let of = |(before, after): (&Opened, &Opened)| -> u64 {
        after.iter().map(|(addr, opened)| opened - before.get(addr).copied().unwrap_or_default()).sum()
    };
    before.iter().zip(after).map(of).sum()
}
