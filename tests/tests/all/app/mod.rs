//! The facade, as a service author uses it.

mod calls;
mod exits;
mod lifecycle;
mod mistakes;
mod registry_away;
mod rig;
mod ten_lines;
