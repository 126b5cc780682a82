//! The embedded registry: a directory.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use std::{fs, io, path::PathBuf, time::Duration};

use meshwork_core::{Backend, InstanceId, ServiceName};
use meshwork_registry::{Driven, DriverOptions, Local, LocalConfig};
use meshwork_testkit::{
    Error,
    conformance::{Counted, Deed, Limits, Malformed, Rig, Undone},
};
use tempfile::TempDir;

/// A directory of its own.
pub(super) struct OnDisk(TempDir);

impl OnDisk {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("registry")
    }

    fn local(&self) -> Local {
        let mut config = LocalConfig::default();
        config.dir = Some(self.dir());
        config.heartbeat = Duration::from_millis(200);
        config.ttl = Duration::from_millis(600);
        Local::with_config(config)
    }

    fn record(&self, service: &ServiceName, id: &InstanceId) -> PathBuf {
        self.dir().join("dev").join(service.as_str()).join(format!("{id}.json"))
    }

    /// Whoever lives puts records back while this is under way.
    fn wipe(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match fs::remove_dir_all(self.dir()) {
                Err(e) if tries < 100 && e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                ended => return ended,
            }
        }
    }
}

impl Rig for OnDisk {
    fn name(&self) -> String {
        "local".to_owned()
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.local())
    }

    fn limits(&self) -> Limits {
        Limits::of_ttl(Duration::from_millis(600))
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        let done = match deed {
            Deed::Wipe => self.wipe(),
            Deed::Forget(instance) | Deed::Erase(instance) => {
                fs::remove_file(self.record(&instance.service, &instance.id))
            }
            Deed::Spoil(instance) => fs::write(self.record(&instance.service, &instance.id), "nonsense"),
            Deed::Plant(kind @ (Malformed::Nonsense | Malformed::Binary | Malformed::Huge), service, id) => {
                fs::write(self.record(&service, &id), kind.bytes(&service, &id))
            }
            Deed::Plant(..) => {
                return Err(Undone::cannot(
                    "a well measured file that no process holds is dead, and removed",
                ));
            }
            Deed::Put(_) => {
                return Err(Undone::cannot("a record that no process holds is dead, and removed"));
            }
            Deed::PutForeign(..) => return Err(Undone::cannot("other software does not know these files")),
            _ => {
                return Err(Undone::cannot(
                    "there is no server: the directory is there while the machine is",
                ));
            }
        };
        Ok(done.map_err(|e| Error::new("changing the files of the local registry").with_source(e))?)
    }

    fn counted(&self) -> Result<Counted, Undone> {
        Ok(Counted::of(&Driven::new(self.local(), DriverOptions::default())))
    }
}
