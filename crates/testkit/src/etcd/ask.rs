//! One HTTP question to a member, over a connection of its own: enough to see whether it really answers.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

/// An answer is never longer.
const LONGEST: u64 = 1 << 20;

/// Sends a request of HTTP/1.0, after which the server closes, and gives the body of a 200 answer.
pub(super) async fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    limit: Duration,
) -> io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        let request =
            format!("{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(LONGEST).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = match time::timeout(limit, exchange).await {
        Ok(answer) => answer?,
        Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(status.to_owned()))
    }
}
