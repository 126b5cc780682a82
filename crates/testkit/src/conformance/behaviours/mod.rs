//! The behaviours, one file for each group. A file lists its own and says why each must be so.

pub(super) mod announcing;
pub(super) mod ends;
pub(super) mod finding;
pub(super) mod frozen;
pub(super) mod healing;
pub(super) mod hostile;
pub(super) mod ids;
pub(super) mod leaving;
pub(super) mod links;
pub(super) mod records;
pub(super) mod sharing;
pub(super) mod stopped;
pub(super) mod watching;
pub(super) mod wiped;
