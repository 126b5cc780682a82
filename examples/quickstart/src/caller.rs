//! The caller: a steady stream of calls over one channel.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork::{BoxError, Channel};
use tokio::{
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::score::{Greeting, Score};

/// The most calls under way at once; beyond that the caller waits, so that nothing piles up.
const MOST: usize = 2_000;

/// Calls `rate` times a second until `stop`, then waits for the calls under way.
pub(crate) async fn call(channel: Channel, rate: u32, score: Arc<Score>, stop: CancellationToken) {
    // The first calls come before the first greeter: they wait for it.
    let channel = channel.idempotent().wait_for_ready(true);
    let mut beat = time::interval(Duration::from_secs(1) / rate);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick(), if calls.len() < MOST => {
                let (channel, score) = (channel.clone(), Arc::clone(&score));
                calls.spawn(async move {
                    let began = Instant::now();
                    let answer = greet(&channel).await.map_err(|error| error.to_string());
                    score.count(answer, began.elapsed());
                });
            }
            Some(_) = calls.join_next() => {}
        }
    }
    while calls.join_next().await.is_some() {}
}

async fn greet(channel: &Channel) -> Result<Greeting, BoxError> {
    let answer = channel.get("/hello").send().await?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status()).into());
    }
    Ok(answer.json().await?)
}
