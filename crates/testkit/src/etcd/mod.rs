//! Real etcd servers: one, or a cluster, with TLS and users on request; each member a process that can be killed, frozen,
//! stopped and started again.
//!
//! Data lies in a temporary directory that goes with the guard. Members listen on `127.0.0.1`, do not sync their disk,
//! and elect quickly; with that the least lease TTL they grant is about 1.5 election timeouts, rounded up to seconds.

mod ask;
mod binaries;
mod member;
mod plan;

use std::{ffi::OsString, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{process::Command, time};

pub use self::{
    binaries::Binaries,
    member::Member,
    plan::{EtcdPlan, Tokens},
};
use crate::{Error, certs::Authority, truth::eventually};

/// How long a start may take until the servers answer.
const READY: Duration = Duration::from_secs(30);
/// How long a leader may be unknown.
const ELECTED: Duration = Duration::from_secs(15);
/// How long one `etcdctl` may run.
const COMMAND: Duration = Duration::from_secs(15);

/// A running etcd of one or more members. Dropping it kills them and deletes their data.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    binaries: Binaries,
    security: plan::Security,
    data: TempDir,
}

// === impl Etcd ===

impl Etcd {
    /// A server alone.
    pub fn single() -> EtcdPlan {
        EtcdPlan::new(1, Duration::from_millis(10), Duration::from_millis(100))
    }

    /// A cluster of `members` servers, at least one.
    pub fn cluster(members: usize) -> EtcdPlan {
        EtcdPlan::new(members.max(1), Duration::from_millis(50), Duration::from_millis(500))
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

    /// What signed the members' certificates and signs those of clients, of a plan with TLS.
    pub fn authority(&self) -> Option<&Authority> {
        self.security.tls.as_ref().map(|tls| &tls.authority)
    }

    /// A folder that lives as long as the servers. A plan with TLS keeps its authority there as `ca.pem`.
    pub fn dir(&self) -> &Path {
        self.data.path()
    }

    /// Makes a user with a role of his own name that may read and write what begins with `prefix`.
    ///
    /// # Errors
    /// When etcd refuses it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves some of it made.
    pub async fn make_user(&self, name: &str, password: &str, prefix: &str) -> Result<(), Error> {
        self.etcdctl(["user", "add", &format!("{name}:{password}")]).await?;
        self.etcdctl(["role", "add", name]).await?;
        self.grant(name, prefix).await?;
        self.etcdctl(["user", "grant-role", name, name]).await.map(drop)
    }

    /// Lets this role read and write what begins with `prefix`.
    ///
    /// # Errors
    /// When etcd refuses it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether it was granted.
    pub async fn grant(&self, role: &str, prefix: &str) -> Result<(), Error> {
        self.etcdctl(["role", "grant-permission", role, "--prefix=true", "readwrite", prefix]).await.map(drop)
    }

    /// Takes back what [`grant`](Self::grant) gave.
    ///
    /// # Errors
    /// When etcd refuses it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it unknown whether it was taken.
    pub async fn revoke(&self, role: &str, prefix: &str) -> Result<(), Error> {
        self.etcdctl(["role", "revoke-permission", role, "--prefix=true", prefix]).await.map(drop)
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
    /// When they do not agree, or clients must speak TLS.
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

    /// Runs `etcdctl` against the members that run and are not frozen, as root where there are users, and gives what it
    /// printed.
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
            .args(&self.security.command)
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
