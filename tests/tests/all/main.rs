//! Integration tests, on real servers and real processes.

mod app;
mod etcd;
mod examples;
