//! The Consul registry on real agents: what it announces, what it finds, and how it heals.

mod adversary;
mod announcing;
mod bench;
mod datacenters;
mod faults;
mod finding;
mod foreign;
mod input;
mod restarts;
mod security;
mod storms;
