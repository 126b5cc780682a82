//! The suite that makes a registry backend safe, ours and everybody's.
//!
//! A backend author implements [`Rig`]: how a process opens the backend, and what can be done to the server behind it.
//! [`check`] then proves each of the [`behaviours`] on the real server and gives a [`Report`]. What a rig cannot do is
//! reported as skipped, with its reason; it never counts as passed.
//!
//! # A test for a backend
//!
//! ```
//! use meshwork_core::Backend;
//! use meshwork_registry::Memory;
//! use meshwork_testkit::conformance::{self, Deed, Rig, Undone};
//!
//! struct InMemory(Memory);
//!
//! impl Rig for InMemory {
//!     fn name(&self) -> String {
//!         "memory".to_owned()
//!     }
//!
//!     fn backend(&self) -> Box<dyn Backend> {
//!         Box::new(self.0.clone())
//!     }
//!
//!     async fn act(&self, deed: Deed) -> Result<(), Undone> {
//!         match deed {
//!             Deed::Stop => self.0.fail(true),
//!             Deed::Start => self.0.fail(false),
//!             Deed::Wipe => self.0.clear(),
//!             Deed::Forget(instance) => self.0.forget(&instance.service, &instance.id),
//!             deed => return Err(Undone::cannot(format!("there is no way to {deed}"))),
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # conformance::on_own_runtime(async {
//! // In a test: `conformance!(memory, InMemory(Memory::new()))`, or by hand:
//! let report = conformance::check_only(InMemory(Memory::new()), &["forgotten", "fresh"]).await;
//! println!("{report}");
//! report.assert();
//! # });
//! ```
//!
//! `docs/writing-a-backend.md` walks through a whole backend of about 270 lines and its rig.
//!
//! # How it runs
//!
//! The calm behaviours run beside each other, each with services of its own; then those that measure, alone; then one
//! disaster after the other (a server lost of many, stopped, wiped, frozen), through which all behaviours that concern
//! it go together. Each has a deadline, so that one which hangs is named. Waiting is for conditions, with a limit; what
//! must not happen is watched for 0.7 s to a few seconds. Times are judged with a slack of four, counts are not.
//!
//! `MESHWORK_CONFORMANCE=frozen,label cargo test …` runs the behaviours whose names contain one of these texts.

mod behaviours;
mod bench;
mod flaw;
mod report;
mod rig;
mod run;
mod stage;
mod suite;

pub use self::{
    report::{Outcome, Report, Row, markdown},
    rig::{Counted, Deed, Limits, Linked, Listed, Malformed, Rig, Undone},
    run::{check, check_only, on_own_runtime, run},
    suite::{Behaviour, behaviours},
};

/// Makes one test that runs the whole suite against a rig. The rig is an expression that may `.await` and use `?` on
/// [`Error`](crate::Error)s; its server starts there.
///
/// ```
/// use meshwork_testkit::conformance;
/// # use meshwork_core::Backend;
/// # struct InMemory(meshwork_registry::Memory);
/// # impl conformance::Rig for InMemory {
/// #     fn name(&self) -> String { "memory".into() }
/// #     fn backend(&self) -> Box<dyn Backend> { Box::new(self.0.clone()) }
/// # }
/// conformance!(memory, InMemory(meshwork_registry::Memory::new()));
/// ```
#[macro_export]
macro_rules! conformance {
    ($name:ident, $rig:expr) => {
        #[test]
        fn $name() {
            $crate::conformance::run(async || Ok($rig));
        }
    };
}
