//! The backend of the guide keeps the contract, and the guide shows its very code.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use std::{path::Path, sync::Mutex, time::Duration};

use meshwork_core::{Backend, Instance, Task, encode};
use meshwork_testkit::{
    Error, conformance,
    conformance::{Deed, Limits, Linked, Rig, Undone},
    ports::Port,
    proxy::{FaultProxy, Toward},
};
use writing_a_backend::{Board, server::Store};

/// A board behind a link that all its processes share.
struct Desk {
    store: Store,
    port: Port,
    server: Mutex<Option<Task>>,
    front: FaultProxy,
}

impl Desk {
    async fn set_up() -> Result<Self, Error> {
        let port = Port::claim()?;
        let front = FaultProxy::start(port.addr()).await?;
        let desk = Self { store: Store::default(), port, server: Mutex::default(), front };
        desk.start().await?;
        Ok(desk)
    }

    async fn start(&self) -> Result<(), Error> {
        let server = self.store.serve(self.port.addr()).await;
        let server = server.map_err(|e| Error::new("starting a board").with_source(e))?;
        *self.server.lock().unwrap() = Some(server);
        Ok(())
    }
}

fn topic(instance: &Instance) -> String {
    format!("{}/{}", instance.env, instance.service)
}

impl Rig for Desk {
    fn name(&self) -> String {
        "board".to_owned()
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(Board::new(self.front.addr()))
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::of_ttl(Duration::from_secs(2));
        limits.connections = 1;
        limits.noticed = Duration::from_secs(5);
        // It polls.
        limits.sees_every_revision = false;
        limits
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        let store = &self.store;
        match deed {
            Deed::Stop => {
                let server = self.server.lock().unwrap().take();
                // Cut without waiting, it would still answer for a moment.
                if let Some(server) = server {
                    server.end(Duration::from_secs(5)).await;
                }
            }
            Deed::Start => self.start().await?,
            Deed::Wipe => store.wipe(),
            Deed::Freeze => self.front.black_hole(Toward::Both),
            Deed::Thaw => self.front.heal(),
            Deed::Forget(instance) => store.remove(&topic(&instance), instance.id.as_str(), true),
            Deed::Erase(instance) => store.remove(&topic(&instance), instance.id.as_str(), false),
            Deed::Put(instance) => {
                let record = String::from_utf8(encode(&instance).unwrap()).unwrap();
                store.write(&topic(&instance), instance.id.as_str(), record);
            }
            Deed::Spoil(instance) => {
                store.write(&topic(&instance), instance.id.as_str(), "nonsense".to_owned());
            }
            Deed::Plant(kind, service, id) => match String::from_utf8(kind.bytes(&service, &id)) {
                Ok(record) => store.write(&format!("dev/{service}"), id.as_str(), record),
                Err(_binary) => return Err(Undone::cannot("a board keeps texts")),
            },
            deed => return Err(Undone::cannot(format!("a board has no way to {deed}"))),
        }
        Ok(())
    }

    async fn linked(&self) -> Result<Linked, Undone> {
        let link = FaultProxy::start(self.port.addr()).await?;
        Ok(Linked::new(Board::new(link.addr()), [link]))
    }
}

conformance!(a_board_keeps_the_contract, Desk::set_up().await?);

/// Every piece of Rust in the guide is taken from this package, word by word.
#[test]
fn the_guide_shows_the_code_that_is_built() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let files =
        ["src/lib.rs", "src/link.rs", "src/source.rs", "src/announcer.rs", "src/main.rs", "tests/board.rs"];
    let code: Vec<String> = files.into_iter().map(read).collect();
    let guide = read("../../docs/writing-a-backend.md");
    let blocks: Vec<&str> =
        guide.split("```rust\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(blocks.len() >= 6, "the guide shows {} pieces", blocks.len());
    for block in blocks {
        assert!(code.iter().any(|file| file.contains(block)), "not in the package:\n{block}");
    }
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let lines: usize = code[..4].iter().map(|file| file.lines().filter(is_code).count()).sum();
    // As the guide says.
    assert!(lines < 280, "the backend has {lines} lines");
}
