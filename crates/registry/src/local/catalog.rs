//! The services of a local registry: who has a living record, looked at once a second while anybody
//! watches.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Error, ServiceName};
use tokio::{task::spawn_blocking, time};

use super::{
    config::LocalConfig,
    held::SUFFIX,
    look::{Look, look},
    place::{Place, fault},
};
use crate::catalog::{CatalogWriter, Names};

/// How often the directories are looked at.
const APART: Duration = Duration::from_secs(1);

/// Keeps the list of services of the registry's own environment.
pub(super) async fn follow(writer: CatalogWriter, config: Arc<LocalConfig>, place: Arc<Place>) {
    loop {
        let (config, place) = (Arc::clone(&config), Arc::clone(&place));
        let looked = spawn_blocking(move || services(&config, &place)).await;
        let cut = |e| Err(Error::unavailable("listing services of the local registry").with_source(e));
        match looked.unwrap_or_else(cut) {
            Ok(names) => writer.read(names),
            Err(error) => writer.failed(Arc::new(error)),
        }
        time::sleep(APART).await;
    }
}

fn services(config: &LocalConfig, place: &Place) -> Result<Names, Error> {
    let env = place.env(&config.env)?;
    let names = env.names().map_err(|e| fault(format!("listing `{}`", env.path.display()), e, &env.path))?;
    let names = names.into_iter().filter_map(|name| ServiceName::new(name).ok());
    Ok(names.filter(|name| lives(config, place, name)).collect())
}

/// Whether some record of the service is held by a living owner. A directory that cannot be trusted has none.
fn lives(config: &LocalConfig, place: &Place, service: &ServiceName) -> bool {
    let Ok(shelf) = place.shelf(&config.env, service) else { return false };
    let Ok(names) = shelf.names() else { return false };
    let mut buffer = Vec::new();
    let mut records = names.iter().filter(|name| name.ends_with(SUFFIX));
    records.any(|name| matches!(look(&shelf, name, &mut buffer), Look::Held { .. }))
}
