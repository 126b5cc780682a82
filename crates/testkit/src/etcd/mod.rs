//! Real etcd servers: one, or a cluster, each member a process that can be killed, frozen, stopped and started again.
//!
//! Data lies in a temporary directory that goes with the guard. Members listen on `127.0.0.1`, do not sync their disk,
//! and elect quickly; with that the least lease TTL they grant is about 1.5 election timeouts, rounded up to seconds.

mod ask;
mod binaries;
mod member;

use std::{ffi::OsString, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{process::Command, time};

pub use self::{binaries::Binaries, member::Member};
use crate::{Error, truth::eventually};

/// How long a start may take until the servers answer.
const READY: Duration = Duration::from_secs(30);
/// How long a leader may be unknown.
const ELECTED: Duration = Duration::from_secs(15);
/// How long one `etcdctl` may run.
const COMMAND: Duration = Duration::from_secs(15);
/// A stranger may take a port between the claim and the bind.
const STARTS: usize = 3;

/// A running etcd of one or more members. Dropping it kills them and deletes their data.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    binaries: Binaries,
    _data: TempDir,
}

/// What kind of etcd is to be started.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EtcdPlan {
    members: usize,
    heartbeat: Duration,
    election: Duration,
    flags: Vec<OsString>,
}

// === impl EtcdPlan ===

impl EtcdPlan {
    /// The heartbeat and the election timeout; by default 10 and 100 ms for one member, 50 and 500 ms for a cluster.
    /// etcd wants the second to be at least five times the first.
    pub fn elections(mut self, heartbeat: Duration, election: Duration) -> Self {
        (self.heartbeat, self.election) = (heartbeat, election);
        self
    }

    /// One more flag for each member, for instance `--auto-compaction-retention=1`.
    pub fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// Starts all members and waits at most 30 s until each has answered a read that needs the quorum.
    ///
    /// # Errors
    /// When no fit etcd is found (the error says how to get one), or one does not answer; the error carries the output.
    ///
    /// # Cancel safety
    /// Dropping the future kills what was started.
    pub async fn start(self) -> Result<Etcd, Error> {
        let binaries = Binaries::find()?;
        let mut tries = 0;
        loop {
            tries += 1;
            let started = self.try_start(binaries.clone()).await;
            match started {
                Err(e) if tries < STARTS && e.output().contains("address already in use") => {}
                other => return other,
            }
        }
    }

    async fn try_start(&self, binaries: Binaries) -> Result<Etcd, Error> {
        let data = tempfile::Builder::new()
            .prefix("meshwork-etcd-")
            .tempdir()
            .map_err(|e| Error::new("creating a directory for the data of etcd").with_source(e))?;
        let members = Member::claim(self, &binaries, data.path())?;
        let etcd = Etcd { members, binaries, _data: data };
        etcd.start()?;
        etcd.ready(READY).await?;
        Ok(etcd)
    }
}

// === impl Etcd ===

impl Etcd {
    /// A server alone.
    pub fn single() -> EtcdPlan {
        let (heartbeat, election) = (Duration::from_millis(10), Duration::from_millis(100));
        EtcdPlan { members: 1, heartbeat, election, flags: Vec::new() }
    }

    /// A cluster of `members` servers, at least one.
    pub fn cluster(members: usize) -> EtcdPlan {
        let (heartbeat, election) = (Duration::from_millis(50), Duration::from_millis(500));
        EtcdPlan { members: members.max(1), heartbeat, election, flags: Vec::new() }
    }

    /// The client URL of each member, in order, whether it runs or not.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    /// All members, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member at `index`, counted from 0.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Starts every member that does not run, with the data it has, without waiting until they answer.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(&self) -> Result<(), Error> {
        self.members.iter().try_for_each(Member::start)
    }

    /// Waits until each member has answered a read that needs the quorum.
    ///
    /// # Errors
    /// When one has ended or does not answer within `limit`; the error carries its output.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let until = time::Instant::now() + limit;
        for member in &self.members {
            member.ready(until.saturating_duration_since(time::Instant::now())).await?;
        }
        Ok(())
    }

    /// Kills all members by SIGKILL and waits until they are gone. Their data stays.
    ///
    /// # Errors
    /// When one is still there after 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves all of them killed.
    pub async fn kill9(&self) -> Result<(), Error> {
        self.members.iter().for_each(Member::strike);
        for member in &self.members {
            member.kill9().await?;
        }
        Ok(())
    }

    /// Freezes all members, one after the other.
    ///
    /// # Errors
    /// When one does not run, or still runs after 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some frozen.
    pub async fn freeze(&self) -> Result<(), Error> {
        for member in &self.members {
            member.freeze().await?;
        }
        Ok(())
    }

    /// Thaws all members.
    pub fn thaw(&self) {
        self.members.iter().for_each(Member::thaw);
    }

    /// Deletes the data of all members: started again with the same flags, they are a new store that has the same
    /// cluster id and begins at revision 1.
    ///
    /// # Errors
    /// When one runs, or its data cannot be deleted.
    pub fn wipe(&self) -> Result<(), Error> {
        self.members.iter().try_for_each(Member::wipe)
    }

    /// Kills all, wipes them when `wiped`, starts them again and waits until they answer.
    ///
    /// # Errors
    /// As the steps it is made of.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the servers between two steps.
    pub async fn restart(&self, wiped: bool) -> Result<(), Error> {
        self.kill9().await?;
        if wiped {
            self.wipe()?;
        }
        self.start()?;
        self.ready(READY).await
    }

    /// The index of the member that leads, once more than half of all members agree on it; waits at most 15 s.
    ///
    /// # Errors
    /// When they do not agree.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn leader(&self) -> Result<usize, Error> {
        let agreed = std::cell::Cell::new(None);
        eventually(ELECTED, "the members of etcd agree on a leader", || async {
            agreed.set(self.leader_now().await);
            agreed.get().is_some()
        })
        .await?;
        agreed.get().ok_or_else(|| Error::new("asking for the leader of etcd"))
    }

    async fn leader_now(&self) -> Option<usize> {
        let mut votes = Vec::new();
        let mut ids = Vec::new();
        for (index, member) in self.members.iter().enumerate() {
            if let Some(status) = member.status().await {
                ids.push((status.id, index));
                votes.push(status.leader);
            }
        }
        let most = votes
            .iter()
            .find(|one| votes.iter().filter(|other| other == one).count() * 2 > self.members.len())?;
        ids.iter().find(|(id, _)| id == most).map(|(_, index)| *index)
    }

    /// Runs `etcdctl` against the members that run and are not frozen, and gives what it printed.
    ///
    /// ```no_run
    /// # async fn run(etcd: meshwork_testkit::etcd::Etcd) -> Result<(), meshwork_testkit::Error> {
    /// etcd.etcdctl(["del", "--prefix", "/meshwork/dev/instances/users/"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When it fails or runs longer than 15 s; the error carries what it said.
    ///
    /// # Cancel safety
    /// Dropping the future kills the command; whether the server did what it asked is then unknown.
    pub async fn etcdctl<A: Into<OsString>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, Error> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let attempted = format!("running etcdctl {args:?}");
        let live: Vec<String> =
            self.members.iter().filter(|member| member.answers()).map(Member::url).collect();
        let mut command = Command::new(&self.binaries.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout=2s", "--command-timeout=5s"])
            .arg(format!("--endpoints={}", live.join(",")))
            .args(&args)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match time::timeout(COMMAND, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) => return Err(Error::new(attempted).with_source(e)),
            Err(_elapsed) => return Err(Error::new(format!("{attempted}: still running after {COMMAND:?}"))),
        };
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Error::new(format!("{attempted}: {}", output.status)).with_output(said))
        }
    }
}

#[cfg(test)]
mod tests;
