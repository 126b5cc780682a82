//! Integration tests, on real servers and real processes.

mod app;
mod consul;
mod etcd;
mod examples;
