//! Records and events as they come out of etcd, without the client library's wrappers.

use etcd_client::proto::{PbEvent, PbKeyValue};

/// One record and where it stands in the history of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// 0 = none.
    pub(crate) lease: i64,
    /// The revision of its last put.
    pub(crate) revision: i64,
}

impl Entry {
    /// The key, unless it is somebody's who does not write UTF-8.
    pub(crate) fn key(&self) -> Option<&str> {
        std::str::from_utf8(&self.key).ok()
    }
}

impl From<PbKeyValue> for Entry {
    fn from(kv: PbKeyValue) -> Self {
        Self { key: kv.key, value: kv.value, lease: kv.lease, revision: kv.mod_revision }
    }
}

/// One thing that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Put(Entry),
    Removed { key: Vec<u8>, revision: i64 },
}

impl Event {
    /// `None` for what a newer etcd may invent.
    pub(crate) fn read(event: PbEvent) -> Option<Self> {
        const PUT: i32 = etcd_client::EventType::Put as i32;
        const DELETE: i32 = etcd_client::EventType::Delete as i32;
        let kv = event.kv?;
        match event.r#type {
            PUT => Some(Self::Put(kv.into())),
            DELETE => Some(Self::Removed { key: kv.key, revision: kv.mod_revision }),
            _ => None,
        }
    }

    pub(crate) fn revision(&self) -> i64 {
        match self {
            Self::Put(entry) => entry.revision,
            Self::Removed { revision, .. } => *revision,
        }
    }
}

/// A complete, linearizable list: what stood under a prefix at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) revision: i64,
    pub(crate) entries: Vec<Entry>,
}
