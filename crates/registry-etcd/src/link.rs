//! One connection to one member.

use std::{fmt, time::Duration};

use etcd_client::{Channel, Client, ClusterClient, ConnectOptions, KvClient, LeaseClient, WatchClient};
use meshwork_core::Error;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::errors;

/// etcd answers a client that pings more often than each 5 s with `too_many_pings`.
const PING_EVERY: Duration = Duration::from_secs(6);
/// How long a ping may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Answers up to this size are taken: a page of records, a batch of events.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// One connection to one member, dialled by its first request. Once suspected it is never used again.
pub(crate) struct Link {
    pub(crate) address: Box<str>,
    pub(crate) kv: KvClient,
    pub(crate) lease: LeaseClient,
    pub(crate) watch: WatchClient,
    pub(crate) cluster: ClusterClient,
    suspected: CancellationToken,
}

impl Link {
    /// Prepares the connection; does no I/O.
    pub(crate) async fn new(address: &str, connect_timeout: Duration) -> Result<Self, Error> {
        let invalid = || Error::invalid(format!("etcd endpoint `{address}`"));
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|e| invalid().with_source(e))?
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(2 << 20);
        let options = ConnectOptions::new().with_require_leader(true);
        let client = Client::from_channel(Channel::Tonic(endpoint.connect_lazy()), Some(options))
            .await
            .map_err(|e| errors::of(format!("preparing etcd endpoint `{address}`"), e))?;
        Ok(Self {
            address: address.into(),
            kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
            cluster: client.cluster_client(),
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
