//! One connection to one member.

use std::{fmt, sync::Arc, time::Duration};

use etcd_client::{Channel, Client, ClusterClient, ConnectOptions, KvClient, LeaseClient, WatchClient};
use meshwork_core::{BoxError, Error};
use meshwork_tls::ClientTls;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::http::{Request, Uri},
    transport::Endpoint,
};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::{
    config::{EtcdConfig, is_https},
    errors,
    login::Login,
    tls::Dialer,
};

/// etcd answers a client that pings more often than each 5 s with `too_many_pings`.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Answers up to this size are taken: a page of records, a batch of events.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Where etcd looks for the token.
const TOKEN: &str = "token";

/// How any member is spoken to.
pub(crate) struct Access {
    connect_timeout: Duration,
    tls: Arc<ClientTls>,
    login: Option<Arc<Login>>,
}

impl Access {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Self, Error> {
        let tls = Arc::new(config.client_tls()?);
        let login = Login::of(config).map(Arc::new);
        Ok(Self { connect_timeout: config.attempt_timeout, tls, login })
    }

    /// Whom we say we are, if anybody.
    pub(crate) fn login(&self) -> Option<&Login> {
        self.login.as_deref()
    }
}

/// One connection to one member, dialled by its first request. Once suspected it is never used again.
pub(crate) struct Link {
    pub(crate) address: Box<str>,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
    pub(crate) cluster: ClusterClient,
    /// What logs in.
    pub(crate) client: Client,
    suspected: CancellationToken,
}

impl Link {
    /// Prepares the connection; does no I/O.
    pub(crate) async fn new(address: &str, access: &Access) -> Result<Self, Error> {
        let invalid = || Error::invalid(format!("etcd endpoint `{address}`"));
        let to: Uri = address.parse().map_err(|e| invalid().with_source(e))?;
        let encrypted = is_https(address);
        // TLS is ours: the transport must not look for its own.
        let wire = if encrypted { address.replacen("https", "http", 1) } else { address.to_owned() };
        let endpoint = Endpoint::from_shared(wire)
            .map_err(|e| invalid().with_source(e))?
            .origin(to.clone())
            .connect_timeout(access.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20);
        let channel = if encrypted {
            let dialer = Dialer::new(Arc::clone(&access.tls), to, access.connect_timeout);
            endpoint.connect_with_connector_lazy(dialer)
        } else {
            endpoint.connect_lazy()
        };
        let channel = match &access.login {
            Some(login) => Channel::Custom(with_token(channel, Arc::clone(login))),
            None => Channel::Tonic(channel),
        };
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(channel, Some(options))
            .await
            .map_err(|e| errors::of(format!("preparing etcd endpoint `{address}`"), e))?;
        Ok(Self {
            address: address.into(),
            kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
            cluster: client.cluster_client(),
            client,
            suspected: CancellationToken::new(),
        })
    }

    /// Nothing new is sent here from now on, and its streams end.
    pub(crate) fn suspect(&self) {
        self.suspected.cancel();
    }

    pub(crate) fn is_suspected(&self) -> bool {
        self.suspected.is_cancelled()
    }

    /// Returns when the link is suspected.
    pub(crate) async fn lost(&self) {
        self.suspected.cancelled().await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).field("lost", &self.is_suspected()).finish()
    }
}

/// Every request carries the token of the moment in which it is sent.
fn with_token(
    channel: tonic::transport::Channel,
    login: Arc<Login>,
) -> BoxCloneSyncService<Request<Body>, tonic::codegen::http::Response<Body>, BoxError> {
    let channel = channel.map_err(BoxError::from).map_request(move |mut request: Request<Body>| {
        // A login needs none, and must not fail for an old one.
        let token = login.header().filter(|_| !request.uri().path().ends_with("/Authenticate"));
        if let Some(token) = token {
            request.headers_mut().insert(TOKEN, token);
        }
        request
    });
    BoxCloneSyncService::new(channel)
}
