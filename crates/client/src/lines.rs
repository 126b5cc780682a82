//! The open HTTP/2 connections of one node: the first, and spares for when its peer allows no more streams.
//!
//! A call takes the first one with room, so that spares fall idle when it is calm (gRFC A105 scales
//! connections in the same way). Read by every call: no lock, no allocation.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use meshwork_core::InstanceId;

use crate::http2::{Http2, Taken};

/// See the module.
pub(crate) struct Lines {
    first: ArcSwapOption<Http2>,
    spares: Box<[ArcSwapOption<Http2>]>,
}

/// Whether a stream could be taken.
pub(crate) enum Took {
    /// Yes, here; `last`: that connection is full now.
    Stream { connection: Arc<Http2>, last: bool },
    /// Every connection is full.
    Full,
    /// There is no connection.
    Nothing,
    /// Connections lead to another instance than the one asked for.
    Another,
}

/// Which connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    /// A spare, from 0.
    Spare(usize),
}

impl Lines {
    /// For at most `most` connections.
    pub(crate) fn new(most: usize) -> Self {
        let spares = (1..most).map(|_| ArcSwapOption::empty()).collect();
        Self { first: ArcSwapOption::empty(), spares }
    }

    fn all(&self) -> impl Iterator<Item = &ArcSwapOption<Http2>> {
        std::iter::once(&self.first).chain(&self.spares)
    }

    /// Takes a stream on the first connection with room. `pinned`: only where this instance answers.
    pub(crate) fn take(&self, pinned: Option<&InstanceId>) -> Took {
        let mut otherwise = Took::Nothing;
        for slot in self.all() {
            let held = slot.load();
            let Some(connection) = held.as_ref() else { continue };
            if let (Some(pinned), Some(identity)) = (pinned, connection.identity())
                && pinned != identity
            {
                // One that is full is worth waiting for, whoever answers on the next.
                if !matches!(otherwise, Took::Full) {
                    otherwise = Took::Another;
                }
                continue;
            }
            let last = match connection.take_stream() {
                Taken::One => false,
                Taken::Last => true,
                Taken::None => {
                    otherwise = Took::Full;
                    continue;
                }
                Taken::Retired => continue,
            };
            return Took::Stream { connection: Arc::clone(connection), last };
        }
        otherwise
    }

    /// Whether any connection has room for another stream.
    pub(crate) fn have_room(&self) -> bool {
        self.all().any(|slot| slot.load().as_ref().is_some_and(|connection| connection.has_room()))
    }

    /// Whether any connection takes calls, but for their number.
    pub(crate) fn are_alive(&self) -> bool {
        self.all().any(|slot| slot.load().as_ref().is_some_and(|connection| !connection.is_retired()))
    }

    /// Whether there is any connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().all(|slot| slot.load().is_none())
    }

    /// How many connections there are.
    pub(crate) fn count(&self) -> usize {
        self.all().filter(|slot| slot.load().is_some()).count()
    }

    /// Streams open on all of them.
    pub(crate) fn open_streams(&self) -> usize {
        self.all().filter_map(|slot| Some(slot.load().as_ref()?.open_streams())).sum()
    }

    /// The first connection.
    pub(crate) fn first(&self) -> Option<Arc<Http2>> {
        self.first.load_full()
    }

    /// A place for another spare.
    pub(crate) fn free(&self) -> Option<usize> {
        self.spares.iter().position(|slot| slot.load().is_none())
    }

    /// Puts a connection into its place, or takes it out.
    pub(crate) fn store(&self, place: Place, connection: Option<Arc<Http2>>) {
        let slot = match place {
            Place::First => &self.first,
            Place::Spare(nth) => &self.spares[nth],
        };
        slot.store(connection);
    }

    /// Takes all out.
    pub(crate) fn clear(&self) {
        self.all().for_each(|slot| slot.store(None));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use tokio::task::JoinSet;

    use super::*;

    /// A connection whose peer allows two streams; the tasks of both ends.
    pub(crate) async fn narrow(ends: &mut JoinSet<()>) -> Arc<Http2> {
        let (near, far) = tokio::io::duplex(4096);
        ends.spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(2);
            let mut server = builder.handshake::<_, Bytes>(far).await.unwrap();
            while server.accept().await.is_some() {}
        });
        let (connection, mut driver) = Http2::open(Box::new(near), false).await.unwrap();
        let served = Arc::clone(&connection);
        ends.spawn(async move { drop(served.serve(&mut driver, || {}).await) });
        connection
    }

    #[tokio::test]
    async fn the_first_with_room_is_taken_and_looking_for_it_allocates_nothing() {
        let mut ends = JoinSet::new();
        let lines = Lines::new(3);
        assert!(matches!(lines.take(None), Took::Nothing));
        let (first, spare) = (narrow(&mut ends).await, narrow(&mut ends).await);
        lines.store(Place::First, Some(Arc::clone(&first)));
        lines.store(Place::Spare(0), Some(Arc::clone(&spare)));
        let take = || match lines.take(None) {
            Took::Stream { connection, last } => (Arc::ptr_eq(&connection, &first), last),
            _ => panic!("there is room"),
        };
        assert_eq!([take(), take(), take()], [(true, false), (true, true), (false, false)]);
        let counted = allocation_counter::measure(|| {
            assert_eq!(take(), (false, true));
            assert!(matches!(lines.take(None), Took::Full) && !lines.have_room());
            first.give_stream();
            assert_eq!(take(), (true, true));
            first.retire();
            spare.give_stream();
            assert_eq!(take(), (false, true));
        });
        assert_eq!(counted.count_total, 0);
        assert_eq!((lines.free(), lines.count(), lines.open_streams()), (Some(1), 2, 4));
        spare.retire();
        assert!(!lines.are_alive() && matches!(lines.take(None), Took::Nothing));
    }

    #[tokio::test]
    async fn a_pinned_call_waits_while_its_own_connection_is_full_whoever_else_answers() {
        let mut ends = JoinSet::new();
        let lines = Lines::new(3);
        let ids = ["users-1", "users-2"].map(|id| InstanceId::new(id).unwrap());
        for (id, place) in ids.iter().zip([Place::First, Place::Spare(1)]) {
            let connection = narrow(&mut ends).await;
            connection.confirm(id.clone());
            lines.store(place, Some(connection));
        }
        for pinned in &ids {
            for last in [false, true] {
                assert!(matches!(lines.take(Some(pinned)), Took::Stream { last: is, .. } if is == last));
            }
        }
        for pinned in &ids {
            assert!(matches!(lines.take(Some(pinned)), Took::Full), "{pinned}");
        }
        let nobody = InstanceId::new("users-3").unwrap();
        assert!(matches!(lines.take(Some(&nobody)), Took::Another));
    }
}
