//! The services of a memory registry.

use std::sync::Arc;

use meshwork_core::Error;
use tokio::time;

use super::{SILENCE, store::Store};
use crate::catalog::{CatalogWriter, Names};

/// Keeps the list of services that have an instance.
pub(super) async fn follow(writer: CatalogWriter, store: Arc<Store>) {
    let mut ticks = store.ticks();
    let fail = |why: &'static str| {
        writer.failed(Arc::new(Error::unavailable("listing services").with_source(why)));
    };
    loop {
        ticks.borrow_and_update();
        let faults = store.faults();
        if faults.partitioned {
            if time::timeout(SILENCE, ticks.changed()).await.is_ok() {
                continue;
            }
            fail("the memory registry does not answer by order");
        } else if faults.failing {
            fail("the memory registry fails by order");
        } else {
            time::sleep(faults.lag).await;
            writer.read(if faults.empty { Names::new() } else { store.services() });
        }
        // The store lives as long as this list: its ticks never end.
        drop(ticks.changed().await);
    }
}
