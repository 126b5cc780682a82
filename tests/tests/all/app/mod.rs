//! The facade, as a service author uses it.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod calls;
mod clock;
mod drift;
mod exits;
mod lifecycle;
mod mistakes;
mod notices;
mod phases;
mod registries;
mod registry_away;
mod reload;
mod rig;
mod rotation;
mod services;
mod ten_lines;
mod updates;
