//! What kind of Consul is to be started, and how.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use super::{Agent, Consul, READY, binary};
use crate::{Error, ports::Port, truth::eventually};

/// The name of the client agent.
pub(super) const CLIENT: &str = "client";
pub(super) const CA: &str = "consul-agent-ca.pem";
pub(super) const CLIENT_CERT: &str = "dc1-client-consul-0.pem";
pub(super) const CLIENT_KEY: &str = "dc1-client-consul-0-key.pem";
pub(super) const SOCKET: &str = "agent.sock";

const SERVER_CERT: &str = "dc1-server-consul-0.pem";
const SERVER_KEY: &str = "dc1-server-consul-0-key.pem";
/// Not secret: it guards nothing but a test.
const MANAGEMENT: &str = "6d657368-776f-726b-0000-6d616e616765";
/// A stranger may take a port between the claim and the bind.
const STARTS: usize = 3;
/// Elections and failures are noticed quickly, and agents run scripts and small health checks.
const QUICK: &str = "performance { raft_multiplier = 1 } enable_script_checks = true \
    skip_leave_on_interrupt = true leave_on_terminate = false disable_update_check = true \
    limits { http_max_conns_per_client = 1000 }";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dev,
    Server,
    Servers(usize),
    WithClient,
    Datacenters(usize),
}

/// What kind of Consul is to be started.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct ConsulPlan {
    kind: Kind,
    acl: bool,
    tls: bool,
    socket: bool,
    hcl: Vec<String>,
}

/// The ports of one agent.
struct Ports {
    http: Port,
    https: Port,
    server: Port,
    lan: Port,
    wan: Port,
}

impl Ports {
    fn claim() -> Result<Self, Error> {
        let port = Port::claim;
        Ok(Self { http: port()?, https: port()?, server: port()?, lan: port()?, wan: port()? })
    }
}

impl ConsulPlan {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, acl: false, tls: false, socket: false, hcl: Vec::new() }
    }

    /// With ACL: everything is denied but to the management token and to tokens that are made.
    pub fn acl(mut self) -> Self {
        self.acl = true;
        self
    }

    /// With an HTTPS port, which demands client certificates; the plain one stays. The certificates of the agents are for
    /// `localhost` and `127.0.0.1`.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a Unix socket beside the port of [`Consul::local`].
    pub fn socket(mut self) -> Self {
        self.socket = true;
        self
    }

    /// More configuration for each agent, for instance `use_streaming_backend = false`.
    pub fn hcl(mut self, hcl: impl Into<String>) -> Self {
        self.hcl.push(hcl.into());
        self
    }

    /// Starts all agents and waits at most 30 s until each has joined.
    ///
    /// # Errors
    /// When no fit consul is found (the error says how to get one), or one does not join; the error carries the output.
    ///
    /// # Cancel safety
    /// Dropping the future kills what was started.
    pub async fn start(self) -> Result<Consul, Error> {
        let consul = binary::find()?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_start(consul.clone()).await {
                Err(e) if tries < STARTS && e.output().contains("address already in use") => {}
                other => return other,
            }
        }
    }

    async fn try_start(&self, consul: PathBuf) -> Result<Consul, Error> {
        let dir = tempfile::Builder::new()
            .prefix("meshwork-consul-")
            .tempdir()
            .map_err(|e| Error::new("creating a directory for the data of consul").with_source(e))?;
        if self.tls {
            certify(&consul, dir.path())?;
        }
        let names: Vec<String> = match self.kind {
            Kind::Dev | Kind::Server => vec!["server".to_owned()],
            Kind::Servers(count) => (1..=count).map(|n| format!("server-{n}")).collect(),
            Kind::WithClient => vec!["server".to_owned(), CLIENT.to_owned()],
            Kind::Datacenters(count) => (1..=count).map(|n| format!("dc{n}")).collect(),
        };
        let ports = names.iter().map(|_| Ports::claim()).collect::<Result<Vec<_>, _>>()?;
        let args: Vec<_> = (0..names.len()).map(|n| self.args(n, &names, &ports, dir.path())).collect();
        let agents = names.into_iter().zip(ports).zip(args).map(|((name, ports), args)| Agent {
            data: self.keeps_data().then(|| dir.path().join(&name)),
            name,
            http: ports.http,
            https: self.tls.then_some(ports.https),
            held: vec![ports.server, ports.lan, ports.wan],
            consul: consul.clone(),
            args,
            token: self.acl.then(|| MANAGEMENT.to_owned()),
            running: Mutex::default(),
        });
        let agents = agents.collect();
        let token = self.acl.then(|| MANAGEMENT.to_owned());
        let consul = Consul { agents, consul, token, dir };
        for agent in consul.agents() {
            agent.start()?;
        }
        for agent in consul.agents() {
            agent.ready(READY).await?;
        }
        if let Kind::Datacenters(count) = self.kind {
            eventually(READY, "the datacenters know each other", || async {
                let mut known = true;
                for agent in consul.agents() {
                    let said = agent.must("GET", "/v1/catalog/datacenters", "").await.unwrap_or_default();
                    known &= (1..=count).all(|n| said.contains(&format!("\"dc{n}\"")));
                    for n in 1..=count {
                        let path = format!("/v1/catalog/nodes?dc=dc{n}");
                        known &= agent.ask("GET", &path, "").await.is_ok_and(|(status, _)| status == 200);
                    }
                }
                known
            })
            .await?;
        }
        Ok(consul)
    }

    fn keeps_data(&self) -> bool {
        matches!(self.kind, Kind::Server | Kind::Servers(_) | Kind::WithClient)
    }

    fn args(&self, n: usize, names: &[String], ports: &[Ports], dir: &Path) -> Vec<OsString> {
        let (name, own) = (&names[n], &ports[n]);
        let is_client = name == CLIENT;
        let has_wan = matches!(self.kind, Kind::Datacenters(_));
        let number = |port: &Port| port.number().to_string();
        let off = || "-1".to_owned();
        let mut args: Vec<OsString> = vec!["agent".into()];
        if !self.keeps_data() {
            args.push("-dev".into());
        } else if !is_client {
            let servers = if let Kind::Servers(count) = self.kind { count } else { 1 };
            args.extend(["-server".into(), format!("-bootstrap-expect={servers}").into()]);
        }
        let mut flags = vec![
            ("-node", name.clone()),
            // Wiped and started again it is the same node.
            ("-node-id", format!("6d657368-776f-726b-0000-{:08x}{n:04x}", own.lan.number())),
            ("-bind", "127.0.0.1".to_owned()),
            ("-client", "127.0.0.1".to_owned()),
            ("-http-port", number(&own.http)),
            ("-https-port", if self.tls { number(&own.https) } else { off() }),
            ("-grpc-port", off()),
            ("-grpc-tls-port", off()),
            ("-dns-port", off()),
            ("-server-port", number(&own.server)),
            ("-serf-lan-port", number(&own.lan)),
            ("-serf-wan-port", if has_wan { number(&own.wan) } else { off() }),
            ("-log-level", "warn".to_owned()),
            ("-hcl", QUICK.to_owned()),
        ];
        if has_wan {
            flags.push(("-datacenter", name.clone()));
            flags.extend(ports[..n].iter().map(|p| ("-retry-join-wan", p.wan.addr().to_string())));
            flags.push(("-hcl", "retry_interval_wan = \"500ms\"".to_owned()));
        }
        let others = ports.iter().enumerate().filter(|(other, _)| *other != n);
        let joined: Vec<&Ports> = match self.kind {
            Kind::WithClient if is_client => vec![&ports[0]],
            Kind::Servers(_) => others.map(|(_, ports)| ports).collect(),
            _ => Vec::new(),
        };
        if !joined.is_empty() {
            flags.extend(joined.iter().map(|ports| ("-retry-join", ports.lan.addr().to_string())));
            flags.push(("-hcl", "retry_interval = \"500ms\"".to_owned()));
        }
        if self.acl {
            flags.push((
                "-hcl",
                format!(
                    "acl {{ enabled = true default_policy = \"deny\" tokens {{ initial_management = \"{MANAGEMENT}\" \
                     agent = \"{MANAGEMENT}\" }} }}"
                ),
            ));
        }
        let file = |name: &str| dir.join(name).display().to_string();
        if self.tls {
            flags.push((
                "-hcl",
                format!(
                    "tls {{ defaults {{ ca_file = \"{}\" cert_file = \"{}\" key_file = \"{}\" }} \
                     https {{ verify_incoming = true }} }}",
                    file(CA),
                    file(SERVER_CERT),
                    file(SERVER_KEY)
                ),
            ));
        }
        if self.socket && n + 1 == names.len() {
            flags.push(("-hcl", format!("addresses {{ http = \"127.0.0.1 unix://{}\" }}", file(SOCKET))));
        }
        flags.extend(self.hcl.iter().map(|hcl| ("-hcl", hcl.clone())));
        args.extend(flags.into_iter().flat_map(|(flag, value)| [flag.into(), value.into()]));
        if self.keeps_data() {
            args.extend(["-data-dir".into(), dir.join(name).into_os_string()]);
        }
        args
    }
}

/// Makes a certificate authority, a server's and a client's certificate in `dir`.
fn certify(consul: &Path, dir: &Path) -> Result<(), Error> {
    for args in [
        &["tls", "ca", "create"][..],
        &["tls", "cert", "create", "-server", "-additional-ipaddress=127.0.0.1"],
        &["tls", "cert", "create", "-client"],
    ] {
        let attempted = format!("running consul {args:?}");
        let output = Command::new(consul).args(args).current_dir(dir).output();
        let output = output.map_err(|e| Error::new(attempted.clone()).with_source(e))?;
        if !output.status.success() {
            return Err(Error::new(attempted).with_output(String::from_utf8_lossy(&output.stderr)));
        }
    }
    fs::metadata(dir.join(CLIENT_CERT))
        .map(drop)
        .map_err(|e| Error::new("making certificates with consul").with_source(e))
}
