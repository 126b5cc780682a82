//! The client process over HTTP/1.1: bare hyper, a connection for each caller, kept from slice to slice.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use meshwork_core::BoxError;
use tokio::net::TcpStream;

use super::BYTES;
use crate::{
    cpu::Seat,
    duel::{Caller, Sockets, obey},
};

type Connection = SendRequest<Empty<Bytes>>;

/// Calls the server at `addr` on order, until the input ends.
pub(crate) fn run(addr: &str) -> Result<(), BoxError> {
    Seat::Client.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = runtime.block_on(async { Sockets::before() });
    let addr: Arc<str> = addr.into();
    let idle = Arc::new(Mutex::new(Vec::new()));
    obey(&runtime, &before, |_| Calls { addr: Arc::clone(&addr), idle: Arc::clone(&idle), own: None })
}

struct Calls {
    addr: Arc<str>,
    idle: Arc<Mutex<Vec<Connection>>>,
    own: Option<Connection>,
}

impl Calls {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&mut self) -> Result<&mut Connection, BoxError> {
        let own = match self.own.take().or_else(|| self.idle().pop()) {
            Some(own) => own,
            None => {
                let stream = TcpStream::connect(&*self.addr).await?;
                stream.set_nodelay(true)?;
                let (own, connection) = http1::handshake(TokioIo::new(stream)).await?;
                // Ends with its sender.
                tokio::spawn(connection);
                own
            }
        };
        Ok(self.own.insert(own))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            self.idle().push(own);
        }
    }
}

impl Caller for Calls {
    async fn call(&mut self) -> Result<(), BoxError> {
        let request = Request::get("/users/7").header(HOST, &*self.addr).body(Empty::new())?;
        let connection = self.connection().await?;
        connection.ready().await?;
        let answer = connection.send_request(request).await?.into_body().collect().await?.to_bytes();
        if answer.len() == BYTES {
            Ok(())
        } else {
            Err(format!("an answer of {} bytes", answer.len()).into())
        }
    }
}
