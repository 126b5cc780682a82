//! gRPC-Web in the bytes that browsers send.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use meshwork_server::{ServerConfig, Services};
use prost::Message;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    echo::{Echo, Text, text},
    support::{Fixture, config, raw, read_until, start, start_with, within},
};

fn services() -> Services {
    Services::new().grpc_service(Echo).grpc_web()
}

/// One message in its frame.
fn framed(said: &str) -> Vec<u8> {
    let message = text(said).encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// A call as a browser sends it, up to the end of its body.
fn call(method: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /test.Echo/{method} HTTP/1.1\r\nhost: test\r\nx-grpc-web: 1\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const BINARY: &str = "content-type: application/grpc-web+proto\r\n";

/// The head and the body of an answer, put together from its chunks.
async fn ask(fixture: &Fixture, bytes: &[u8]) -> (String, Vec<u8>) {
    use tokio::io::AsyncReadExt;
    let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(crate::support::LIMIT, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let (head, mut rest) = (String::from_utf8(answer[..end].to_vec()).unwrap(), &answer[end + 4..]);
    if !head.contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        rest = &rest[line + 2..];
        if length == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[..length]);
        rest = &rest[length + 2..];
    }
}

/// The messages of a body, and the trailers at its end.
fn parts(mut body: &[u8]) -> (Vec<String>, String) {
    let mut texts = Vec::new();
    loop {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        let (flag, frame) = (body[0], &body[5..5 + length]);
        body = &body[5 + length..];
        if flag == 0x80 {
            assert!(body.is_empty(), "nothing follows the trailers");
            return (texts, String::from_utf8(frame.to_vec()).unwrap());
        }
        texts.push(Text::decode(frame).unwrap().text);
    }
}

/// The same of a body in base64, piece by piece.
fn decoded(body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let pieces = text.split_inclusive('=').fold(Vec::<String>::new(), |mut pieces, piece| {
        match pieces.last_mut() {
            // The second sign of two belongs to the piece before.
            Some(last) if piece == "=" => last.push('='),
            _ => pieces.push(piece.to_owned()),
        }
        pieces
    });
    pieces.iter().flat_map(|piece| BASE64_STANDARD.decode(piece).unwrap()).collect()
}

#[tokio::test]
async fn unary_calls_and_streams_are_answered_with_their_trailers_in_the_body() {
    let fixture = start(services()).await;
    let (head, body) = ask(&fixture, &call("Unary", BINARY, &framed("hello"))).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
    assert_eq!(head.matches("content-type:").count(), 1, "{head}");
    assert_eq!(parts(&body), (vec!["hello".to_owned()], "grpc-status:0\r\n".to_owned()));
    let (_, body) = ask(&fixture, &call("Server", BINARY, &framed("a b c"))).await;
    assert_eq!(parts(&body).0, ["a", "b", "c"]);

    let kind = "content-type: application/grpc-web-text\r\naccept: application/grpc-web-text\r\n";
    let said = BASE64_STANDARD.encode(framed("hello, world"));
    let (head, body) = ask(&fixture, &call("Unary", kind, said.as_bytes())).await;
    assert!(head.contains("content-type: application/grpc-web-text+proto"), "{head}");
    let (texts, trailers) = parts(&decoded(&body));
    assert_eq!((texts, &*trailers), (vec!["hello, world".to_owned()], "grpc-status:0\r\n"));
    let (_, body) =
        ask(&fixture, &call("Server", kind, BASE64_STANDARD.encode(framed("a b")).as_bytes())).await;
    assert_eq!(parts(&decoded(&body)).0, ["a", "b"]);
    // Not base64, and base64 that ends in the middle: the call fails, the server lives.
    for broken in ["****", "AAAA="] {
        let (head, _) = ask(&fixture, &call("Unary", kind, broken.as_bytes())).await;
        assert!(head.contains("grpc-status: ") && !head.contains("grpc-status: 0"), "{head}");
    }
}

#[tokio::test]
async fn it_is_spoken_only_where_asked_for() {
    let fixture = start(Services::new().grpc_service(Echo)).await;
    let (head, _) = ask(&fixture, &call("Unary", BINARY, &framed("hello"))).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn failures_without_a_message_are_in_the_head() {
    let fixture = start(services()).await;
    for (method, said, status) in [("Nothing", "", 12), ("Unary", "panic", 13)] {
        let (head, body) = ask(&fixture, &call(method, BINARY, &framed(said))).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
        assert!(head.contains(&format!("grpc-status: {status}")) && body.is_empty(), "{head}");
    }
}

#[tokio::test]
async fn deadline_and_limits_hold() {
    let fixture = start_with(config(|config| config.max_concurrent_requests = Some(1)), services()).await;
    let timed = format!("{BINARY}grpc-timeout: 50m\r\n");
    let (head, _) = ask(&fixture, &call("Unary", &timed, &framed("hang"))).await;
    assert!(head.contains("grpc-status: 4"), "{head}");
    let (_, body) = ask(&fixture, &call("Server", &timed, &framed("hang"))).await;
    let (texts, trailers) = parts(&body);
    assert_eq!(texts, ["first"]);
    assert!(trailers.starts_with("grpc-status:4\r\n"), "{trailers}");

    let mut held = TcpStream::connect(fixture.addr).await.unwrap();
    held.write_all(&call("Server", BINARY, &framed("hang"))).await.unwrap();
    read_until(&mut held, "first").await;
    let (head, _) = ask(&fixture, &call("Unary", BINARY, &framed("hello"))).await;
    assert!(head.contains("meshwork-refused: overloaded") && head.contains("grpc-status: 8"), "{head}");
}

#[tokio::test]
async fn a_stream_is_told_when_the_drain_ends() {
    let fixture = start_with(ServerConfig::default(), services()).await;
    let mut held = TcpStream::connect(fixture.addr).await.unwrap();
    held.write_all(&call("Server", BINARY, &framed("hang"))).await.unwrap();
    read_until(&mut held, "first").await;
    let drained = tokio::spawn(fixture.serving.drain(within(Duration::from_millis(400))));
    // The status is in a frame of the body, and the body has an end.
    read_until(&mut held, "grpc-status:14\r\n").await;
    read_until(&mut held, "0\r\n\r\n").await;
    assert_eq!(drained.await.unwrap().cut.len(), 1);
}

#[tokio::test]
async fn http_goes_on_beside_it() {
    use axum::{Router, routing::get};
    let router = Router::new().route("/", get(|| async { "hello" }));
    let fixture = start(services().http(router)).await;
    assert!(raw(fixture.addr, &crate::support::get("/")).await.ends_with("hello"));
}
