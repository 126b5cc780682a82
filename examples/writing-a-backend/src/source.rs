//! Finding: the rows of a topic, each judged like every record.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, future, stream};
use meshwork_core::{Change, Changes, InstanceId, Query, Refusal, RefusalKind, Source, decode};

use crate::link::{Hub, Rows};

impl Source for Hub {
    fn subscribe(&self, query: &Query) -> Changes {
        if let Err(unknown) = query.only(&[]) {
            return stream::once(future::ready(Err(unknown))).boxed();
        }
        let topic = format!("{}/{}", query.env().unwrap_or(&self.env), query.service());
        let (query, ended) = (query.clone(), self.failed("watching").to_string());
        let readings = stream::try_unfold(self.rows(&topic), move |mut rows| {
            let (query, ended) = (query.clone(), ended.clone());
            async move {
                rows.changed().await.map_err(|_closed| meshwork_core::Error::unavailable(ended))?;
                let read = rows.borrow_and_update().as_ref().map(|rows| changes(&query, rows));
                Ok(Some((read.unwrap_or_default(), rows)))
            }
        });
        readings.map_ok(|changes| stream::iter(changes).map(Ok)).try_flatten().boxed()
    }
}

/// First what is refused, then the complete set.
fn changes(query: &Query, rows: &Rows) -> Vec<Change> {
    let (mut changes, mut set) = (Vec::new(), Vec::new());
    for (id, (_lease, record)) in &rows.1 {
        let judged = decode(record.as_bytes()).and_then(|instance| {
            let misplaced = || Refusal::new(RefusalKind::Misplaced, "it stands in the place of another");
            let is_his = instance.id.as_str() == id && instance.service == *query.service();
            if is_his { Ok(instance) } else { Err(misplaced()) }
        });
        match judged {
            Ok(instance) => set.push(Arc::new(instance)),
            Err(reason) => {
                let (id, record) = (InstanceId::new(id).ok(), format!("board:{id}").into());
                changes.push(Change::Refused { id, record, reason });
            }
        }
    }
    changes.push(Change::Set(set));
    changes
}
