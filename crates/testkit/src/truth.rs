//! Waiting for a condition, and the one condition every run ends with: the view equals the truth.

use std::{collections::BTreeSet, time::Duration};

use meshwork_core::{ErrorChain, InstanceId, Snapshot, Watch};
use tokio::time::{self, Instant};

use crate::Error;

/// The pauses between two looks: short at first, since most conditions are nearly true already.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits until `check` holds, looking every 2 to 50 ms. `what` completes "waiting until …".
///
/// # Errors
/// When it does not hold within `limit`. A single look that hangs is cut at the limit as well.
///
/// # Cancel safety
/// Dropping the future drops the look under way.
pub async fn eventually<C, F>(limit: Duration, what: &str, mut check: C) -> Result<(), Error>
where
    C: FnMut() -> F,
    F: Future<Output = bool>,
{
    let waiting = async {
        let mut pause = FIRST_PAUSE;
        while !check().await {
            time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    time::timeout(limit, waiting)
        .await
        .map_err(|_elapsed| Error::new(format!("waiting until {what}: not so after {limit:?}")))
}

/// Waits until the view names exactly the `expected` instances, and says how long that took.
///
/// A view that was never read (`Pending`) equals nothing, not even the empty set.
///
/// # Errors
/// When it differs after `limit`; the error says which ids are missing, which are too many, and how sure the view is.
///
/// # Cancel safety
/// Dropping the future loses nothing.
pub async fn view_equals(
    watch: &Watch,
    expected: &BTreeSet<InstanceId>,
    limit: Duration,
) -> Result<Duration, Error> {
    let begun = Instant::now();
    let mut watch = watch.clone();
    let waiting = async {
        while !names_exactly(&watch.latest(), expected) {
            watch.changed().await;
        }
    };
    if time::timeout(limit, waiting).await.is_ok() {
        return Ok(begun.elapsed());
    }
    let view = watch.latest();
    if names_exactly(&view, expected) {
        return Ok(begun.elapsed());
    }
    Err(Error::new(format!(
        "waiting until the view equals the truth: after {limit:?} {}",
        difference(&view, expected)
    )))
}

fn names_exactly(view: &Snapshot, expected: &BTreeSet<InstanceId>) -> bool {
    view.known().is_some_and(|instances| {
        instances.len() == expected.len() && instances.iter().all(|instance| expected.contains(&instance.id))
    })
}

/// What a view has too few and too many, for people.
fn difference(view: &Snapshot, expected: &BTreeSet<InstanceId>) -> String {
    let seen: BTreeSet<&InstanceId> = view.value().iter().map(|instance| &instance.id).collect();
    let list = |ids: Vec<String>| if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
    let missing = expected.iter().filter(|id| !seen.contains(id)).map(InstanceId::to_string).collect();
    let extra = seen
        .iter()
        .filter(|id| !expected.contains(**id))
        .map(|id| if view.held().contains(id) { format!("{id} (held)") } else { id.to_string() })
        .collect();
    let staleness = view.staleness();
    let sureness = match staleness.cause() {
        Some(cause) => format!("not fresh ({})", ErrorChain(&**cause)),
        None if staleness.is_fresh() => "fresh".to_owned(),
        None => "pending".to_owned(),
    };
    format!(
        "{} of {} expected are in view, missing: {}; too many: {}; generation {}, {sureness}",
        expected.len() - expected.iter().filter(|id| !seen.contains(id)).count(),
        expected.len(),
        list(missing),
        list(extra),
        view.generation(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meshwork_core::{Instance, Instances, Publisher, ServiceName, Staleness};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn id(name: &str) -> InstanceId {
        InstanceId::new(name).unwrap()
    }

    fn instances(names: &[&str]) -> Arc<Instances> {
        let service = ServiceName::new("users").unwrap();
        names.iter().map(|name| Arc::new(Instance::with_id(service.clone(), id(name)))).collect()
    }

    fn ids(names: &[&str]) -> BTreeSet<InstanceId> {
        names.iter().map(|name| id(name)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_a_view_that_becomes_true() {
        let publisher = Publisher::new(instances(&[]));
        let watch = publisher.watch();
        let later = tokio::spawn(async move {
            time::sleep(Duration::from_secs(1)).await;
            publisher.publish(Staleness::Fresh, instances(&["a"]), Arc::new([]));
            time::sleep(Duration::from_secs(1)).await;
            publisher.publish(Staleness::Fresh, instances(&["a", "b"]), Arc::new([]));
            publisher
        });
        let took = view_equals(&watch, &ids(&["a", "b"]), LIMIT).await.unwrap();
        assert_eq!(took, Duration::from_secs(2));
        later.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_is_not_empty() {
        let publisher = Publisher::new(instances(&[]));
        let error = view_equals(&publisher.watch(), &ids(&[]), LIMIT).await.unwrap_err();
        assert!(error.to_string().ends_with("generation 0, pending"), "{error}");
        publisher.publish(Staleness::Fresh, instances(&[]), Arc::new([]));
        view_equals(&publisher.watch(), &ids(&[]), LIMIT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_difference_names_what_is_missing_and_what_is_too_many() {
        let publisher = Publisher::new(instances(&[]));
        publisher.publish(Staleness::Fresh, instances(&["a", "c", "d"]), Arc::new([id("d")]));
        let error = view_equals(&publisher.watch(), &ids(&["a", "b"]), LIMIT).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(
                "1 of 2 expected are in view, missing: b; too many: c, d (held); generation 1, fresh"
            ),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_never_holds_is_named() {
        let error = eventually(LIMIT, "pigs fly", || async { false }).await.unwrap_err();
        assert_eq!(error.to_string(), "waiting until pigs fly: not so after 5s");
        eventually(LIMIT, "a look hangs", std::future::pending::<bool>).await.unwrap_err();
    }
}
