//! Integration tests, on real servers and real processes.

mod actor;
mod app;
mod conformance;
mod consul;
mod etcd;
mod examples;
