//! gRPC-Web: what browsers speak instead of gRPC, on HTTP/1.1 and HTTP/2.
//!
//! A call is turned into gRPC at the door and its answer back outside of everything else, so that deadline, drain,
//! limits and refusals are those of gRPC. See PROTOCOL-WEB.md of grpc/grpc.

use std::{
    fmt::Write,
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE},
};
use http_body::{Frame, SizeHint};
use meshwork_core::{BoxError, headers};
use pin_project_lite::pin_project;

use crate::body;

const WEB: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";
const GRPC: &str = "application/grpc";
/// The flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// How one side of a call writes its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    /// In base64, for callers that cannot read bytes.
    Text,
}

/// A call in gRPC-Web: how its caller writes, and how it wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Web {
    pub(crate) request: Encoding,
    pub(crate) answer: Encoding,
}

impl Encoding {
    /// Of a content type, and what follows it: `+proto`.
    fn of(content_type: &str) -> Option<(Self, &str)> {
        let (encoding, rest) = match content_type.strip_prefix(TEXT) {
            Some(rest) => (Self::Text, rest),
            None => (Self::Binary, content_type.strip_prefix(WEB)?),
        };
        matches!(rest.as_bytes().first(), None | Some(b'+' | b';' | b' ')).then_some((encoding, rest))
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Binary => WEB,
            Self::Text => TEXT,
        }
    }
}

/// Turns the head of a call in gRPC-Web into that of a gRPC call; `None` for everything else.
pub(crate) fn accept<B>(request: &mut Request<B>) -> Option<Web> {
    if request.method() != Method::POST {
        return None;
    }
    let map = request.headers_mut();
    let (encoding, rest) = Encoding::of(map.get(CONTENT_TYPE)?.to_str().ok()?)?;
    let grpc = HeaderValue::try_from(format!("{GRPC}{rest}")).ok()?;
    let accepted = map.get(ACCEPT).and_then(|value| Encoding::of(value.to_str().ok()?));
    let answer = accepted.map_or(encoding, |(accepted, _)| accepted);
    map.insert(CONTENT_TYPE, grpc);
    map.insert(TE, HeaderValue::from_static("trailers"));
    if encoding == Encoding::Text {
        map.remove(CONTENT_LENGTH);
    }
    Some(Web { request: encoding, answer })
}

/// Turns an answer in gRPC into one in gRPC-Web; one that is no gRPC is a layer's, and stays.
pub(crate) fn answer(answer: Response<body::Body>, web: Option<Web>) -> Response<Body> {
    let Some(web) = web else { return answer.map(Body::plain) };
    let said = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let Some(said) = said.filter(|said| headers::is_grpc(said)) else { return answer.map(Body::plain) };
    let rest = match &said[GRPC.len()..] {
        "" => "+proto",
        rest => rest,
    };
    let content_type = HeaderValue::try_from(format!("{}{rest}", web.answer.content_type()));
    let (mut head, body) = answer.into_parts();
    if let Ok(content_type) = content_type {
        head.headers.insert(CONTENT_TYPE, content_type);
    }
    Response::from_parts(head, Body { body, encoding: Some(web.answer) })
}

pin_project! {
    /// The body of any answer: as it is, or with its trailers at the end of its data.
    #[derive(Debug)]
    pub(crate) struct Body {
        #[pin]
        body: body::Body,
        encoding: Option<Encoding>,
    }
}

impl Body {
    fn plain(body: body::Body) -> Self {
        Self { body, encoding: None }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        let Some(encoding) = *this.encoding else { return polled };
        let Some(frame) = ready!(polled) else { return Poll::Ready(None) };
        let bytes = match frame?.into_data() {
            Ok(data) => data,
            Err(frame) => frame.into_trailers().map(|trailers| in_data(&trailers)).unwrap_or_default(),
        };
        let bytes = match encoding {
            Encoding::Binary => bytes,
            Encoding::Text => BASE64_STANDARD.encode(bytes).into(),
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.encoding {
            // The trailers come on top.
            Some(_) if !self.body.is_end_stream() => SizeHint::default(),
            _ => self.body.size_hint(),
        }
    }
}

/// Trailers as the last frame of the data.
fn in_data(trailers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in trailers {
        let _never = write!(lines, "{name}:");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(lines.len() as u32);
    frame.extend_from_slice(&lines);
    frame.freeze()
}

pin_project! {
    /// A request's body in base64, decoded as it comes.
    #[derive(Debug)]
    pub(crate) struct Decoded<B> {
        #[pin]
        body: B,
        rest: BytesMut,
        ended: bool,
    }
}

impl<B> Decoded<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, rest: BytesMut::new(), ended: false }
    }
}

impl<B> http_body::Body for Decoded<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        loop {
            if *this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // A browser sends no trailers, and gRPC asks for none.
                    let Ok(data) = frame.into_data() else { continue };
                    this.rest.extend_from_slice(&data);
                    let decoded = decode(this.rest)?;
                    if !decoded.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(decoded))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    *this.ended = true;
                    if !this.rest.is_empty() {
                        return Poll::Ready(Some(Err("base64 that ends in the middle".into())));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.rest.is_empty() && self.body.is_end_stream())
    }
}

/// Takes what is whole out of `rest`: groups of four, of which any may be padded and so end a piece.
fn decode(rest: &mut BytesMut) -> Result<Bytes, BoxError> {
    let mut whole = rest.split_to(rest.len() / 4 * 4);
    let mut decoded = Vec::with_capacity(whole.len() / 4 * 3);
    while !whole.is_empty() {
        let padding = whole.iter().position(|byte| *byte == b'=');
        let piece = whole.split_to(padding.map_or(whole.len(), |at| (at / 4 + 1) * 4));
        BASE64_STANDARD.decode_vec(&piece, &mut decoded).map_err(|error| format!("not base64: {error}"))?;
    }
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_in_grpc_web_are_turned() {
        let turned = |method: &str, content_type: &str, accept: &str| {
            let request = Request::builder().method(method).header("content-type", content_type);
            let mut request = request.header("accept", accept).body(()).unwrap();
            super::accept(&mut request).map(|web| (web, request.headers()["content-type"].clone()))
        };
        let (binary, text) = (Encoding::Binary, Encoding::Text);
        let call = |request, answer| Web { request, answer };
        let is = |kind: &'static str| HeaderValue::from_static(kind);
        let proto = is("application/grpc+proto");
        assert_eq!(
            turned("POST", "application/grpc-web+proto", "*/*"),
            Some((call(binary, binary), proto.clone()))
        );
        assert_eq!(
            turned("POST", "application/grpc-web-text+proto", "application/grpc-web-text"),
            Some((call(text, text), proto))
        );
        assert_eq!(
            turned("POST", "application/grpc-web", "application/grpc-web-text"),
            Some((call(binary, text), is("application/grpc")))
        );
        for (method, content_type) in [
            ("POST", "application/grpc"),
            ("POST", "application/grpc-website"),
            ("POST", "text/plain"),
            ("GET", "application/grpc-web"),
        ] {
            assert_eq!(turned(method, content_type, "*/*"), None, "{method} {content_type}");
        }
    }

    #[test]
    fn base64_is_decoded_in_pieces_of_any_length_and_padding() {
        // Two pieces, each padded, as some clients write one message after the other.
        let said = b"aGVsbG8=d29ybGQhIQ==";
        for step in 1..=said.len() {
            let (mut rest, mut decoded) = (BytesMut::new(), Vec::new());
            for chunk in said.chunks(step) {
                rest.extend_from_slice(chunk);
                decoded.extend_from_slice(&decode(&mut rest).unwrap());
            }
            assert_eq!(decoded, b"helloworld!!");
            assert!(rest.is_empty());
        }
        assert!(decode(&mut BytesMut::from("a*c=")).is_err());
    }
}
