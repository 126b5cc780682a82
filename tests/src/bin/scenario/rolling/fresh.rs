//! Clients without a connection: each call opens one of its own to somebody who is in the view at that moment.

use std::{net::SocketAddr, time::Duration};

use meshwork_core::{Host, Instance, Scheme, Status, Watch};
use meshwork_testkit::load::{Load, RunningLoad};
use meshwork_tests::http1;
use tokio::time::timeout;

/// What the caller of a call allows it.
const DEADLINE: Duration = Duration::from_secs(1);

/// So many calls per second until it is stopped, each over a new connection.
pub(super) fn load(watch: Watch, rate: f64) -> RunningLoad<u32, String> {
    Load::rate(rate).lasting(Duration::MAX).start(move |number| {
        let chosen = chosen(&watch, number);
        async move {
            let addr = chosen.ok_or("nobody is in the view")?;
            let answer = timeout(DEADLINE, http1::get(addr, "/work")).await;
            let answer = answer.map_err(|_elapsed| format!("{addr}: no answer within {DEADLINE:?}"))?;
            let answer = answer.map_err(|error| format!("{addr}: {error}"))?;
            answer.body.parse().map_err(|_| format!("{addr}: {} `{}`", answer.status, answer.body))
        }
    })
}

/// The next in turn of those that take calls.
fn chosen(watch: &Watch, number: u64) -> Option<SocketAddr> {
    let view = watch.latest();
    let up: Vec<_> = view.value().iter().filter(|instance| instance.status == Status::Up).collect();
    let turn = usize::try_from(number).unwrap_or_default().checked_rem(up.len())?;
    address(up[turn])
}

fn address(instance: &Instance) -> Option<SocketAddr> {
    let http = instance.endpoints.iter().find(|endpoint| endpoint.scheme() == Scheme::Http)?;
    match http.host() {
        Host::Ip(ip) => Some((*ip, http.port()).into()),
        Host::Name(_) => None,
    }
}
