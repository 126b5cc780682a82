//! What a call does when it is slow, fails, or is one too many.
//!
//! Each room holds a pure step (time, randomness and what happened are arguments; no allocation) and a thin tower
//! layer around it: [`deadline`], [`retry`] with its [`Budget`], [`hedge`], [`limit`], [`shed`]. The client's
//! stack calls the steps, anybody's stack can use the layers. They know verdicts and never instances.
//!
//! The order that the layers need, from the outside in, is that of the client's stack: deadline, limit or shed,
//! retry, hedge.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use http::{Request, Response};
//! use http_body_util::Empty;
//! use meshwork_core::{BoxError, Delivered, Verdict};
//! use meshwork_resilience::{
//!     Budget, Overload, deadline::{DeadlineLayer, Passed}, hedge::HedgeLayer, limit::LimitLayer,
//!     retry::{RetryLayer, Tried},
//! };
//! use tokio::time::Instant;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Debug)]
//! struct Failed(String);
//! # impl std::fmt::Display for Failed {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) }
//! # }
//! # impl std::error::Error for Failed {}
//! impl Verdict for Failed {
//!     fn delivered(&self) -> Delivered { Delivered::Maybe }
//!     fn pushback(&self) -> Option<Duration> { None }
//! }
//! // The error of the whole stack takes up what the layers have to say.
//! impl From<Passed> for Failed { fn from(e: Passed) -> Self { Self(e.to_string()) } }
//! impl From<Overload> for Failed { fn from(e: Overload) -> Self { Self(e.to_string()) } }
//! impl From<Tried<Failed>> for Failed { fn from(e: Tried<Failed>) -> Self { Self(e.to_string()) } }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let users = service_fn(|_: Request<Empty<&[u8]>>| async { Ok::<_, Failed>(Response::new("Ada")) });
//! let budget = Arc::new(Budget::new(Budget::RATIO, Budget::MINIMUM, Instant::now()));
//! let users = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_millis(800)))
//!     .layer(LimitLayer::new(64))
//!     .map_err(Failed::from)
//!     .layer(RetryLayer::new(Arc::clone(&budget)))
//!     .layer(HedgeLayer::new(budget))
//!     .service(users);
//! let answer = users.oneshot(Request::get("/users/7").body(Empty::new()).unwrap()).await.unwrap();
//! assert_eq!(answer.into_body(), "Ada");
//! # });
//! ```
#![deny(missing_docs)]

mod backoff;
mod budget;
mod call;
pub mod chance;
pub mod deadline;
pub mod hedge;
pub mod limit;
mod overload;
mod pushback;
pub mod retry;
pub mod shed;

pub use backoff::{Backoff, Jitter, Pauses};
pub use budget::Budget;
pub use call::{Attempts, Call, Ends, Idempotent, MAX_KEPT, Replay, is_safe};
pub use overload::{Full, Overload};
pub use pushback::{PUSHBACK, Pushback};
