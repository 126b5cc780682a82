//! What kind of etcd is to be started, and how.

use std::{ffi::OsString, path::Path, time::Duration};

use super::{Binaries, Etcd, Member, READY};
use crate::{
    Error,
    certs::{Authority, SigningKey},
};

/// The user that `etcdctl` is, and his password.
const ROOT: &str = "root:root";
/// A stranger may take a port between the claim and the bind.
const STARTS: usize = 3;

/// What kind of etcd is to be started.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EtcdPlan {
    pub(super) members: usize,
    pub(super) heartbeat: Duration,
    pub(super) election: Duration,
    tls: bool,
    users: Option<Tokens>,
    pub(super) flags: Vec<OsString>,
}

/// What users show instead of their password, once they have logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// A number that each member remembers until it was not used for this long; whole seconds.
    Simple(Duration),
    /// A signed text that is good for this long, and until any user or role changes.
    Jwt(Duration),
}

/// What a plan with TLS or users comes to.
#[derive(Debug, Default)]
pub(super) struct Security {
    pub(super) tls: Option<Tls>,
    /// For each member.
    pub(super) flags: Vec<OsString>,
    /// For each `etcdctl`.
    pub(super) command: Vec<OsString>,
}

#[derive(Debug)]
pub(super) struct Tls {
    pub(super) authority: Authority,
}

// === impl EtcdPlan ===

impl EtcdPlan {
    pub(super) fn new(members: usize, heartbeat: Duration, election: Duration) -> Self {
        Self { members, heartbeat, election, tls: false, users: None, flags: Vec::new() }
    }

    /// Clients must speak TLS and show a certificate. Those of the members are for `localhost`, `127.0.0.1` and `etcd.test`,
    /// and [`Etcd::authority`] signs everybody's.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Clients must log in. There is one user, `root`, with the password `root`.
    pub fn users(mut self, tokens: Tokens) -> Self {
        self.users = Some(tokens);
        self
    }

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
        let security = self.security(data.path())?;
        let members = Member::claim(self, &security, &binaries, data.path())?;
        let mut etcd = Etcd { members, binaries, security, data };
        etcd.start()?;
        etcd.ready(READY).await?;
        if self.users.is_some() {
            etcd.etcdctl(["user", "add", ROOT]).await?;
            etcd.etcdctl(["user", "grant-role", "root", "root"]).await?;
            etcd.etcdctl(["auth", "enable"]).await?;
            etcd.security.command.push(format!("--user={ROOT}").into());
        }
        Ok(etcd)
    }

    fn security(&self, dir: &Path) -> Result<Security, Error> {
        let mut security = Security::default();
        let flag = |name: &str, file: &Path| format!("--{name}={}", file.display()).into();
        if self.tls {
            let authority = Authority::new("meshwork tests")?;
            let ca = authority.write(dir)?;
            let hosts = ["localhost", "127.0.0.1", "etcd.test"];
            let (cert, key) = authority.server(&hosts)?.write(dir, "member")?;
            security.flags.extend([
                flag("cert-file", &cert),
                flag("key-file", &key),
                flag("trusted-ca-file", &ca),
                "--client-cert-auth".into(),
            ]);
            let (cert, key) = authority.client("root")?.write(dir, "root")?;
            security.command = vec![flag("cacert", &ca), flag("cert", &cert), flag("key", &key)];
            security.tls = Some(Tls { authority });
        }
        // Passwords are not worth their usual cost here.
        let cheap = "--bcrypt-cost=4".into();
        match self.users {
            Some(Tokens::Simple(ttl)) => {
                security.flags.push(cheap);
                security.flags.push(format!("--auth-token-ttl={}", ttl.as_secs().max(1)).into());
            }
            Some(Tokens::Jwt(ttl)) => {
                security.flags.push(cheap);
                let (private, public) = SigningKey::new()?.write(dir, "tokens")?;
                security.flags.push(
                    format!(
                        "--auth-token=jwt,pub-key={},priv-key={},sign-method=ES256,ttl={}ms",
                        public.display(),
                        private.display(),
                        ttl.as_millis()
                    )
                    .into(),
                );
            }
            None => {}
        }
        Ok(security)
    }
}
