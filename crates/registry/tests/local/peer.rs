//! A process of its own that announces and watches as it is told.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use meshwork_core::{Backend, ErrorChain, InstanceId, RegistrationState};
use meshwork_registry::Local;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::bench::{LIMIT, config, instance, until, users, vary};

/// A process of its own that does what it is told line by line; it dies with its test.
pub(crate) struct Peer {
    pub(crate) child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(dir: &Path) -> Self {
        Self::run(Self::command(dir))
    }

    pub(crate) fn command(dir: &Path) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "peer::peer", "--ignored", "--nocapture"]).env("MESHWORK_PEER", dir);
        command
    }

    /// The same inside of a shell script that prepares its world; `None` where the system forbids that.
    pub(crate) fn wrapped(dir: &Path, script: &str) -> Option<Self> {
        if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
            return None;
        }
        let inner = Self::command(dir);
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &format!("{script} && exec \"$@\""), "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).env("MESHWORK_PEER", dir);
        Some(Self::run(command))
    }

    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, orders, answers: BufReader::new(answers) }
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn tell(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        self.orders.flush().unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "the peer ended");
            // The test harness of the peer writes lines of its own, and not always whole ones.
            if let Some((_, answer)) = line.split_once("> ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn register(&mut self) -> InstanceId {
        InstanceId::new(self.tell("register")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "started by the other tests as a process of its own"]
fn peer() {
    let Some(dir) = env::var_os("MESHWORK_PEER") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _runtime = runtime.enter();
    let local = Local::with_config(config(Path::new(&dir)));
    let parts = local.open().unwrap();
    let (registry, discovery) = (parts.registry.unwrap(), parts.discovery.unwrap());
    let mut registrations = Vec::new();
    let watch = discovery.watch(&users());
    for order in std::io::stdin().lock().lines() {
        let order = order.unwrap();
        let (verb, rest) = order.split_once(' ').unwrap_or((&order, ""));
        let last = || registrations.last().unwrap();
        let answer = match verb {
            "register" => {
                let registration = registry.register(instance());
                let live = runtime.block_on(registration.live());
                let id = registration.id().to_string();
                registrations.push(registration);
                live.map_or_else(|e| format!("{:?} {}", e.kind(), ErrorChain(&*e)), |()| id)
            }
            "crowd" => {
                let from = registrations.len();
                registrations.extend((0..rest.parse().unwrap()).map(|_| registry.register(instance())));
                for registration in &registrations[from..] {
                    runtime.block_on(registration.live()).unwrap();
                }
                registrations.len().to_string()
            }
            "weight" => {
                last().update(|instance| vary(instance, rest.parse().unwrap()));
                rest.to_owned()
            }
            // More than one page of the disk.
            "long" => {
                last().update(|instance| instance.labels.set("long", "x".repeat(5000)));
                rest.to_owned()
            }
            // Rewrites the record again and again, each time with content of another length.
            "hammer" => {
                let until = Instant::now() + Duration::from_millis(rest.parse().unwrap());
                let mut n = 0;
                while Instant::now() < until {
                    n += 1;
                    last().update(|instance| vary(instance, n));
                    std::thread::sleep(Duration::from_micros(300));
                }
                n.to_string()
            }
            "state" => runtime.block_on(async {
                let mut state = last().state();
                sleep(Duration::from_millis(1)).await;
                let state = state.borrow_and_update();
                match &*state {
                    RegistrationState::Pending { cause: Some(cause) } => ErrorChain(&**cause).to_string(),
                    RegistrationState::Lost { cause, .. } => ErrorChain(&**cause).to_string(),
                    state => state.as_str().to_owned(),
                }
            }),
            "leave" => {
                let left = runtime.block_on(registrations.pop().unwrap().deregister());
                left.map_or_else(|e| ErrorChain(&*e).to_string(), |()| "left".to_owned())
            }
            "count" => {
                let wanted = rest.parse::<usize>().unwrap();
                runtime.block_on(until(&mut watch.clone(), |ids| ids.len() == wanted));
                rest.to_owned()
            }
            "polling" => {
                runtime.block_on(async { timeout(LIMIT, watch.ready()).await }).unwrap();
                local.is_polling().to_string()
            }
            _ => panic!("unknown order `{order}`"),
        };
        println!("> {answer}");
        std::io::stdout().flush().unwrap();
    }
}
