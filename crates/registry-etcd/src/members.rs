//! The members of one etcd cluster, and the one of them that is used.
//!
//! Every request goes to one member until it fails or stays silent for the attempt timeout; then all
//! others are asked, one after the other a moment apart, and the first that answers a linearizable read
//! takes over. Each answer must come from the cluster that answered first. A request that is refused for
//! its token is sent again after one login.

mod search;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    GetResponse, LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse,
    ResponseHeader, TxnResponse,
};
use meshwork_core::{Error, ErrorKind};
use tokio::{sync, time, time::Instant};

use crate::{
    config::{EtcdConfig, address},
    endpoints::Endpoints,
    errors,
    link::{Access, Link},
    login::Login,
    random,
};

/// How often one request is sent again after a login: users may change again in between.
const RENEWALS: usize = 2;
/// Between two looks at a password file while etcd refuses us.
const GLANCE: Duration = Duration::from_secs(1);

/// An answer that tells which cluster gave it, and at which revision.
pub(crate) trait Headed {
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! headed {
    ($($answer:ty),*) => { $(impl Headed for $answer {
        fn header(&self) -> Option<&ResponseHeader> {
            self.header()
        }
    })* };
}
headed!(
    GetResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    TxnResponse
);

/// Why a call has no answer.
pub(crate) enum Failure {
    /// etcd itself refused: worth a look at its reason.
    Refused(etcd_client::Error),
    /// No member answered, or not as one may.
    Unanswered(Error),
}

impl Failure {
    pub(crate) fn into_error(self, context: impl Into<Box<str>>) -> Error {
        match self {
            Self::Refused(cause) => errors::of(context, cause),
            Self::Unanswered(error) => Error::new(error.kind(), context).with_source(error),
        }
    }
}

/// The members and the link in use.
pub(crate) struct Members {
    endpoints: Endpoints,
    default_scheme: &'static str,
    /// What the members said of themselves, where they are asked.
    advertised: Mutex<Vec<Box<str>>>,
    /// A process begins at a member of its own choice, so that many spread over all.
    first: usize,
    access: Access,
    probe_key: Box<str>,
    attempt_timeout: Duration,
    request_timeout: Duration,
    /// 0 until the first answer.
    cluster: AtomicU64,
    state: sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    /// When the last search found nobody, and why: whoever waited for it shares the answer.
    failed: Option<(Instant, Arc<Error>)>,
}

impl Members {
    pub(crate) fn new(config: &EtcdConfig, endpoints: Endpoints) -> Result<Self, Error> {
        Ok(Self {
            endpoints,
            default_scheme: config.default_scheme(),
            advertised: Mutex::default(),
            first: random::number() as usize,
            access: Access::new(config)?,
            probe_key: format!("/{}/", config.prefix.trim_matches('/')).into(),
            attempt_timeout: config.attempt_timeout,
            request_timeout: config.request_timeout,
            cluster: AtomicU64::new(0),
            state: sync::Mutex::default(),
        })
    }

    /// The longest that one attempt may take.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// The longest that one operation may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Sends one request, and again to another member when the first one stays silent or fails, within
    /// the request timeout. Only for requests that may arrive twice.
    pub(crate) async fn call<T: Headed, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        send: impl Fn(&Link) -> F,
    ) -> Result<T, Failure> {
        self.call_within(self.attempt_timeout, self.request_timeout, send).await
    }

    /// The same with a patience of its own.
    pub(crate) async fn call_within<T: Headed, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        attempt: Duration,
        all: Duration,
        send: impl Fn(&Link) -> F,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + all;
        let mut last = None;
        for _ in 0..3 {
            let link = match time::timeout_at(deadline, self.link()).await {
                Err(_elapsed) => break,
                Ok(link) => link.map_err(Failure::Unanswered)?,
            };
            match time::timeout_at(deadline, self.try_once(&link, attempt, &send)).await {
                Err(_elapsed) => break,
                Ok(Err(Failure::Unanswered(error))) if error.kind().is_transient() => last = Some(error),
                Ok(answer) => return answer,
            }
        }
        Err(Failure::Unanswered(last.unwrap_or_else(|| silent(all))))
    }

    /// Sends one request once: for what must not arrive twice.
    pub(crate) async fn once<T: Headed, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        send: impl Fn(&Link) -> F,
    ) -> Result<T, Failure> {
        let link = self.link().await.map_err(Failure::Unanswered)?;
        self.try_once(&link, self.attempt_timeout, &send).await
    }

    async fn try_once<T: Headed, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        link: &Link,
        attempt: Duration,
        send: &impl Fn(&Link) -> F,
    ) -> Result<T, Failure> {
        let mut renewals = 0;
        loop {
            let token = self.token(link).await.map_err(Failure::Unanswered)?;
            match time::timeout(attempt, send(link)).await {
                Ok(Ok(answer)) => {
                    let checked = self.check(answer.header()).map_err(Failure::Unanswered);
                    checked.inspect_err(|_| link.suspect())?;
                    self.proved(token);
                    return Ok(answer);
                }
                Ok(Err(cause)) if renewals < RENEWALS && self.is_mended_by_login(&cause) => {
                    // It was surely not done: also what must not be sent twice may be sent again.
                    renewals += 1;
                    self.renew(link, token).await.map_err(Failure::Unanswered)?;
                }
                Ok(Err(cause)) if errors::is_worth_another_member(&cause) => {
                    link.suspect();
                    let context = format!("asking {}", link.address);
                    return Err(Failure::Unanswered(errors::of(context, cause)));
                }
                Ok(Err(cause)) => return Err(Failure::Refused(cause)),
                Err(_elapsed) => {
                    link.suspect();
                    return Err(Failure::Unanswered(silent_member(&link.address, attempt)));
                }
            }
        }
    }

    /// Whether another login mends it. Without one of ours, our certificate says who we are: then only the
    /// users have changed in between, and asking again is enough.
    pub(crate) fn is_mended_by_login(&self, cause: &etcd_client::Error) -> bool {
        errors::is_token_refused(cause) && (self.access.login().is_some() || !errors::is_nobody(cause))
    }

    /// Whether a watch was refused for what another stream mends: its token, or, as older releases of etcd
    /// put it, want of permission while there is another token than the stream's.
    pub(crate) fn is_login_behind(&self, reason: &str, token: u64) -> bool {
        let Some(login) = self.access.login() else { return false };
        errors::is_reason_token(reason) || errors::is_reason_permission(reason) && login.number() != token
    }

    /// Which token is sent now; the first request of all logs in.
    pub(crate) async fn token(&self, link: &Link) -> Result<u64, Error> {
        let Some(login) = self.access.login() else { return Ok(0) };
        if login.number() == 0 {
            self.renew(link, 0).await?;
        }
        Ok(login.number())
    }

    /// Sees to another token than this one, which was refused.
    pub(crate) async fn renew(&self, link: &Link, token: u64) -> Result<(), Error> {
        let Some(login) = self.access.login() else { return Ok(()) };
        let renewed = login.renew(&link.client, token).await;
        renewed.inspect_err(|error| {
            if error.kind().is_transient() {
                link.suspect();
            }
        })
    }

    /// The same, however long etcd refuses us: looks every second whether there is another password, and asks
    /// etcd no more often than it may be asked.
    pub(crate) async fn admitted(&self, link: &Link, token: u64) -> Result<(), Error> {
        loop {
            match self.renew(link, token).await {
                Err(error) if error.kind() == ErrorKind::Denied => time::sleep(GLANCE).await,
                outcome => return outcome,
            }
        }
    }

    /// Which token is sent now.
    pub(crate) fn token_number(&self) -> u64 {
        self.access.login().map_or(0, Login::number)
    }

    /// This token, or a later one, was taken.
    pub(crate) fn proved(&self, token: u64) {
        if let Some(login) = self.access.login() {
            login.proved(token);
        }
    }

    /// Returns when the member of `link` is none of ours any more.
    pub(crate) async fn left(&self, link: &Link) {
        let mut changes = self.endpoints.changes();
        while self.addresses().contains(&link.address) {
            changes.next().await;
            // What members said of themselves is as old as the endpoints.
            self.lock_advertised().clear();
        }
    }

    /// The link in use; searches for one when there is none or the last one is suspected.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Error> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        let mut avoid = None;
        if let Some(link) = &state.link {
            if !link.is_suspected() {
                return Ok(Arc::clone(link));
            }
            avoid = Some(link.address.clone());
        }
        if let Some((at, error)) = &state.failed
            && *at >= asked
        {
            return Err(errors::echo(error));
        }
        match self.search(avoid.as_deref()).await {
            Ok(link) => {
                tracing::debug!(member = %link.address, "etcd member in use");
                let link = Arc::new(link);
                *state = State { link: Some(Arc::clone(&link)), failed: None };
                Ok(link)
            }
            Err(error) => {
                let error = Arc::new(error);
                state.failed = Some((Instant::now(), Arc::clone(&error)));
                Err(errors::again("no etcd member can be used", &error))
            }
        }
    }

    /// The revision that an answer names, if it came from the cluster that answered first.
    pub(crate) fn check(&self, header: Option<&ResponseHeader>) -> Result<i64, Error> {
        let protocol = |text: String| Error::new(ErrorKind::Protocol, text);
        let header = header.ok_or_else(|| protocol("etcd answered without a header".to_owned()))?;
        let (cluster, mine) = (header.cluster_id(), &self.cluster);
        let known = match mine.compare_exchange(0, cluster, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => cluster,
            Err(known) => known,
        };
        if known != cluster {
            let text = format!("etcd cluster {cluster:x} answered where {known:x} did before");
            return Err(protocol(text));
        }
        Ok(header.revision())
    }

    /// Takes the addresses that the members advertise beside the configured ones.
    pub(crate) async fn sync(&self) -> Result<(), Failure> {
        let list = self
            .call(|link| {
                let mut cluster = link.cluster.clone();
                async move { cluster.member_list().await }
            })
            .await?;
        let advertised = list.members().iter().filter(|member| !member.is_learner());
        let urls = advertised.flat_map(|member| member.client_urls());
        *self.lock_advertised() = urls
            .filter_map(|url| address(url, self.default_scheme).ok())
            .map(String::into_boxed_str)
            .collect();
        Ok(())
    }

    /// The configured addresses, beginning with the one of our choice, then those that are advertised.
    fn addresses(&self) -> Vec<Box<str>> {
        let mut all = self.endpoints.addresses();
        let first = self.first % all.len().max(1);
        all.rotate_left(first);
        for address in self.lock_advertised().iter() {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    fn lock_advertised(&self) -> std::sync::MutexGuard<'_, Vec<Box<str>>> {
        self.advertised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

fn silent(patience: Duration) -> Error {
    Error::unavailable(format!("no etcd member answered within {patience:?}"))
}

fn silent_member(address: &str, patience: Duration) -> Error {
    Error::unavailable(format!("{address} did not answer within {patience:?}"))
}
