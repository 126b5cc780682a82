//! Plain HTTP calls over a channel: verb last, then headers and body, then `send`.

use std::{borrow::Cow, fmt};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{self, InvalidHeaderName, InvalidHeaderValue},
};
use http_body_util::{BodyExt, Full};
use serde::{Serialize, de::DeserializeOwned};
use tower_service::Service;

use crate::{Body, CallError, CallErrorKind, CallOptions, Channel};

/// The most bytes of an answer that [`Response::bytes`] and its siblings read, unless told otherwise.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

impl Channel {
    /// A `GET` of a path with its query, such as `/v1/users/7?full=1`.
    pub fn get(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    /// A `POST`.
    pub fn post(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// A `PUT`.
    pub fn put(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    /// A `PATCH`.
    pub fn patch(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::PATCH, path)
    }

    /// A `DELETE`.
    pub fn delete(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// A `HEAD`.
    pub fn head(&self, path: impl AsRef<str>) -> RequestBuilder {
        self.request(Method::HEAD, path)
    }

    /// A request with any method.
    pub fn request(&self, method: Method, path: impl AsRef<str>) -> RequestBuilder {
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        let builder = RequestBuilder { channel: self.clone(), request: Ok(request) };
        let path = path.as_ref();
        builder.try_set(|request| {
            if !path.starts_with('/') {
                let shown = path.escape_debug();
                return Err(CallError::new(
                    CallErrorKind::Invalid,
                    format!("path `{shown}` without a slash"),
                ));
            }
            *request.uri_mut() = path.parse::<Uri>().map_err(|error| {
                let shown = path.escape_debug();
                CallError::new(CallErrorKind::Invalid, format!("path `{shown}`")).with_source(error)
            })?;
            Ok(())
        })
    }
}

/// A plain HTTP request on its way to [`send`](Self::send). What cannot be sent fails there.
#[must_use = "a request is sent by `send`"]
pub struct RequestBuilder {
    channel: Channel,
    request: Result<Request<Full<Bytes>>, CallError>,
}

impl RequestBuilder {
    /// Adds a header.
    pub fn header<N, V>(self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<HeaderFault>>,
        V: TryInto<HeaderValue, Error: Into<HeaderFault>>,
    {
        self.try_set(|request| {
            let fault = |fault: HeaderFault| fault.0;
            let name = name.try_into().map_err(|error| fault(error.into()))?;
            let value = value.try_into().map_err(|error| fault(error.into()))?;
            request.headers_mut().append(name, value);
            Ok(())
        })
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        self.try_set(|request| {
            *request.body_mut() = Full::new(body.into());
            Ok(())
        })
    }

    /// Sets the body to the JSON of `value`, and the content type unless one is set.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.try_set(|request| {
            let json = serde_json::to_vec(value).map_err(|error| {
                CallError::new(CallErrorKind::Invalid, "writing the request as JSON").with_source(error)
            })?;
            *request.body_mut() = Full::new(json.into());
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
            Ok(())
        })
    }

    /// Changes the options of this one call.
    pub fn options(mut self, set: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        self.channel = self.channel.with_options(set);
        self
    }

    /// Sends it and waits for the head of the answer. An error status is an answer, not an error.
    ///
    /// # Errors
    /// [`CallError`]; [`Invalid`](CallErrorKind::Invalid) when the request could not be built.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn send(self) -> Result<Response, CallError> {
        let Self { mut channel, request } = self;
        let request = request.map_err(|error| error.with_service(channel.service()))?;
        let answer = channel.call(request).await?;
        Ok(Response { answer, limit: BODY_LIMIT })
    }

    fn try_set(mut self, set: impl FnOnce(&mut Request<Full<Bytes>>) -> Result<(), CallError>) -> Self {
        if let Ok(request) = &mut self.request
            && let Err(error) = set(request)
        {
            self.request = Err(error);
        }
        self
    }
}

impl fmt::Debug for RequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBuilder").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// Why a text is no header; made by the conversions of the `http` crate.
#[derive(Debug)]
pub struct HeaderFault(CallError);

impl From<InvalidHeaderName> for HeaderFault {
    fn from(error: InvalidHeaderName) -> Self {
        Self(CallError::new(CallErrorKind::Invalid, "name of a header").with_source(error))
    }
}

impl From<InvalidHeaderValue> for HeaderFault {
    fn from(error: InvalidHeaderValue) -> Self {
        Self(CallError::new(CallErrorKind::Invalid, "value of a header").with_source(error))
    }
}

impl From<std::convert::Infallible> for HeaderFault {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// The answer to a plain HTTP call.
#[derive(Debug)]
pub struct Response {
    answer: http::Response<Body>,
    limit: usize,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// The answer itself, to read its body as it comes.
    pub fn into_inner(self) -> http::Response<Body> {
        self.answer
    }

    /// Reads at most so many bytes of body. Default 4 MiB.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// The answer, unless its status is an error (400 and up).
    ///
    /// # Errors
    /// [`Status`](CallErrorKind::Status).
    pub fn error_for_status(self) -> Result<Self, CallError> {
        let status = self.status();
        if status.is_client_error() || status.is_server_error() {
            let error = CallError::new(CallErrorKind::Status, format!("the answer is {status}"));
            return Err(error.delivered_maybe());
        }
        Ok(self)
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Answer`](CallErrorKind::Answer) when it is larger than the limit, else what ended the body.
    ///
    /// # Cancel safety
    /// Dropping the future gives the rest of the body up.
    pub async fn bytes(self) -> Result<Bytes, CallError> {
        let limit = self.limit;
        collect(self.answer.into_body(), limit).await
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`Answer`](CallErrorKind::Answer) when it is not UTF-8.
    ///
    /// # Cancel safety
    /// As [`bytes`](Self::bytes).
    pub async fn text(self) -> Result<String, CallError> {
        let bytes = self.bytes().await?;
        String::from_utf8(bytes.into()).map_err(|error| unreadable("the answer is not UTF-8", error))
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and [`Answer`](CallErrorKind::Answer) when it is not the JSON of a `T`.
    ///
    /// # Cancel safety
    /// As [`bytes`](Self::bytes).
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, CallError> {
        let status = self.status();
        serde_json::from_slice(&self.bytes().await?)
            .map_err(|error| unreadable(format!("the answer ({status}) is not the expected JSON"), error))
    }
}

fn unreadable(
    text: impl Into<Cow<'static, str>>,
    error: impl std::error::Error + Send + Sync + 'static,
) -> CallError {
    CallError::new(CallErrorKind::Answer, text).delivered_maybe().with_source(error)
}

/// Reads a body of at most `limit` bytes; one frame is not copied.
async fn collect(mut body: Body, limit: usize) -> Result<Bytes, CallError> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() + all.len() + data.len() > limit {
            let text = format!("the answer is larger than {limit} bytes");
            return Err(CallError::new(CallErrorKind::Answer, text).delivered_maybe());
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}
