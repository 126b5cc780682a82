//! Our small client of the agent's HTTP API: one request, its deadline, its answer.
//!
//! It adds the token, the namespace and the partition, reads the token and the certificates again when they
//! may have been rotated, and never retries but for that.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use meshwork_core::{Error, ErrorKind};
use meshwork_tls::ClientTls;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use tokio::time::{self, Instant};

use crate::{
    address::Address,
    config::ConsulConfig,
    errors,
    roll::Roll,
    tokens::Tokens,
    transport::{Transport, Turn},
};

const TOKEN: &str = "X-Consul-Token";
/// No answer that we ask for is larger.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// How long the body of an answer may take once its head is there.
const BODY: Duration = Duration::from_secs(10);

/// A client of one agent.
pub(crate) struct Agent {
    config: ConsulConfig,
    address: Address,
    /// The address as text.
    name: Arc<str>,
    pub(crate) tokens: Tokens,
    tls: ClientTls,
    transport: Mutex<Option<(Arc<ClientConfig>, Arc<Transport>)>>,
    /// The lanes there are, open or waiting for their turn.
    pub(crate) roll: Roll,
    /// Requests sent, for people who ask what it costs.
    pub(crate) requests: AtomicUsize,
}

/// One request.
pub(crate) struct Ask<'a> {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    limit: Option<Duration>,
    attempted: &'a str,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whose it is, for errors.
    from: Arc<str>,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<'a> Ask<'a> {
    /// A question; `attempted` is what errors say was being done.
    pub(crate) fn get(path: impl Into<String>, attempted: &'a str) -> Self {
        let (query, body, limit) = (Vec::new(), None, None);
        Self { method: Method::GET, path: path.into(), query, body, limit, attempted }
    }

    /// An order.
    pub(crate) fn put(path: impl Into<String>, attempted: &'a str) -> Self {
        Self { method: Method::PUT, ..Self::get(path, attempted) }
    }

    /// A question with a body.
    pub(crate) fn post(path: impl Into<String>, attempted: &'a str) -> Self {
        Self { method: Method::POST, ..Self::get(path, attempted) }
    }

    /// With a parameter.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// With a parameter, if there is one.
    pub(crate) fn maybe(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// With a JSON body.
    pub(crate) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(body.to_string().into());
        self
    }

    /// With another limit than the request timeout.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
}

impl Answer {
    /// The answer, if it is a 200.
    ///
    /// # Errors
    /// What else it is.
    pub(crate) fn good(self, attempted: &str) -> Result<Self, Error> {
        match self.status {
            StatusCode::OK => Ok(self),
            status => Err(errors::of_status(&format!("{attempted} at {}", self.from), status, &self.body)),
        }
    }

    /// The content.
    ///
    /// # Errors
    /// `Protocol` when it is not what was asked for.
    pub(crate) fn json<T: DeserializeOwned>(&self, attempted: &str) -> Result<T, Error> {
        let context = || format!("{attempted} at {}", self.from);
        serde_json::from_slice(&self.body).map_err(|e| errors::of_content(&context(), e, &self.body))
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Agent {
    pub(crate) fn new(config: ConsulConfig) -> Result<Self, Error> {
        let address = config.address()?;
        Ok(Self {
            name: address.to_string().into(),
            address,
            tokens: Tokens::of(&config),
            tls: config.client_tls()?,
            config,
            transport: Mutex::new(None),
            roll: Roll::default(),
            requests: AtomicUsize::new(0),
        })
    }

    pub(crate) fn config(&self) -> &ConsulConfig {
        &self.config
    }

    /// The connections; made at the first call.
    ///
    /// # Errors
    /// `Invalid` when TLS cannot be set up.
    pub(crate) async fn transport(&self) -> Result<Arc<Transport>, Error> {
        if let Some(made) = self.made() {
            return Ok(made.1);
        }
        Ok(self.make(self.files().await?))
    }

    /// Reads token and certificates again and goes on with what they are now. What cannot be read stays as
    /// it was.
    pub(crate) async fn refresh(&self) {
        if let Err(error) = self.tokens.refresh().await {
            tracing::debug!(error = %meshwork_core::ErrorChain(&error), "token stays as it was");
        }
        let Some((known, _)) = self.made() else { return };
        if let Ok(files) = self.files().await
            && !Arc::ptr_eq(&files, &known)
        {
            self.make(files);
        }
    }

    /// What the certificates are now; over a way without TLS none are looked at.
    async fn files(&self) -> Result<Arc<ClientConfig>, Error> {
        match (&self.address, self.made()) {
            (Address::Tcp { tls: true, .. }, _) => self.tls.current().await,
            (_, Some((known, _))) => Ok(known),
            (_, None) => meshwork_tls::trusting_nobody().map(Arc::new),
        }
    }

    fn made(&self) -> Option<(Arc<ClientConfig>, Arc<Transport>)> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn make(&self, files: Arc<ClientConfig>) -> Arc<Transport> {
        let server_name = self.tls.server_name();
        let new = Arc::new(Transport::new(&self.address, &files, server_name, self.config.max_queries));
        *self.transport.lock().unwrap_or_else(PoisonError::into_inner) = Some((files, Arc::clone(&new)));
        new
    }

    /// Asks, and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// When there was none in time, or the token is refused (`Denied`).
    ///
    /// # Cancel safety
    /// Dropping the future cuts the request; the agent may have done what it asked.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        self.exchange(ask, None).await
    }

    /// The same for a blocking query, which has its turn.
    pub(crate) async fn ask_in_turn(&self, ask: Ask<'_>, turn: &Turn) -> Result<Answer, Error> {
        self.exchange(ask, Some(turn)).await
    }

    async fn exchange(&self, ask: Ask<'_>, turn: Option<&Turn>) -> Result<Answer, Error> {
        let limit = ask.limit.unwrap_or(self.config.request_timeout);
        let deadline = Instant::now() + limit;
        let sent = self.tokens.current().await?;
        let answer = self.attempt(&ask, turn, deadline, limit).await?;
        if !matches!(answer.status.as_u16(), 401 | 403) {
            return Ok(answer);
        }
        // A token that was rotated a moment ago is not a refusal.
        self.refresh().await;
        if self.tokens.current().await? == sent {
            return Ok(answer);
        }
        self.attempt(&ask, turn, deadline, limit).await
    }

    async fn attempt(
        &self,
        ask: &Ask<'_>,
        turn: Option<&Turn>,
        deadline: Instant,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let transport = self.transport().await?;
        let request = self.request(&transport, ask).await?;
        let attempted = || format!("{} at {}", ask.attempted, self.name);
        let late =
            |what: &str, limit| Error::unavailable(format!("{}: no {what} within {limit:.1?}", attempted()));
        let _seat = match turn {
            Some(_) => None,
            None => {
                let seat = time::timeout_at(deadline, transport.seat()).await;
                Some(seat.map_err(|_elapsed| late("free connection", limit))?)
            }
        };
        self.requests.fetch_add(1, Relaxed);
        let sent = async {
            match turn {
                Some(turn) => turn.send(request).await,
                None => transport.send(request).await,
            }
        };
        let response = time::timeout_at(deadline, sent)
            .await
            .map_err(|_elapsed| late("answer", limit))?
            .map_err(|e| errors::of_transport(attempted(), e))?;
        let (head, body) = response.into_parts();
        let read = time::timeout(BODY.min(limit.max(self.config.request_timeout)), read(body));
        let body = read
            .await
            .map_err(|_elapsed| late("end of the answer", BODY))?
            .map_err(|e| errors::of_body(attempted(), e))?
            .ok_or_else(|| {
                let text = format!("{}: an answer of more than {} MiB", attempted(), MAX_BODY >> 20);
                Error::new(ErrorKind::Protocol, text)
            })?;
        Ok(Answer { from: Arc::clone(&self.name), status: head.status, headers: head.headers, body })
    }

    async fn request(
        &self,
        transport: &Transport,
        ask: &Ask<'_>,
    ) -> Result<Request<crate::transport::Body>, Error> {
        let mut uri = format!("{}{}", transport.base(), ask.path);
        let own = [("ns", &self.config.namespace), ("partition", &self.config.partition)];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let asked = ask.query.iter().map(|(name, value)| (*name, value.as_str()));
        let is_asked = |name: &str| ask.query.iter().any(|(other, _)| *other == name);
        let all = asked.chain(own.filter(|(name, _)| !is_asked(name)));
        for (place, (name, value)) in all.enumerate() {
            uri.push(if place == 0 { '?' } else { '&' });
            uri.push_str(name);
            if !value.is_empty() {
                uri.push('=');
                uri.push_str(&encoded(value));
            }
        }
        let mut request = Request::builder().method(&ask.method).uri(uri);
        if let Some(token) = self.tokens.current().await? {
            let mut token = HeaderValue::from_str(token.reveal())
                .map_err(|e| Error::invalid("the ACL token is no text of a header").with_source(e))?;
            token.set_sensitive(true);
            request = request.header(TOKEN, token);
        }
        if ask.body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(ask.body.clone().unwrap_or_default()).boxed())
            .map_err(|e| Error::invalid(ask.attempted.to_owned()).with_source(e))
    }
}

/// The whole body, or `None` when it is too large.
async fn read(mut body: Incoming) -> Result<Option<Bytes>, meshwork_core::BoxError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if whole.len() + data.len() > MAX_BODY {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(Some(whole.freeze()))
}

/// A path segment or a value of a query (RFC 3986: all but unreserved characters are escaped).
pub(crate) fn encoded(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => all.push(char::from(byte)),
            _ => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        assert_eq!(encoded("a b/ü&c=d"), "a%20b%2F%C3%BC%26c%3Dd");
        assert_eq!(encoded("A-z_0.~"), "A-z_0.~");
    }

    #[tokio::test]
    async fn requests_carry_token_namespace_and_parameters() {
        let config = ConsulConfig {
            token: Some("t".into()),
            namespace: Some("team a".into()),
            partition: Some("p".into()),
            ..ConsulConfig::default()
        };
        let agent = Agent::new(config).unwrap();
        let transport = agent.transport().await.unwrap();
        let ask = Ask::get("/v1/x", "testing").with("tag", "a&b").with("stale", "").with("ns", "other");
        let request = agent.request(&transport, &ask).await.unwrap();
        assert_eq!(
            request.uri().to_string(),
            "http://127.0.0.1:8500/v1/x?tag=a%26b&stale&ns=other&partition=p"
        );
        assert_eq!(request.headers()[TOKEN], "t");
    }
}
