//! The parts of `cargo xtask test`, each of which is also a task of its own.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    thread,
    time::Duration,
};

use crate::{
    artifact::{Artifact, Kind},
    build::{Built, Targets},
    consul,
    etcd::{self, Etcd},
    h2spec, protoc, run,
    table::{Count, Outcome, SKIPPED_STATUS, Table},
    workspace,
};

/// The limits of one test executable, one short scenario, one example.
const TESTS_LIMIT: Duration = Duration::from_secs(1200);
const SCENARIO_LIMIT: Duration = Duration::from_secs(240);
const EXAMPLE_LIMIT: Duration = Duration::from_secs(90);

/// How long an example that serves is left running.
const EXAMPLE_UP: Duration = Duration::from_secs(3);

/// How long a scenario runs, and how strictly its times are judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Short,
    Ordinary,
    Long,
}

/// The real servers that tests find through the environment.
#[derive(Default)]
pub(crate) struct Provided {
    etcd: Option<Etcd>,
    consul: Option<PathBuf>,
    h2spec: Option<PathBuf>,
}

impl Provided {
    /// What there is, for a task that fails without the reason being its own.
    fn all() -> Result<Self, String> {
        let coming = consul::begin();
        let etcd = etcd::provide()?;
        Ok(Self { etcd: Some(etcd), consul: Some(coming.wait()?), h2spec: None })
    }

    fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some(etcd) = &self.etcd {
            command.env(etcd::VARIABLES[0], &etcd.etcd).env(etcd::VARIABLES[1], &etcd.etcdctl);
        }
        if let Some(consul) = &self.consul {
            command.env(consul::VARIABLE, consul);
        }
        if let Some(h2spec) = &self.h2spec {
            command.env(h2spec::VARIABLE, h2spec);
        }
        command
    }
}

pub(crate) fn everything(table: &mut Table) {
    // It takes longest by far, and nothing needs it before the tests.
    let coming = consul::begin();
    protoc(table);
    let etcd = etcd(table);
    let h2spec = h2spec(table);
    lint(table);
    let built = build(table, Targets::BinariesAndTests);
    let servers = Provided { etcd, consul: consul_come(table, coming), h2spec };
    if let Some(built) = built {
        tests(table, &built, Kind::Unit, &servers);
        doctests(table, &servers);
        tests(table, &built, Kind::Integration, &servers);
        examples(table, &built);
        let known = table.part("scenarios", || Ok((Outcome::Passed, scenarios(&built)?)));
        for (n, what) in known.unwrap_or_default() {
            table.part(&format!("scenario {n}"), || {
                run::echo(&what);
                let mut command = scenario_command(&built, n, Length::Short, &servers)?;
                judged(run::lines(&mut command, Some(SCENARIO_LIMIT), run::echo)?)
            });
        }
    }
}

pub(crate) fn protoc(table: &mut Table) {
    table.part("protoc", || {
        run::echo(&protoc::provide()?);
        Ok((Outcome::Passed, ()))
    });
}

pub(crate) fn etcd(table: &mut Table) -> Option<Etcd> {
    table.part("etcd", || {
        let found = etcd::provide()?;
        run::echo(&format!("{}\n{}", found.etcd.display(), found.etcdctl.display()));
        Ok((Outcome::Passed, found))
    })
}

pub(crate) fn consul(table: &mut Table) {
    consul_come(table, consul::begin());
}

fn consul_come(table: &mut Table, coming: consul::Coming) -> Option<PathBuf> {
    table.part("consul", || {
        let found = coming.wait()?;
        run::echo(&found.display().to_string());
        Ok((Outcome::Passed, found))
    })
}

pub(crate) fn h2spec(table: &mut Table) -> Option<PathBuf> {
    table.part("h2spec", || {
        let found = h2spec::provide()?;
        run::echo(&found.display().to_string());
        Ok((Outcome::Passed, found))
    })
}

pub(crate) fn lint(table: &mut Table) {
    table.part("formatting", || check(&mut workspace::cargo(&["fmt", "--all", "--check"])));
    table.part("clippy", || {
        let mut command = workspace::cargo(&["clippy"]);
        command.args(workspace::SELECTION).args(["--all-targets", "--keep-going", "--", "-D", "warnings"]);
        check(&mut command)
    });
    table.part("docs", || {
        let mut command = workspace::cargo(&["doc"]);
        command
            .args(workspace::SELECTION)
            .args(["--no-deps", "--keep-going"])
            .env("RUSTDOCFLAGS", "-D warnings");
        check(&mut command)
    });
}

pub(crate) fn unit_alone(table: &mut Table) {
    let coming = consul::begin();
    protoc(table);
    let etcd = etcd(table);
    let built = build(table, Targets::BinariesAndTests);
    let servers = Provided { etcd, consul: consul_come(table, coming), ..Provided::default() };
    if let Some(built) = built {
        tests(table, &built, Kind::Unit, &servers);
        doctests(table, &servers);
    }
}

pub(crate) fn integration_alone(table: &mut Table) {
    let coming = consul::begin();
    protoc(table);
    let etcd = etcd(table);
    let h2spec = h2spec(table);
    let built = build(table, Targets::BinariesAndTests);
    let servers = Provided { etcd, consul: consul_come(table, coming), h2spec };
    if let Some(built) = built {
        tests(table, &built, Kind::Integration, &servers);
    }
}

/// One scenario in the foreground: what it prints last is its figures.
pub(crate) fn scenario_alone(n: u32, length: Length) -> ExitCode {
    alone(|| {
        protoc::provide()?;
        let servers = Provided::all()?;
        let built = Built::make(Targets::Binaries)?;
        run::shown(&mut scenario_command(&built, n, length, &servers)?)
    })
}

/// The scenarios that there are.
pub(crate) fn list_scenarios() -> ExitCode {
    alone(|| {
        protoc::provide()?;
        run::shown(scenario_binary(&Built::make(Targets::Binaries)?)?.arg("list"))
    })
}

/// What h2spec says of our port, in the foreground.
pub(crate) fn h2spec_alone() -> ExitCode {
    alone(|| {
        let servers = Provided { h2spec: Some(h2spec::provide()?), ..Provided::default() };
        let mut command = workspace::cargo(&["test", "--quiet", "--package", "meshwork-server"]);
        run::shown(servers.tell(command.args(["--test", "h2spec", "--", "--nocapture"])))
    })
}

/// One experiment in the foreground, built for release. `quick`: only to show that it runs.
pub(crate) fn bench(name: &str, quick: bool) -> ExitCode {
    alone(|| {
        protoc::provide()?;
        let everywhere = ["START", "IDLE"].iter().any(|one| name.eq_ignore_ascii_case(one));
        let consul = if everywhere { Some(consul::provide()?) } else { None };
        let servers = Provided { etcd: Some(etcd::provide()?), consul, ..Provided::default() };
        // Its allocator counts, which would slow the others down.
        let counts = name.eq_ignore_ascii_case("A1");
        let binary = if counts { "allocations" } else { "bench" };
        if everywhere {
            // What it measures is a binary of its own.
            let mut build = workspace::cargo(&["build", "--release", "--package", "meshwork-benches"]);
            let built = run::shown(build.args(["--bin", "bench", "--bin", "greeter"]))?;
            if !built.success() {
                return Ok(built);
            }
        }
        let mut command =
            workspace::cargo(&["run", "--release", "--package", "meshwork-benches", "--bin", binary]);
        if !counts {
            command.args(["--", name]).args(quick.then_some("--quick"));
        }
        run::shown(servers.tell(&mut command))
    })
}

/// An etcd in the foreground.
pub(crate) fn up_etcd(members: u8) -> ExitCode {
    alone(|| up("etcd", members, &Provided { etcd: Some(etcd::provide()?), ..Provided::default() }))
}

/// A Consul in the foreground.
pub(crate) fn up_consul(members: u8) -> ExitCode {
    alone(|| up("consul", members, &Provided { consul: Some(consul::provide()?), ..Provided::default() }))
}

/// A server in the foreground, by the example of the test bed that shows how to start one.
fn up(server: &str, members: u8, servers: &Provided) -> Result<ExitStatus, String> {
    let mut command =
        workspace::cargo(&["run", "--quiet", "--package", "meshwork-testkit", "--example", server]);
    command.args(["--", "--members", &members.to_string()]);
    Err(run::become_it(servers.tell(&mut command)))
}

fn alone(work: impl FnOnce() -> Result<ExitStatus, String>) -> ExitCode {
    match work() {
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn build(table: &mut Table, targets: Targets) -> Option<Built> {
    let mut made = None;
    table.part("build", || {
        let built = made.insert(Built::make(targets)?);
        if built.is_whole() { Ok((Outcome::Passed, ())) } else { Err("not everything compiles".to_owned()) }
    });
    made
}

fn tests(table: &mut Table, built: &Built, kind: Kind, servers: &Provided) {
    let what = if kind == Kind::Unit { "unit" } else { "integration" };
    let packages = built.tests(kind);
    if packages.is_empty() {
        table.part::<()>(what, || Err("there is no such test yet".to_owned()));
    }
    for (dir, list) in packages {
        let name = dir.strip_prefix(workspace::root()).unwrap_or(dir).display().to_string();
        table.part(&format!("{what} {name}"), || {
            let mut count = Count::default();
            for artifact in list {
                test_executable(artifact, dir, servers, &mut count);
            }
            Ok((Outcome::Tests(count), ()))
        });
    }
}

/// Runs one test executable as cargo does: in the folder of its package.
fn test_executable(artifact: &Artifact, dir: &Path, servers: &Provided, count: &mut Count) {
    let mut command = Command::new(&artifact.executable);
    command.current_dir(dir).env("CARGO_MANIFEST_DIR", dir).args(threads(dir));
    let failed_before = count.failed;
    let ended = run::lines(servers.tell(&mut command), Some(TESTS_LIMIT), |line| {
        count.read(line);
        run::echo(line);
    });
    let complaint = match ended {
        Ok(status) if status.success() || count.failed > failed_before => return,
        Ok(status) => status.to_string(),
        Err(reason) => reason,
    };
    run::echo(&format!("{}: {complaint}", artifact.name));
    count.failed += 1;
}

/// The tests on real servers wait more than they work: twice as many at once as there are cores, in half the time.
fn threads(dir: &Path) -> Option<String> {
    let cores = thread::available_parallelism().map_or(2, NonZero::get);
    dir.ends_with("tests").then(|| format!("--test-threads={}", (2 * cores).clamp(4, 8)))
}

fn doctests(table: &mut Table, servers: &Provided) {
    table.part("doctests", || {
        let mut count = Count::default();
        let mut command = workspace::cargo(&["test"]);
        command.args(workspace::SELECTION).args(["--doc", "--no-fail-fast"]);
        let status = run::lines(servers.tell(&mut command), None, |line| {
            count.read(line);
            run::echo(line);
        })?;
        if !status.success() && count.failed == 0 {
            count.failed += 1;
        }
        Ok((Outcome::Tests(count), ()))
    });
}

/// The first command of the README, as it stands there, and with no protoc to be found; then every other example, which
/// must start, stay, and end well when asked to.
fn examples(table: &mut Table, built: &Built) {
    table.part("example quickstart", || {
        let mut build = workspace::cargo(&["build", "--package", "quickstart"]);
        build.env("PROTOC", "/none/is/needed");
        let status = run::shown(&mut build)?;
        if !status.success() {
            return Err(format!("building it without features: {status}"));
        }
        let mut command =
            workspace::cargo(&["run", "--quiet", "--package", "quickstart", "--", "--for", "10s"]);
        command.env("PROTOC", "/none/is/needed");
        judged(run::lines(&mut command, Some(EXAMPLE_LIMIT), run::echo)?)
    });
    for (name, executable) in built.binaries_below("examples") {
        if name != "quickstart" {
            table.part(&format!("example {name}"), || {
                let mut command = Command::new(executable);
                command.current_dir(workspace::root());
                judged(run::service(&mut command, EXAMPLE_UP, EXAMPLE_LIMIT)?)
            });
        }
    }
}

/// The scenarios that the binary knows, each with its number and what happens in it. The short form of each belongs to
/// `test`.
fn scenarios(built: &Built) -> Result<Vec<(u32, String)>, String> {
    let listed = run::output(scenario_binary(built)?.arg("list"), "listing the scenarios")?;
    let read = |line: &str| {
        let (n, what) = line.split_once(' ')?;
        Some((n.parse().ok()?, what.to_owned()))
    };
    let read_or_say = |line| read(line).ok_or_else(|| format!("listing the scenarios: `{line}` is none"));
    listed.lines().map(read_or_say).collect()
}

fn scenario_binary(built: &Built) -> Result<Command, String> {
    let binary = built
        .binary("tests", "scenario")
        .ok_or("the package `meshwork-tests` has no binary `scenario`, or it does not compile")?;
    let mut command = Command::new(binary);
    command.current_dir(workspace::root());
    Ok(command)
}

fn scenario_command(built: &Built, n: u32, length: Length, servers: &Provided) -> Result<Command, String> {
    let mut command = scenario_binary(built)?;
    command.arg(n.to_string());
    match length {
        Length::Short => drop(command.arg("--short")),
        Length::Long => drop(command.arg("--long")),
        Length::Ordinary => {}
    }
    servers.tell(&mut command);
    Ok(command)
}

fn check(command: &mut Command) -> Result<(Outcome, ()), String> {
    judged(run::shown(command)?)
}

fn judged(status: ExitStatus) -> Result<(Outcome, ()), String> {
    match status.code() {
        Some(0) => Ok((Outcome::Passed, ())),
        Some(SKIPPED_STATUS) => Ok((Outcome::Skipped, ())),
        _ => Err(status.to_string()),
    }
}
