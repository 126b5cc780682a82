//! The task of a channel: follows the watch, keeps a node per endpoint, stores members and picker.
//!
//! It is the one writer of what calls read. Records that did not change cost a pointer comparison; nodes in
//! the intersection of two views keep their connection and their statistics.

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use meshwork_balance::{Arrival, Member, Node, NodeKey};
use meshwork_core::{
    AddressRules, Endpoint, Instance, Instances, Scheme, Snapshot, Staleness, Task, Timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Protocol, TlsUse, clock,
    http1::Http1,
    link::Link,
    owner,
    shared::{Kind, Pending, Shared, Store},
};

/// Follows the watch until the channel is dropped or closed.
///
/// # Cancel safety
/// Dropping the future gives all connections up; streams in flight finish.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut watch = shared.watch.clone();
    let mut book = Book::new(Arc::clone(&shared));
    // Not all channels of a process rest, and wake, at once.
    let rest = || shared.config.idle.map(clock::aged);
    let mut pulse = pin!(shared.pulse.run(rest()));
    loop {
        tokio::select! {
            view = watch.changed() => book.apply(&view),
            () = shared.rebuild.notified() => book.apply(&watch.latest()),
            () = stop.cancelled() => break,
            () = &mut pulse => {
                if shared.is_calm() {
                    book.rest();
                }
                pulse.set(shared.pulse.run(rest()));
            }
        }
    }
}

/// What makes a link: where and in which protocol.
type LinkKey = (NodeKey, Protocol);

/// All links, and which records led to them.
struct Book {
    shared: Arc<Shared>,
    links: HashMap<LinkKey, Held>,
    /// Links that more than one entry uses.
    crowded: usize,
    lists: [List; 2],
}

/// A link with its node and the task that owns its connection.
struct Held {
    link: Arc<Link>,
    node: Arc<Node>,
    users: usize,
    _owner: Task,
}

/// The records of one kind, sorted by id as in the view.
#[derive(Default)]
struct List {
    built: bool,
    entries: Vec<Entry>,
}

struct Entry {
    instance: Arc<Instance>,
    /// Absent when none of its endpoints may be called.
    place: Option<(LinkKey, Member)>,
}

impl List {
    /// Whether these are records of the same ids.
    fn is_of(&self, instances: &Instances) -> bool {
        let same = |(entry, instance): (&Entry, &Arc<Instance>)| {
            Arc::ptr_eq(&entry.instance, instance) || entry.instance.id == instance.id
        };
        self.built && self.entries.len() == instances.len() && self.entries.iter().zip(instances).all(same)
    }
}

impl Book {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, links: HashMap::new(), crowded: 0, lists: Default::default() }
    }

    fn apply(&mut self, view: &Snapshot) {
        for kind in Kind::ALL {
            if !self.shared.is_wanted(kind) {
                continue;
            }
            match view.known() {
                Some(instances) => self.rebuild(kind, instances),
                None => self.pend(kind, view.staleness()),
            }
            self.shared.group(kind).changed.notify_waiters();
        }
        self.drop_unused();
    }

    /// Gives all connections up, as before the first call: nobody calls.
    fn rest(&mut self) {
        if self.links.is_empty() {
            return;
        }
        tracing::debug!(service = %self.shared.service, "nobody calls: connections are given up");
        for kind in Kind::ALL.into_iter().filter(|kind| self.shared.is_wanted(*kind)) {
            self.store(kind, Some(Pending { cause: None }), Arc::new([]));
            // After the store: a call that asks anew from here on finds it.
            self.shared.forget(kind);
        }
        self.lists = Default::default();
        self.crowded = 0;
        self.links.drain().for_each(|(_, held)| held.link.close());
    }

    /// Nothing was ever read.
    fn pend(&self, kind: Kind, staleness: &Staleness) {
        let pending = Some(Pending { cause: staleness.cause().cloned() });
        self.store(kind, pending, Arc::new([]));
    }

    fn store(&self, kind: Kind, pending: Option<Pending>, members: Arc<[Member]>) {
        let picker = self.shared.config.policy.picker(Arc::clone(&members));
        let entries = &self.lists[kind as usize].entries;
        let unusable = entries.iter().filter(|entry| entry.place.is_none()).count();
        let store = Store { pending, members, picker, known: entries.len(), unusable };
        self.shared.group(kind).store.store(Arc::new(store));
    }

    /// Brings the members in line with the view.
    fn rebuild(&mut self, kind: Kind, instances: &Arc<Instances>) {
        let list = std::mem::take(&mut self.lists[kind as usize]);
        let list = if list.is_of(instances) {
            self.restate(kind, list, instances)
        } else {
            self.merge(kind, list, instances)
        };
        let members = if self.crowded > 0 { self.distinct(&list.entries) } else { all(&list.entries) };
        self.lists[kind as usize] = list;
        self.store(kind, None, members);
    }

    /// The same ids as before: only changed records are touched.
    fn restate(&mut self, kind: Kind, mut list: List, instances: &Arc<Instances>) -> List {
        for (entry, instance) in list.entries.iter_mut().zip(instances.iter()) {
            if !Arc::ptr_eq(&entry.instance, instance) {
                let place = self.place(kind, instance);
                self.release(entry.place.take());
                *entry = Entry { instance: Arc::clone(instance), place };
            }
        }
        list
    }

    /// Walks the old and the new list together: both are sorted by id.
    fn merge(&mut self, kind: Kind, list: List, instances: &Arc<Instances>) -> List {
        let (mut added, mut removed) = (0_usize, 0_usize);
        let mut entries = Vec::with_capacity(instances.len());
        let mut old = list.entries.into_iter().peekable();
        for instance in instances.iter() {
            while let Some(gone) = old.next_if(|entry| entry.instance.id < instance.id) {
                removed += 1;
                self.release(gone.place);
            }
            match old.next_if(|entry| entry.instance.id == instance.id) {
                Some(same) if Arc::ptr_eq(&same.instance, instance) => entries.push(same),
                before => {
                    added += usize::from(before.is_none());
                    // Taken before the old place is given back: an unchanged address keeps its node.
                    let place = self.place(kind, instance);
                    self.release(before.and_then(|entry| entry.place));
                    entries.push(Entry { instance: Arc::clone(instance), place });
                }
            }
        }
        for gone in old {
            removed += 1;
            self.release(gone.place);
        }
        if added + removed > 0 || !list.built {
            let (service, total) = (&self.shared.service, entries.len());
            tracing::info!(%service, ?kind, added, removed, total, "instances changed");
        }
        List { built: true, entries }
    }

    /// The link and the member of a record, made where there is none.
    fn place(&mut self, kind: Kind, instance: &Arc<Instance>) -> Option<(LinkKey, Member)> {
        let config = &self.shared.config;
        let endpoints = endpoints_of(kind, instance, config.scheme, config.connect.tls(), &config.addresses)?;
        let protocol = protocol_of(kind, instance, endpoints[0].scheme());
        let key = (NodeKey::new(endpoints), protocol);
        let held = match self.links.get_mut(&key) {
            Some(held) => {
                if !Arc::ptr_eq(&held.link.record(), instance) {
                    held.link.restate(Arc::clone(instance));
                }
                held
            }
            None => {
                let held = hold(&self.shared, &key, instance);
                self.links.entry(key.clone()).or_insert(held)
            }
        };
        held.users += 1;
        self.crowded += usize::from(held.users == 2);
        let member = Member::new(Arc::clone(&held.node), Arc::clone(instance));
        Some((key, member))
    }

    fn release(&mut self, place: Option<(LinkKey, Member)>) {
        if let Some(held) = place.and_then(|(key, _)| self.links.get_mut(&key)) {
            held.users -= 1;
            self.crowded -= usize::from(held.users == 1);
        }
    }

    /// Gives up the connections that no record leads to any more.
    fn drop_unused(&mut self) {
        self.links.retain(|_, held| {
            if held.users == 0 {
                held.link.close();
            }
            held.users > 0
        });
    }

    /// One member per link, where several records share one: the record that its connection has confirmed,
    /// else a native one, else the one started last.
    fn distinct(&self, entries: &[Entry]) -> Arc<[Member]> {
        let mut best: HashMap<&LinkKey, usize> = HashMap::new();
        let rank = |entry: &Entry, key: &LinkKey| {
            let identity = self.links.get(key).and_then(|held| held.link.identity());
            let instance = &entry.instance;
            (identity.as_ref() == Some(&instance.id), instance.is_native(), instance.start_time)
        };
        for (at, entry) in entries.iter().enumerate() {
            let Some((key, _)) = &entry.place else { continue };
            let other = best.entry(key).or_insert(at);
            if *other != at && rank(entry, key) > rank(&entries[*other], key) {
                *other = at;
            }
        }
        let is_best = |(at, entry): &(usize, &Entry)| {
            entry.place.as_ref().is_some_and(|(key, _)| best.get(key) == Some(at))
        };
        let chosen = entries.iter().enumerate().filter(is_best);
        chosen.filter_map(|(_, entry)| entry.place.as_ref()).map(|(_, member)| member.clone()).collect()
    }
}

fn all(entries: &[Entry]) -> Arc<[Member]> {
    if entries.iter().all(|entry| entry.place.is_some()) {
        // Of known length: one allocation, one pass.
        let member = |entry: &Entry| {
            let (_, member) = entry.place.as_ref().expect("invariant: each entry has its place");
            member.clone()
        };
        return entries.iter().map(member).collect();
    }
    entries.iter().filter_map(|entry| entry.place.as_ref()).map(|(_, member)| member.clone()).collect()
}

/// A new link with its node; its owner begins to dial.
fn hold(shared: &Arc<Shared>, (key, protocol): &LinkKey, instance: &Arc<Instance>) -> Held {
    let config = &shared.config;
    let pool = || Http1::new(config.max_http1_connections, config.http1_idle, config.max_age);
    let pool = (*protocol == Protocol::Http1).then(pool);
    let link =
        Arc::new(Link::new(key.clone(), *protocol, Arc::clone(instance), pool, config.max_connections));
    let age = instance.start_time.and_then(|start| {
        let millis = Timestamp::now().as_millis().checked_sub(start.as_millis())?;
        Some(Duration::from_millis(millis))
    });
    let arrival = Arrival::new(shared.clock.now()).running_for(age);
    let attachment: Arc<Link> = Arc::clone(&link);
    let node = Node::new(key.clone(), attachment, &shared.peers, arrival);
    link.tie(&node);
    let name = format!("client {} {}", shared.service, link.target().address());
    let stop = CancellationToken::new();
    let task = tokio::spawn(owner::own(Arc::clone(&link), Arc::clone(shared)));
    Held { link, node, users: 0, _owner: Task::new(name, stop, task) }
}

/// The endpoints of a record for one kind of call: those of one scheme, which make one node.
fn endpoints_of(
    kind: Kind,
    instance: &Instance,
    only: Option<Scheme>,
    tls: TlsUse,
    rules: &AddressRules,
) -> Option<Vec<Endpoint>> {
    let mut order = match kind {
        Kind::Grpc => [Scheme::Grpc, Scheme::Grpcs, Scheme::Http, Scheme::Https],
        Kind::Http => [Scheme::Http, Scheme::Https, Scheme::Grpc, Scheme::Grpcs],
    };
    if tls != TlsUse::Avoided {
        // What is offered with TLS for the one kind of call is better than what is offered without for the other.
        order.sort_by_key(|scheme| !scheme.is_tls());
    }
    let allowed = |scheme: Scheme| {
        let of_scheme = instance.endpoints.iter().filter(move |endpoint| endpoint.scheme() == scheme);
        of_scheme.filter(|endpoint| rules.objection_to(endpoint).is_none())
    };
    let mut schemes = order.into_iter().filter(|scheme| match only {
        Some(only) => only == *scheme,
        None => tls != TlsUse::Required || scheme.is_tls(),
    });
    let scheme = schemes.find(|scheme| allowed(*scheme).next().is_some())?;
    Some(allowed(scheme).cloned().collect())
}

/// Native instances speak HTTP/2 everywhere; a foreign `http` endpoint speaks HTTP/1.1, but for gRPC.
fn protocol_of(kind: Kind, instance: &Instance, scheme: Scheme) -> Protocol {
    if instance.is_native() || scheme.is_grpc() || kind == Kind::Grpc {
        Protocol::Http2
    } else {
        Protocol::Http1
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, Origin, ServiceName};

    use super::*;

    fn instance(endpoints: &[&str]) -> Instance {
        let service = ServiceName::new("users").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new("users-1").unwrap());
        instance.endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        instance
    }

    fn chosen(kind: Kind, endpoints: &[&str], only: Option<Scheme>) -> Vec<String> {
        chosen_with(TlsUse::Avoided, kind, endpoints, only)
    }

    fn chosen_with(tls: TlsUse, kind: Kind, endpoints: &[&str], only: Option<Scheme>) -> Vec<String> {
        let found = endpoints_of(kind, &instance(endpoints), only, tls, &AddressRules::default());
        found.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_has_its_scheme_and_one_scheme_serves_both() {
        let both = ["http://10.0.0.1:80", "grpc://10.0.0.1:90", "grpc://[fd00::1]:90"];
        assert_eq!(chosen(Kind::Http, &both, None), ["http://10.0.0.1:80"]);
        assert_eq!(chosen(Kind::Grpc, &both, None), ["grpc://10.0.0.1:90", "grpc://[fd00::1]:90"]);
        assert_eq!(chosen(Kind::Grpc, &both[..1], None), ["http://10.0.0.1:80"]);
        assert_eq!(chosen(Kind::Http, &both[1..2], None), ["grpc://10.0.0.1:90"]);
        assert_eq!(chosen(Kind::Http, &both, Some(Scheme::Grpc)).len(), 2);
        assert!(chosen(Kind::Http, &both, Some(Scheme::Https)).is_empty());
    }

    #[test]
    fn with_tls_configured_nothing_is_sent_in_the_clear_unless_asked_for() {
        let all = ["http://10.0.0.1:80", "https://10.0.0.1:443", "grpc://10.0.0.1:90"];
        assert_eq!(chosen(Kind::Http, &all, None), ["http://10.0.0.1:80"]);
        for tls in [TlsUse::Preferred, TlsUse::Required] {
            assert_eq!(chosen_with(tls, Kind::Http, &all, None), ["https://10.0.0.1:443"]);
            assert_eq!(chosen_with(tls, Kind::Grpc, &all, None), ["https://10.0.0.1:443"]);
            assert_eq!(chosen_with(tls, Kind::Grpc, &all, Some(Scheme::Grpc)), ["grpc://10.0.0.1:90"]);
        }
        assert_eq!(chosen_with(TlsUse::Preferred, Kind::Http, &all[..1], None), ["http://10.0.0.1:80"]);
        assert!(chosen_with(TlsUse::Required, Kind::Http, &all[..1], None).is_empty());
    }

    #[test]
    fn addresses_that_may_not_be_called_are_no_endpoints() {
        assert!(chosen(Kind::Http, &["http://169.254.1.1:80"], None).is_empty());
    }

    #[test]
    fn only_foreign_http_endpoints_speak_http1() {
        let mut record = instance(&["http://10.0.0.1:80"]);
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Http), Protocol::Http2);
        record.origin = Origin::Foreign;
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Http), Protocol::Http1);
        assert_eq!(protocol_of(Kind::Grpc, &record, Scheme::Http), Protocol::Http2);
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Grpc), Protocol::Http2);
    }
}
