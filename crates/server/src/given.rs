//! What every request of a connection carries in its extensions: made once, copied for each.

use std::sync::OnceLock;

use axum::extract::ConnectInfo;
use http::Extensions;
use tonic::transport::server::TcpConnectInfo;

use crate::conn::Conn;

/// See the module. Which of the two is needed is known with the first request.
#[derive(Debug, Default)]
pub(crate) struct Given {
    http: OnceLock<Extensions>,
    grpc: OnceLock<Extensions>,
}

impl Given {
    /// Adds them to those of a request.
    pub(crate) fn add(&self, to: &mut Extensions, conn: &Conn, grpc: bool) {
        let made = if grpc { &self.grpc } else { &self.http };
        let own = made.get_or_init(|| make(conn, grpc)).clone();
        if to.is_empty() {
            *to = own;
        } else {
            to.extend(own);
        }
    }
}

fn make(conn: &Conn, grpc: bool) -> Extensions {
    let mut made = roomy();
    made.insert(ConnectInfo(conn.peer));
    if let Some(peer) = conn.proved() {
        made.insert(peer.clone());
    }
    if grpc {
        made.insert(TcpConnectInfo { local_addr: Some(conn.local), remote_addr: Some(conn.peer) });
    }
    made
}

/// Empty, with room for ours and what axum adds on its way: a copy has the room of its original, so that the table need
/// not grow for each request. There is no other way to ask for it.
fn roomy() -> Extensions {
    #[derive(Clone)]
    struct Filler<const N: usize>;
    let mut made = Extensions::new();
    made.insert(Filler::<0>);
    made.insert(Filler::<1>);
    made.insert(Filler::<2>);
    made.insert(Filler::<3>);
    made.clear();
    made
}
