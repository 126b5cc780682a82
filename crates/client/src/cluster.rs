//! The task of a channel: follows the watch, keeps a node per endpoint, stores members and picker.
//!
//! It is the one writer of what calls read. Records that did not change cost a pointer comparison; nodes in
//! the intersection of two views keep their connection and their statistics.

use std::{collections::HashMap, future, pin::pin, sync::Arc, time::Duration};

use meshwork_balance::{Arrival, Member, Node, NodeKey, Now, Roster};
use meshwork_core::{Instance, Instances, Snapshot, Staleness, Task, Timestamp, Watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Protocol,
    aperture::{Aperture, Chosen},
    clock,
    http1::Http1,
    link::Link,
    offer::{endpoints_of, is_forbidden, protocol_of},
    owner,
    rules::Pickers,
    shared::{Kind, Pending, Shared, Store, Tally},
    standing::Standing,
};

/// Follows the watch until the channel is dropped or closed.
///
/// # Cancel safety
/// Dropping the future gives all connections up; streams in flight finish.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut watch = shared.watch.clone();
    let mut book = Book::new(Arc::clone(&shared));
    // Only who makes something of it follows its own kind.
    let mut peers = shared.config.local.peers.clone().filter(|_| book.needs_peers());
    // Not all channels of a process rest, and wake, at once.
    let rest = || shared.config.idle.map(clock::aged);
    let mut pulse = pin!(shared.pulse.run(rest()));
    loop {
        tokio::select! {
            view = watch.changed() => book.apply(&view),
            () = shared.rebuild.notified() => book.apply(&watch.latest()),
            view = changed(&mut peers) => {
                if book.stand(&view) {
                    book.apply(&watch.latest());
                }
            }
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

/// As the watch has it; never without one.
async fn changed(peers: &mut Option<Watch>) -> Snapshot {
    match peers {
        Some(peers) => peers.changed().await,
        None => future::pending().await,
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
    rosters: [Roster; 2],
    /// When the view that is being applied came. One moment for all that are new in it: the earliest of them would be
    /// further on in its slow start, and preferred to all others.
    arrival: Now,
    /// What calls read before the last change; its members are used again at the next one.
    replaced: [Option<Arc<Store>>; 2],
    aperture: Aperture,
    standing: Standing,
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
    /// Of the view: instances that are up and left to other clients, and others that are not up.
    aside: usize,
    not_up: usize,
}

struct Entry {
    instance: Arc<Instance>,
    /// Where it is not that of the record.
    weight: Option<u16>,
    /// Absent when none of its endpoints may be called.
    place: Option<(LinkKey, Member)>,
}

impl Entry {
    /// Its member, where it has a place.
    fn member(&self) -> &Member {
        &self.place.as_ref().expect("invariant: each entry has its place").1
    }

    /// Whether it is of this very record, with this weight.
    fn is(&self, instance: &Arc<Instance>, weight: Option<u16>) -> bool {
        Arc::ptr_eq(&self.instance, instance) && self.weight == weight
    }
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
        let aperture = Aperture::new(&shared.config);
        Self {
            shared,
            links: HashMap::new(),
            crowded: 0,
            lists: Default::default(),
            rosters: Default::default(),
            arrival: Now::from_nanos(0),
            replaced: Default::default(),
            aperture,
            standing: Standing::default(),
        }
    }

    /// Whether it matters where the process stands among its own kind.
    fn needs_peers(&self) -> bool {
        self.aperture.needs_rank() || !self.shared.config.local.zone.is_empty()
    }

    /// Takes over where the process stands; says whether that is news.
    fn stand(&mut self, peers: &Snapshot) -> bool {
        let mut standing = Standing::of(&self.shared.config.local, peers);
        if !self.aperture.needs_rank() {
            // Every start and stop of a neighbour changes it.
            standing.rank = None;
        }
        let is_news = standing != self.standing;
        self.standing = standing;
        is_news
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
        for kind in Kind::ALL {
            if !self.shared.is_wanted(kind) {
                continue;
            }
            self.store(kind, Some(Pending { cause: None }), Arc::new([]));
            // After the store: a call that asks anew from here on finds it.
            self.shared.forget(kind);
        }
        self.lists = Default::default();
        self.forget();
        self.crowded = 0;
        self.links.drain().for_each(|(_, held)| held.link.close());
    }

    /// Nothing was ever read.
    fn pend(&mut self, kind: Kind, staleness: &Staleness) {
        let pending = Some(Pending { cause: staleness.cause().cloned() });
        self.store(kind, pending, Arc::new([]));
    }

    fn store(&mut self, kind: Kind, pending: Option<Pending>, members: Arc<[Member]>) {
        let rules = self.shared.rules.load_full();
        let pickers = Pickers::new(&rules, &self.shared.config.local, &self.standing, &members);
        let List { entries, aside, not_up, .. } = &self.lists[kind as usize];
        let placeless = || entries.iter().filter(|entry| entry.place.is_none());
        let forbidden = |entry: &&Entry| is_forbidden(kind, &entry.instance, &self.shared.config);
        let tally = Tally {
            known: entries.len() + aside + not_up,
            aside: *aside,
            not_up: *not_up,
            unusable: placeless().count(),
            forbidden: placeless().filter(forbidden).count(),
        };
        let store = Store { pending, members, pickers, tally };
        self.replaced[kind as usize] = Some(self.shared.group(kind).store.swap(Arc::new(store)));
    }

    /// Brings the members in line with the view.
    fn rebuild(&mut self, kind: Kind, instances: &Arc<Instances>) {
        let list = std::mem::take(&mut self.lists[kind as usize]);
        self.arrival = self.shared.clock.now();
        let chosen = self.aperture.choose(&self.standing, instances);
        let mut list = if list.is_of(&chosen.instances) {
            self.restate(kind, list, &chosen)
        } else {
            self.merge(kind, list, &chosen)
        };
        (list.aside, list.not_up) = (chosen.aside, chosen.not_up);
        let members =
            if self.crowded > 0 { self.distinct(&list.entries) } else { self.all(kind, &list.entries) };
        self.lists[kind as usize] = list;
        self.store(kind, None, members);
    }

    /// All members, in what calls read before the last change where nobody reads it any more.
    fn all(&mut self, kind: Kind, entries: &[Entry]) -> Arc<[Member]> {
        let roster = &mut self.rosters[kind as usize];
        if let Some(Store { members, pickers, .. }) =
            self.replaced[kind as usize].take().and_then(Arc::into_inner)
        {
            drop(pickers);
            roster.take_back(members);
        }
        if entries.iter().all(|entry| entry.place.is_some()) {
            return roster.list(entries.iter().map(Entry::member));
        }
        roster.forget();
        entries.iter().filter_map(|entry| entry.place.as_ref()).map(|(_, member)| member.clone()).collect()
    }

    /// Lets go of what calls read before.
    fn forget(&mut self) {
        self.replaced = Default::default();
        self.rosters.iter_mut().for_each(Roster::forget);
    }

    /// The same ids as before: only changed records are touched.
    fn restate(&mut self, kind: Kind, mut list: List, chosen: &Chosen<'_>) -> List {
        for (at, (entry, instance)) in list.entries.iter_mut().zip(&*chosen.instances).enumerate() {
            let weight = chosen.weight(at);
            if !entry.is(instance, weight) {
                let place = self.place(kind, instance, weight);
                self.release(entry.place.take());
                *entry = Entry { instance: Arc::clone(instance), weight, place };
            }
        }
        list
    }

    /// Walks the old and the new list together: both are sorted by id.
    fn merge(&mut self, kind: Kind, list: List, chosen: &Chosen<'_>) -> List {
        let (mut added, mut removed) = (0_usize, 0_usize);
        let mut entries = Vec::with_capacity(chosen.instances.len());
        let mut old = list.entries.into_iter().peekable();
        for (at, instance) in chosen.instances.iter().enumerate() {
            let weight = chosen.weight(at);
            if let Some(same) = old.next_if(|entry| entry.is(instance, weight)) {
                entries.push(same);
                continue;
            }
            while let Some(gone) = old.next_if(|entry| entry.instance.id < instance.id) {
                removed += 1;
                self.release(gone.place);
            }
            match old.next_if(|entry| entry.instance.id == instance.id) {
                Some(same) if same.is(instance, weight) => entries.push(same),
                before => {
                    added += usize::from(before.is_none());
                    // Taken before the old place is given back: an unchanged address keeps its node.
                    let place = self.place(kind, instance, weight);
                    self.release(before.and_then(|entry| entry.place));
                    entries.push(Entry { instance: Arc::clone(instance), weight, place });
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
        List { built: true, entries, ..List::default() }
    }

    /// The link and the member of a record, made where there is none.
    fn place(
        &mut self,
        kind: Kind,
        instance: &Arc<Instance>,
        weight: Option<u16>,
    ) -> Option<(LinkKey, Member)> {
        let endpoints = endpoints_of(kind, instance, &self.shared.config)?;
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
                let held = hold(&self.shared, &key, instance, self.arrival);
                self.links.entry(key.clone()).or_insert(held)
            }
        };
        held.users += 1;
        self.crowded += usize::from(held.users == 2);
        let weight = weight.unwrap_or(instance.weight);
        let member = Member::with_weight(Arc::clone(&held.node), Arc::clone(instance), weight);
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
        let before = self.links.len();
        self.links.retain(|_, held| {
            if held.users == 0 {
                held.link.close();
            }
            held.users > 0
        });
        // Their nodes must not live on until the next change.
        if self.links.len() < before {
            self.forget();
        }
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

/// A new link with its node; its owner begins to dial.
fn hold(shared: &Arc<Shared>, (key, protocol): &LinkKey, instance: &Arc<Instance>, seen: Now) -> Held {
    let config = &shared.config;
    let pool = || Http1::new(config.max_http1_connections, config.http1_idle, config.max_age);
    let pool = (*protocol == Protocol::Http1).then(pool);
    let link =
        Arc::new(Link::new(key.clone(), *protocol, Arc::clone(instance), pool, config.max_connections));
    let age = instance.start_time.and_then(|start| {
        let millis = Timestamp::now().as_millis().checked_sub(start.as_millis())?;
        Some(Duration::from_millis(millis))
    });
    let arrival = Arrival::new(seen).running_for(age);
    let attachment: Arc<Link> = Arc::clone(&link);
    let node = Node::new(key.clone(), attachment, shared.peers(key.endpoints()[0].scheme()), arrival);
    link.tie(&node);
    let name = format!("client {} {}", shared.service, link.target().address());
    let stop = CancellationToken::new();
    let task = tokio::spawn(owner::own(Arc::clone(&link), Arc::clone(shared)));
    Held { link, node, users: 0, _owner: Task::new(name, stop, task) }
}
