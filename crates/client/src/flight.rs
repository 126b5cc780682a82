//! One attempt in flight: its ticket and its place on a connection, given back together.

use std::{borrow::Cow, future::Future, sync::Arc};

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use meshwork_balance::{Node, Outcome, Ticket};
use meshwork_core::{Delivered, InstanceId, Seen};
use tokio::time;

use crate::{
    Attempt, AttemptPhase, CallError, CallErrorKind, Protocol, dial,
    failure::{After, Failure},
    http1::Place,
    http2::Http2,
    lines::Took,
    link::Link,
    shared::{Kind, Shared},
    upload::Outbound,
    verdict::Why,
};

/// What the attempt runs on.
enum Line {
    Http2(Arc<Http2>),
    /// Boxed, so that HTTP/2 calls need not carry its room.
    Http1(Box<Place>),
}

/// One attempt in flight. Dropped unfinished, it is a cancelled call.
pub(crate) struct Flight {
    shared: Arc<Shared>,
    kind: Kind,
    /// Absent only once it is finished.
    ticket: Option<Ticket>,
    line: Line,
}

/// A member that was picked but cannot take the call after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Its connection went or filled in the meantime; pick again.
    Gone,
    /// Another instance answers at the address of the one that the call is pinned to.
    Another,
}

impl Flight {
    /// Takes a place on the connection of the node that `ticket` counts on.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        kind: Kind,
        ticket: Ticket,
        pinned: Option<&InstanceId>,
    ) -> Result<Self, Unusable> {
        match take_line(shared, ticket.node(), pinned) {
            Ok(line) => Ok(Self { shared: Arc::clone(shared), kind, ticket: Some(ticket), line }),
            Err(why) => {
                let now = ticket.begun();
                ticket.finish(now, Outcome::Neutral);
                Err(why)
            }
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The node it counts on.
    pub(crate) fn node(&self) -> Arc<Node> {
        Arc::clone(self.ticket.as_ref().expect("invariant: an attempt in flight has its ticket").node())
    }

    /// What is spoken on its connection.
    pub(crate) fn protocol(&self) -> Protocol {
        match self.line {
            Line::Http2(_) => Protocol::Http2,
            Line::Http1(_) => Protocol::Http1,
        }
    }

    /// The connection state of its node.
    pub(crate) fn link(&self) -> &Link {
        link_of(self.ticket.as_ref().expect("invariant: an attempt in flight has its ticket").node())
    }

    /// Who takes the call: the one confirmed, else the one of the record.
    pub(crate) fn instance(&self) -> InstanceId {
        match &self.line {
            Line::Http2(connection) => connection.identity().cloned(),
            Line::Http1(_) => None,
        }
        .unwrap_or_else(|| self.link().record().id.clone())
    }

    /// The attempt as it failed after the answer had begun.
    pub(crate) fn attempt(&self, failure: &Failure) -> Attempt {
        self.ended(failure.phase, failure.code.clone(), "no retry: the answer had begun")
    }

    /// The attempt as the call's time ended while its answer came.
    pub(crate) fn out_of_time(&self) -> Attempt {
        self.ended(AttemptPhase::Body, "no end of the answer".into(), "the call's time is over")
    }

    fn ended(&self, phase: AttemptPhase, code: Cow<'static, str>, then: &'static str) -> Attempt {
        let begun = self.ticket.as_ref().map(Ticket::begun);
        Attempt {
            address: Arc::clone(self.link().target().address()),
            instance: self.instance(),
            phase,
            code,
            elapsed: begun.map(|begun| self.shared.clock.now().since(begun)).unwrap_or_default(),
            then,
        }
    }

    /// Sends the request and waits for the head of the answer, opening a connection where none is idle.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream (HTTP/2) or closes the connection (HTTP/1.1).
    pub(crate) fn exchange(
        &mut self,
        request: Request<Outbound>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + Send {
        match &mut self.line {
            Line::Http2(connection) => Either::Left(connection.exchange(request)),
            Line::Http1(place) => {
                let ticket = self.ticket.as_ref().expect("invariant: an attempt in flight has its ticket");
                // Boxed, so that HTTP/2 calls need not carry its room.
                let exchange = exchange_http1(place, link_of(ticket.node()), &self.shared, request);
                Either::Right(Box::pin(exchange))
            }
        }
    }

    /// The head of the answer is here and its body is not yet.
    pub(crate) fn answered(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            ticket.answered(self.shared.clock.now());
        }
    }

    /// Ends the attempt with its verdict. `whole`: the answer was read to its end.
    pub(crate) fn finish(mut self, outcome: Outcome, whole: bool) {
        if let (Line::Http1(place), true) = (&mut self.line, whole) {
            place.answer_ended();
        }
        if let Some(ticket) = self.ticket.take() {
            self.release(ticket.node());
            ticket.finish(self.shared.clock.now(), outcome);
        }
    }

    /// Ends the attempt with its failure, and takes the connection out where the failure says so.
    pub(crate) fn fail(self, failure: &Failure) {
        if failure.connection == After::Closing
            && let Line::Http2(connection) = &self.line
        {
            connection.retire();
            self.link().suspend();
        }
        let outcome = match failure.delivered {
            Delivered::No => Outcome::Neutral,
            Delivered::Maybe => Outcome::Failure,
        };
        self.finish(outcome, false);
    }

    /// The attempt's time is over. `is_fault`: whether the node had its fair time.
    pub(crate) fn timed_out(self, is_fault: bool) {
        if let Line::Http2(connection) = &self.line
            && connection.timed_out()
        {
            tracing::debug!(address = %self.link().target().address(), "connection is silent, dialling another");
            connection.retire();
        }
        if is_fault {
            self.finish(Outcome::Failure, false);
        }
    }

    /// The peer refused the request before any handler saw it.
    pub(crate) fn refused(self, failure: &Failure, why: Why) {
        let id = self.instance();
        match why {
            Why::Draining => {
                self.shared.watch.saw(&id, Seen::Draining);
                self.link().drain(id);
            }
            Why::Misdirected => self.shared.watch.saw(&id, Seen::Another),
            Why::Overloaded => {}
        }
        self.fail(failure);
    }

    /// Gives the place back and tells one who waits for it.
    fn release(&mut self, node: &Node) {
        match &mut self.line {
            Line::Http2(connection) => connection.give_stream(),
            Line::Http1(place) => place.leave(),
        }
        if node.is_full() {
            node.set_full(false);
            let group = self.shared.group(self.kind);
            group.freed.notify_one();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.release(ticket.node());
        }
    }
}

/// Takes a place on the connection of a node.
fn take_line(shared: &Shared, node: &Node, pinned: Option<&InstanceId>) -> Result<Line, Unusable> {
    let link = link_of(node);
    let line = match link.lines().take(pinned) {
        Took::Stream { connection, last } => {
            if last && !link.lines().have_room() {
                link.fill(node);
            }
            Line::Http2(connection)
        }
        Took::Full => {
            link.fill(node);
            return Err(Unusable::Gone);
        }
        Took::Another => return Err(Unusable::Another),
        Took::Nothing => {
            let pool = link.http1().ok_or(Unusable::Gone)?;
            let place = pool.take();
            if pool.is_full() {
                node.set_full(true);
                // A place that was given back in the same moment did not see it.
                if !pool.is_full() {
                    node.set_full(false);
                }
            }
            Line::Http1(Box::new(place.ok_or(Unusable::Gone)?))
        }
    };
    shared.pulse.quicken();
    Ok(line)
}

/// Takes an idle connection or opens one, and exchanges on it.
async fn exchange_http1(
    place: &mut Place,
    link: &Link,
    shared: &Shared,
    request: Request<Outbound>,
) -> Result<Response<Incoming>, Failure> {
    if !place.reuse().await {
        let within = shared.config.connect_timeout;
        let opened = time::timeout(within, dial::open(link, shared)).await.unwrap_or_else(|_elapsed| {
            let text = format!("no connection to `{}` within {within:?}", link.key());
            Err(CallError::new(CallErrorKind::Connect, text))
        });
        let opened = match opened {
            Ok(opened) if opened.protocol == Some(Protocol::Http2) => {
                // Its owner is about to find the same.
                let text = format!("`{}` speaks HTTP/2 now", link.key());
                return Err(Failure::connect(CallError::new(CallErrorKind::Connect, text)));
            }
            Ok(opened) => place.open(opened.io).await,
            Err(error) => Err(error),
        };
        if let Err(error) = opened {
            link.found_nobody();
            if let Some(node) = link.node() {
                node.set_ready(false);
            }
            return Err(Failure::connect(error));
        }
    }
    place.exchange(request).await
}

/// The client's state of a node.
pub(crate) fn link_of(node: &Node) -> &Link {
    node.attachment::<Link>().expect("invariant: every node of a cluster was made with its link")
}

#[cfg(test)]
mod tests {
    use meshwork_balance::{Hint, Member, NodeKey, Pick, Picked, Policy, RoundRobin};
    use meshwork_core::{Instance, ServiceName, Watch};
    use tokio::task::JoinSet;

    use super::*;
    use crate::{ClientConfig, lines, lines::tests::narrow};

    #[tokio::test]
    async fn a_node_that_goes_between_the_pick_and_the_call_gives_the_call_back_and_learns_nothing() {
        let (mut ends, service) = (JoinSet::new(), ServiceName::new("users").unwrap());
        let shared = Shared::new(service.clone(), Watch::fixed(Arc::from([])), ClientConfig::default());
        let key = NodeKey::new(["grpc://10.0.0.1:90".parse().unwrap()]);
        let record = Arc::new(Instance::new(service));
        let link = Arc::new(Link::new(key.clone(), Protocol::Http2, Arc::clone(&record), None, 2));
        let arrival = meshwork_balance::Arrival::new(shared.clock.now());
        let attachment: Arc<Link> = Arc::clone(&link);
        let node = Node::new(key, attachment, shared.peers(meshwork_core::Scheme::Grpc), arrival);
        link.tie(&node);
        let picker = RoundRobin::default().picker(Arc::from([Member::new(Arc::clone(&node), record)]));
        let goings: [fn(&Link); 3] = [
            // The record is gone, the connection was cut, a GOAWAY came.
            Link::close,
            |link| link.withdraw(lines::Place::First, crate::ConnectionState::Connecting),
            |link| link.lines().first().expect("it is open").retire(),
        ];
        for (nth, go) in goings.into_iter().enumerate() {
            let connection = narrow(&mut ends).await;
            link.publish(lines::Place::First, &connection);
            let mut random = || 0;
            let Picked::Take(_, ticket) =
                picker.pick(&mut Pick::new(shared.clock.now(), &mut random).hint(Hint::Any))
            else {
                panic!("there is a node, {nth}");
            };
            assert_eq!(node.inflight(), 1);
            go(&link);
            let begun = Flight::begin(&shared, Kind::Grpc, ticket, None);
            assert!(matches!(begun, Err(Unusable::Gone)), "{nth}");
            let stats = node.stats(shared.clock.now());
            assert_eq!((node.inflight(), stats.failures, connection.open_streams()), (0, 0, 0), "{nth}");
        }
    }
}
