//! The smallest HTTP/1.1 caller, to ask as a stranger does, without the framework.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::Result;

const LIMIT: Duration = Duration::from_secs(20);

/// An answer: its status, its head as text in lower case, its body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, lower case.
    pub head: String,
    /// The body; chunks are put together.
    pub body: String,
}

/// `GET path`, as `curl` does.
///
/// # Errors
/// When there is no whole answer within 20 s.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn get(addr: SocketAddr, path: &str) -> Result<Answer> {
    ask(addr, format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")).await
}

/// `POST path` with a body of JSON.
///
/// # Errors
/// When there is no whole answer within 20 s.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn post(addr: SocketAddr, path: &str, body: &str) -> Result<Answer> {
    let kind = "application/json";
    let head = format!("POST {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-type: {kind}");
    ask(addr, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
}

async fn ask(addr: SocketAddr, request: String) -> Result<Answer> {
    let asked = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(LIMIT, asked).await??;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("answer without an end of its head")?;
    let status = head.split(' ').nth(1).ok_or("answer without a status")?.parse()?;
    let head = head.to_lowercase();
    let body = match head.contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Ok(Answer { status, head, body })
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|_| size > 0) else { break };
        whole.push_str(chunk);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
