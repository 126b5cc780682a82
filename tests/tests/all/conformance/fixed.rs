//! The static list: it finds, and announces nothing.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use meshwork_core::{Backend, InstanceId, ServiceName};
use meshwork_registry::{Driven, DriverOptions, Fixed};
use meshwork_testkit::conformance::{self, Counted, Rig, Undone};

const PORTS: [u16; 12] = [12, 3, 11, 4, 10, 5, 9, 6, 8, 7, 2, 1];

/// One service of a dozen addresses.
pub(super) struct Listed(Fixed);

impl Listed {
    pub(super) fn new() -> Self {
        let addresses = PORTS.map(|port| format!("http://127.0.0.1:{port}"));
        Self(Fixed::new().service("users", addresses).unwrap())
    }
}

impl Rig for Listed {
    fn name(&self) -> String {
        "fixed".to_owned()
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.0.clone())
    }

    fn listed(&self) -> Vec<conformance::Listed> {
        let ids = PORTS.map(|port| InstanceId::new(format!("static-127.0.0.1-{port}")).unwrap());
        vec![conformance::Listed { service: ServiceName::new("users").unwrap(), ids: ids.into() }]
    }

    fn counted(&self) -> Result<Counted, Undone> {
        Ok(Counted::finding(&Driven::new(self.0.clone(), DriverOptions::default())))
    }
}
