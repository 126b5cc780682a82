//! Real Consul agents: one that is all, a server with a client agent, or one per datacenter; with ACL and TLS.
//!
//! Each agent is a process that can be killed, frozen, stopped and started again. Data lies in a temporary directory that
//! goes with the guard.

mod agent;
mod ask;
mod binary;
mod meddler;
mod plan;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{process::Command, time};

pub use self::{
    agent::Agent,
    binary::find,
    meddler::{Exchange, Fate, Meddler},
    plan::ConsulPlan,
};
use crate::Error;

/// How long a start may take until the agents have joined.
const READY: Duration = Duration::from_secs(30);
/// How long one command of the CLI may run.
const COMMAND: Duration = Duration::from_secs(15);

/// Running agents. Dropping it kills them and deletes their data.
#[derive(Debug)]
pub struct Consul {
    agents: Vec<Agent>,
    consul: PathBuf,
    token: Option<String>,
    dir: TempDir,
}

// === impl Consul ===

impl Consul {
    /// One agent that is server and client, with its data in memory: killed, it forgets everything.
    pub fn dev() -> ConsulPlan {
        ConsulPlan::new(plan::Kind::Dev)
    }

    /// One agent that is server and client and keeps its data.
    pub fn server() -> ConsulPlan {
        ConsulPlan::new(plan::Kind::Server)
    }

    /// A cluster of so many servers, each of which services may talk to; all keep their data.
    pub fn servers(count: usize) -> ConsulPlan {
        ConsulPlan::new(plan::Kind::Servers(count.max(1)))
    }

    /// A server, and a client agent that services talk to; both keep their data.
    pub fn with_client_agent() -> ConsulPlan {
        ConsulPlan::new(plan::Kind::WithClient)
    }

    /// One [`dev`](Self::dev) agent for each of so many datacenters (`dc1`, `dc2`, …), which know each other.
    pub fn datacenters(count: usize) -> ConsulPlan {
        ConsulPlan::new(plan::Kind::Datacenters(count.max(1)))
    }

    /// All agents: the server first, or in the order of the datacenters.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// The server, or the agent of the first datacenter.
    pub fn first(&self) -> &Agent {
        self.agents.first().expect("invariant: there is at least one agent")
    }

    /// The agent that services talk to: the client agent, if there is one, else the first.
    pub fn local(&self) -> &Agent {
        let client = self.agents.iter().find(|agent| agent.name() == plan::CLIENT);
        client.unwrap_or_else(|| self.first())
    }

    /// The server that leads, as the first says that answers.
    ///
    /// # Errors
    /// When none answers within 5 s, or there is no leader.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn leader(&self) -> Result<&Agent, Error> {
        for agent in &self.agents {
            let Ok(said) = agent.must("GET", "/v1/status/leader", "").await else { continue };
            let leads = |agent: &&Agent| agent.serves_at(said.trim().trim_matches('"'));
            if let Some(leader) = self.agents.iter().find(leads) {
                return Ok(leader);
            }
        }
        Err(Error::new("finding the leader: nobody knows one"))
    }

    /// The URL of [`local`](Self::local).
    pub fn url(&self) -> String {
        self.local().url()
    }

    /// The management token of a plan with ACL.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The certificate authority of a plan with TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join(plan::CA)
    }

    /// A client certificate and its key, of a plan with TLS.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join(plan::CLIENT_CERT), self.dir.path().join(plan::CLIENT_KEY))
    }

    /// The socket of [`local`](Self::local), of a plan with one.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join(plan::SOCKET)
    }

    /// A folder that lives as long as the agents.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes an ACL token with a policy of these rules, and gives its accessor id and its secret.
    ///
    /// # Errors
    /// When Consul refuses it.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the policy or the token.
    pub async fn make_token(&self, name: &str, rules: &str) -> Result<(String, String), Error> {
        let text = |value: &str| serde_json::Value::from(value);
        let policy = format!(r#"{{"Name":{},"Rules":{}}}"#, text(name), text(rules));
        self.first().must("PUT", "/v1/acl/policy", &policy).await?;
        let token = format!(r#"{{"Policies":[{{"Name":{}}}]}}"#, text(name));
        let said = self.first().must("PUT", "/v1/acl/token", &token).await?;
        let made: serde_json::Value =
            serde_json::from_str(&said).map_err(|e| Error::new("reading the new token").with_source(e))?;
        let part = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
        Ok((part("AccessorID"), part("SecretID")))
    }

    /// Runs the CLI against [`local`](Self::local) with the management token, and gives what it printed.
    ///
    /// ```no_run
    /// # async fn run(consul: meshwork_testkit::consul::Consul) -> Result<(), meshwork_testkit::Error> {
    /// consul.cli(["maint", "-enable", "-service=users-1"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When it fails or runs longer than 15 s; the error carries what it said.
    ///
    /// # Cancel safety
    /// Dropping the future kills the command; whether the agent did what it asked is then unknown.
    pub async fn cli<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Result<String, Error> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let attempted = format!("running consul {args:?}");
        let mut command = Command::new(&self.consul);
        command.args(&args).env("CONSUL_HTTP_ADDR", self.url()).stdin(Stdio::null()).kill_on_drop(true);
        match &self.token {
            Some(token) => command.env("CONSUL_HTTP_TOKEN", token),
            None => command.env_remove("CONSUL_HTTP_TOKEN"),
        };
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
