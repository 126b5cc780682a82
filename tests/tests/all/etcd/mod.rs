//! The etcd registry on real servers: what it believes, what it keeps, and how it heals.

mod announcing;
mod bench;
mod faults;
mod fresh;
mod leaving;
mod members;
mod records;
mod security;
mod sharing;
mod tokens;
