//! One process of a service, with all that others may know of it.

use std::sync::Arc;

use crate::{Build, Endpoint, InstanceId, Labels, ServiceName, Timestamp};

/// Whether an instance takes new calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Status {
    /// It takes calls.
    #[default]
    Up,
    /// It runs but takes no calls now. An unknown status of a newer schema reads as this.
    Unready,
    /// It is going away. Final for an id: a reader never takes it back.
    Leaving,
}

impl Status {
    /// As written in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unready => "unready",
            Self::Leaving => "leaving",
        }
    }
}

/// Who wrote the record of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Origin {
    /// A Meshwork process: its connections can be confirmed, its removals are guarded.
    #[default]
    Native,
    /// Anybody else: another framework, an operator, a static list, DNS.
    Foreign,
}

/// One process of a service, from start to exit.
///
/// Only that process writes its record. All fields but `service` and `id` may change while it lives.
///
/// ```
/// use meshwork_core::{Instance, ServiceName};
/// let mut users = Instance::new(ServiceName::new("users")?);
/// users.endpoints.push("grpc://10.0.0.7:9000".parse()?);
/// users.zone = "zone1".into();
/// assert_eq!(users.weight, 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The service it is an instance of.
    pub service: ServiceName,
    /// Its id, new for each process.
    pub id: InstanceId,
    /// Where it can be called; at most 8.
    pub endpoints: Vec<Endpoint>,
    /// The environment (`dev`, `prod`, …); empty when unknown.
    pub env: Arc<str>,
    /// The region; empty when unknown.
    pub region: Arc<str>,
    /// The zone inside the region; empty when unknown.
    pub zone: Arc<str>,
    /// Its share of calls among its peers, 0 to 65535, default 100. 0 = no new calls but pinned ones,
    /// unless all peers have 0.
    pub weight: u16,
    /// Which deployment it belongs to (`stable`, `canary`, …); empty when unknown.
    pub deployment: Arc<str>,
    /// The version of the application.
    pub app_version: Arc<str>,
    /// The version of Meshwork it runs; empty for foreign records.
    pub frame_version: Arc<str>,
    /// When the application was built, if known.
    pub build_time: Option<Timestamp>,
    /// When the process started, if known.
    pub start_time: Option<Timestamp>,
    /// Whether it takes calls.
    pub status: Status,
    /// The fields that an operator's override set, by their names in the record.
    pub overridden: Vec<Arc<str>>,
    /// Free pairs, at most 64. Public: never secrets.
    pub labels: Labels,
    /// Who wrote the record; not part of it.
    pub origin: Origin,
}

impl Instance {
    /// A new instance of `service` in this process: a new id, weight 100, started now, no endpoints yet.
    pub fn new(service: ServiceName) -> Self {
        let id = InstanceId::generate(&service);
        Self::with_id(service, id)
    }

    /// The same with a given id, as sources and tests need it.
    pub fn with_id(service: ServiceName, id: InstanceId) -> Self {
        Self {
            service,
            id,
            endpoints: Vec::new(),
            env: "".into(),
            region: "".into(),
            zone: "".into(),
            weight: Self::DEFAULT_WEIGHT,
            deployment: "".into(),
            app_version: "".into(),
            frame_version: Build::FRAME_VERSION.into(),
            build_time: None,
            start_time: Some(Timestamp::now()),
            status: Status::Up,
            overridden: Vec::new(),
            labels: Labels::default(),
            origin: Origin::Native,
        }
    }

    /// The weight of an instance that says nothing of it.
    pub const DEFAULT_WEIGHT: u16 = 100;

    /// Whether the record was written by a Meshwork process.
    pub fn is_native(&self) -> bool {
        self.origin == Origin::Native
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_of_a_service_never_share_an_id() {
        let service = ServiceName::new("users").unwrap();
        assert_ne!(Instance::new(service.clone()).id, Instance::new(service).id);
    }
}
