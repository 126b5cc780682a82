//! What a request costs in allocations, without and with the limits that count it.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use axum::{Router, routing::get};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services, ShedPolicy};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
};

const REQUESTS: u64 = 200;

/// Allocations of a request on a connection that is kept, client included (which makes none of its own).
fn per_request(config: ServerConfig) -> f64 {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (serving, mut stream) = runtime.block_on(async {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr();
        let router = Router::new().route("/", get(|| async { "served" }));
        let server = Server::new(config, Identity::new(), Health::new());
        let serving = server.serve(listener, Services::new().http(router));
        let mut stream = TcpStream::connect(addr).await.unwrap();
        exchange(&mut stream, 20).await;
        (serving, stream)
    });
    let seen = allocation_counter::measure(|| runtime.block_on(exchange(&mut stream, REQUESTS)));
    drop(serving);
    seen.count_total as f64 / REQUESTS as f64
}

async fn exchange(stream: &mut TcpStream, requests: u64) {
    let mut answer = [0; 1024];
    for _ in 0..requests {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut seen = 0;
        while !answer[..seen].ends_with(b"served") {
            let read = stream.read(&mut answer[seen..]).await.unwrap();
            assert!(read > 0, "closed");
            seen += read;
        }
    }
}

#[test]
fn a_fixed_limit_costs_no_allocation_and_shedding_two() {
    let plain = per_request(ServerConfig::default());
    let mut limited = ServerConfig::default();
    limited.max_concurrent_requests = Some(1000);
    let limited = per_request(limited);
    let mut shedding = ServerConfig::default();
    shedding.shed = Some(ShedPolicy::default());
    let shedding = per_request(shedding);
    println!("allocations of a request: {plain:.2}, with a fixed limit {limited:.2}, shedding {shedding:.2}");
    assert!(limited <= plain + 0.5, "a fixed limit: {limited} of {plain}");
    assert!(shedding <= plain + 2.5, "shedding: {shedding} of {plain}");
}
