//! Client-side load balancing for Meshwork: nodes, tickets, policies and pickers.
//!
//! The client's cluster makes a [`Node`] per endpoint and a [`Picker`] per snapshot; each call asks the picker
//! for a [`Member`] and carries the [`Ticket`] until its outcome is known. Pure state machines: no runtime, no
//! clock, no global randomness; time and randomness are arguments.
//!
//! | policy | for |
//! |---|---|
//! | [`P2c`] | nearly everything: latency, load, weight and health count |
//! | [`LeastRequest`] | calls that last long or very differently |
//! | [`RoundRobin`], [`WeightedRoundRobin`] | equal calls to nodes that are equal, or of known sizes |
//! | [`RingHash`] | nodes that keep something per key |
//! | [`First`] | a primary with stand-ins |
//! | [`ZoneAware`] over another | several zones |
//! | [`Subsets`] over another | canaries, lanes, percentages |
//! | one of your own over a [`Pool`] | all else |
//!
//! In each of them a node without a connection is no candidate, `leaving` and weight 0 get nothing new, ejected
//! nodes get a probe when it is due, new ones get their share slowly, and when too few are well all are used.
//! [`RingAperture`] and [`Rendezvous`] choose the part of a large fleet that a client connects to at all.
//!
//! ```
//! use std::sync::Arc;
//! use meshwork_balance::{Arrival, Member, Node, NodeKey, Now, Outcome, P2c, Peers, Pick, Picked, Policy};
//! use meshwork_core::{Instance, ServiceName};
//!
//! let peers = Peers::new(|| Now::from_nanos(0));
//! let instance = Arc::new(Instance::new(ServiceName::new("users")?));
//! let key = NodeKey::new(["grpc://10.0.0.7:9000".parse()?]);
//! let node = Node::new(key, Arc::new("the connection"), &peers, Arrival::new(Now::from_nanos(0)));
//! node.set_ready(true);
//!
//! let picker = P2c::default().picker(Arc::new([Member::new(node, instance)]));
//! let mut random = || 7;
//! match picker.pick(&mut Pick::new(Now::from_nanos(1), &mut random)) {
//!     Picked::Take(member, ticket) => {
//!         assert_eq!(member.node().attachment::<&str>(), Some(&"the connection"));
//!         ticket.finish(Now::from_nanos(1_000_000), Outcome::Success);
//!     }
//!     Picked::Wait | Picked::Nothing(_) => unreachable!("the only node is ready"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]

mod bound;
mod chance;
mod draw;
mod first;
mod health;
mod key;
mod latency;
mod least_request;
mod member;
mod node;
mod now;
mod p2c;
mod pair;
mod parts;
mod peers;
mod pick;
mod pinned;
mod pool;
mod ring;
mod ring_hash;
mod roster;
mod round_robin;
mod standing;
mod subsets;
mod subsetting;
mod ticket;
mod turns;
mod weighted_round_robin;
mod window;
mod zone_aware;
mod zones;

pub use first::First;
pub use key::NodeKey;
pub use least_request::LeastRequest;
pub use member::Member;
pub use node::{Arrival, Node, NodeStats};
pub use now::Now;
pub use p2c::P2c;
pub use peers::{Ejection, Peers};
pub use pick::{Hint, Pick, Picked, Picker, Policy, Reason, Resort, SubsetId};
pub use pool::Pool;
pub use ring_hash::RingHash;
pub use roster::Roster;
pub use round_robin::RoundRobin;
pub use subsets::{Fallback, Subset, Subsets};
pub use subsetting::{Portion, Rendezvous, RingAperture, Subsetting};
pub use ticket::{Outcome, Ticket};
pub use weighted_round_robin::WeightedRoundRobin;
pub use zone_aware::ZoneAware;
