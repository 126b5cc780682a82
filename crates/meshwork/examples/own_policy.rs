//! A policy of one's own, in an app: calls go to instances in the caller's rack while one of them can take the
//! call, to the others else.
//!
//! `cargo run -p meshwork --example own_policy`

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, routing::get};
use meshwork::{
    App, BoxError, Memory,
    client::balance::{Member, Pick, Picked, Picker, Policy, Pool},
};

/// Prefers the instances with the label `rack = <this>`.
struct SameRack(Arc<str>);

/// The picker of one snapshot. All that costs something is done here, once, and not for each call.
struct Neighbours {
    /// Keeps the rules that hold for every policy: connection first, ejection and its probe, slow start, what the
    /// call has tried already, pinned calls.
    pool: Pool,
    near: Box<[usize]>,
}

impl Policy for SameRack {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(members);
        let is_near = |member: &Member| member.instance().labels.get("rack") == Some(&*self.0);
        let near = pool.iter().enumerate().filter(|(_, member)| is_near(member)).map(|(at, _)| at).collect();
        Box::new(Neighbours { pool, near })
    }
}

impl Picker for Neighbours {
    /// Hot: no lock, no allocation.
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        // From a place of chance on, so that the neighbours share the calls.
        let start = (pick.random)() as usize % self.near.len().max(1);
        let order = self.near[start..].iter().chain(&self.near[..start]).copied();
        // Whom the order leaves out is asked when nobody in it can take the call.
        self.pool.take(pick, order)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let registry = Memory::new();
    for (name, rack) in [("ada", "r1"), ("bo", "r1"), ("cleo", "r2")] {
        let users = App::new()
            .with_environment("test")
            .with_config(format!("[service]\nname = \"users\"\nlabels = {{ rack = \"{rack}\" }}\n"))
            .with_registry(registry.clone())
            .http(Router::new().route("/", get(move || async move { name })));
        let handle = users.handle();
        tokio::spawn(users.serve_until(std::future::pending()));
        handle.serving().await;
    }

    let app = App::new()
        .with_environment("test")
        .with_registry(registry)
        .with_client("users", |users| users.policy = Arc::new(SameRack("r1".into())));
    let users = app.channel("users");
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..100 {
        *answers.entry(users.get("/").send().await?.text().await?).or_default() += 1;
    }
    // An instance that is not known yet is tried once, whatever the policy; a new one gets its share slowly.
    println!("{answers:?}");
    Ok(())
}
