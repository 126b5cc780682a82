//! Scenario 20: providers in etcd and in Consul at once, while the two disagree, fail, flap, and while all of them move
//! from one to the other.
//!
//! Every provider is reached through a proxy of its own, which counts the connections that callers make.

mod moving;
mod stage;

use std::{path::Path, time::Duration};

use meshwork_testkit::{load::Load, proxy::FaultProxy, truth::eventually};
use meshwork_tests::{
    Result, SERVICE,
    judge::{Judge, Length},
    provider::Plan,
    residue::Residue,
};
use tokio::time::{Instant, sleep};

use self::stage::{Home, PATIENCE, Place, RATE, Side, Stage};
use crate::caller::{Caller, nothing_left};

/// How long a record that was taken away by hand may be missing.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the views may take to be true once a registry is back.
const BACK: Duration = Duration::from_secs(12);

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let mut stage = Stage::start(actor).await?;
    let before = Residue::now();
    apart(&mut stage, length, judge).await?;
    stage.empty(judge, length).await?;
    moving::play(&mut stage, length, judge).await?;
    judge.succeeds("nothing leaked", nothing_left(before).await);
    Ok(())
}

/// The sides disagree, one is down, one flaps, one shows strangers.
async fn apart(stage: &mut Stage, length: Length, judge: &mut Judge) -> Result<()> {
    for home in [Home::Both, Home::Both, Home::Primary, Home::Secondary] {
        stage.provide(home).await?;
    }
    let (caller, handle) = stage.caller("union").await?;
    let call = caller.clone();
    let load = Load::rate(RATE).lasting(Duration::MAX).start(move |_| call.clone().plain());
    caller.heard_of(&stage.pids(), PATIENCE).await?;
    let eye = stage.watch(&caller);
    let made = stage.connections();
    judge.told("nodes", stage.places.len());

    let calm = Duration::from_secs(length.pick(1, 3, 10));
    sleep(calm).await;
    judge.succeeds(
        "the view is what either side has",
        caller.view_is(&stage.living(), length.allows(AGAIN)).await,
    );

    // Each side forgets somebody whom the other one knows.
    for side in [Side::Etcd, Side::Consul] {
        let id = stage.places[0].provider.id().to_owned();
        stage.forget(side, &id).await?;
        let gone = Instant::now();
        let back = || async { stage.lists(side, &id).await.unwrap_or(false) };
        let healed = eventually(AGAIN * 4, "it is registered again", back).await;
        judge.succeeds(&format!("{side:?} has it again"), healed);
        judge.time(&format!("{side:?} has it again after"), gone.elapsed(), AGAIN);
    }

    // One is away; who comes and goes meanwhile is seen through the other.
    let down = Duration::from_secs(length.pick(3, 10, 60));
    for side in [Side::Consul, Side::Etcd] {
        let leaver = stage.provide(Home::Both).await?;
        caller.heard_of(&[stage.places[leaver].provider.pid()], PATIENCE).await?;
        stage.cut(side).await?;
        sleep(down / 2).await;
        let comer = stage.provide(Home::Both).await?;
        caller.heard_of(&[stage.places[comer].provider.pid()], PATIENCE).await?;
        let left = stage.places[leaver].provider.id().to_owned();
        eye.forgets(&left);
        judge.succeeds("it stops while one side is away", stage.stop(leaver).await);
        judge.succeeds(
            "who left is not kept by the side that is away",
            caller.view_is(&stage.living(), length.allows(AGAIN)).await,
        );
        sleep(down / 2).await;
        stage.heal(side).await?;
        let began = Instant::now();
        let fresh = eventually(BACK * 4, "both are fresh", || async { stage::is_fresh(&handle) }).await;
        judge.succeeds("the view is sure again", fresh);
        judge.succeeds("everybody is registered again", stage.whole(side, BACK * 4).await);
        judge.time(&format!("{side:?} is whole after"), began.elapsed(), BACK);
        let there = caller.view_is(&stage.living(), length.allows(AGAIN)).await;
        judge.succeeds("nobody is back with it", there);
        stage.forget(side, &left).await?;
        eye.forgets(stage.places[comer].provider.id());
        judge.succeeds("it stops", stage.stop(comer).await);
    }

    let flaps = length.pick(5, 20, 60);
    for side in [Side::Consul, Side::Etcd] {
        for _ in 0..flaps {
            stage.cut(side).await?;
            sleep(Duration::from_millis(500)).await;
            stage.heal(side).await?;
            sleep(Duration::from_millis(500)).await;
        }
        judge.succeeds("everybody is registered after flapping", stage.whole(side, BACK * 4).await);
    }
    judge.told("flaps", flaps * 2);
    judge.succeeds("the view is the truth", caller.view_is(&stage.living(), length.allows(BACK)).await);

    strangers(stage, &caller, &handle, length, judge).await?;

    load.stop();
    let report = load.report().await;
    stage::tell("apart", &report, judge);
    eye.judged(judge).await;
    stage.judge_connections(&made, judge);
    caller.end().await;
    Ok(())
}

/// Foreign records at the addresses of native ones: nobody is called twice, nobody is dialled anew.
async fn strangers(
    stage: &mut Stage,
    caller: &Caller,
    handle: &meshwork::Handle,
    length: Length,
    judge: &mut Judge,
) -> Result<()> {
    let shown = |count: usize| async move {
        let told = format!("Consul's side shows {count}");
        eventually(PATIENCE, &told, || async { stage::shown(handle, Side::Consul) == count }).await
    };
    let native = stage::shown(handle, Side::Consul);
    stage.put_stranger("stranger-1", stage.places[0].front.addr(), &[]).await?;
    shown(native + 1).await?;
    judge.succeeds(
        "a stranger at a native address is no node",
        caller.view_is(&stage.living(), length.allows(AGAIN)).await,
    );
    stage.forget(Side::Consul, "stranger-1").await?;
    shown(native).await?;

    // Somebody who is known as a stranger first, and announces himself then.
    let late = FaultProxy::start(stage.etcd.member(0).addr()).await?;
    late.refuse().await?;
    let port = meshwork_testkit::ports::Port::claim()?;
    let front = FaultProxy::start(port.addr()).await?;
    let plan = Plan::provider()
        .on(&port)
        .etcd(&[late.url()])
        .config("registry.required", "false")
        .config("registry.start_timeout", "300ms")
        .config("service.advertise.port", front.addr().port().to_string());
    let provider = plan.start(&stage.actor).await?;
    stage.put_stranger("stranger-2", front.addr(), &["grpc"]).await?;
    caller.heard_of(&[provider.pid()], PATIENCE).await?;
    let made = front.traffic().connections;
    stage.places.push(Place { front, provider, home: Home::Primary, _port: port });
    late.accept().await?;
    judge.succeeds("the native takes the stranger's place", caller.view_is(&stage.living(), PATIENCE).await);
    stage.forget(Side::Consul, "stranger-2").await?;
    shown(native).await?;
    sleep(Duration::from_millis(500)).await;
    judge.succeeds("the native stays", caller.view_is(&stage.living(), length.allows(AGAIN)).await);
    let place = stage.places.len() - 1;
    let anew = stage.places[place].front.traffic().connections - made;
    judge.count("new connections to who was a stranger", usize::try_from(anew)?, 0);
    judge.succeeds("it stops", stage.stop(place).await);
    judge.succeeds(
        &format!("{SERVICE} are all there"),
        caller.view_is(&stage.living(), length.allows(AGAIN)).await,
    );
    Ok(())
}
