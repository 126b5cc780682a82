//! Code of the author's that sleeps for ever, at the stage that `ACTOR_SLEEPS` names.

use std::{env, future::pending, time::Duration};

use meshwork::{App, Component, Schedule};
use meshwork_tests::event::Event;

/// Adds it, after the hooks that are there already.
pub(crate) fn added(app: App) -> App {
    let app = app.job("sleep", |_| sleep("job"));
    let vault = || Component::new("vault");
    match env::var("ACTOR_SLEEPS").as_deref() {
        Ok("component start") => app.component(vault().start(|_| sleep("component start"))),
        Ok("component stop") => app.component(vault().stop(|_| sleep("component stop"))),
        Ok("warm_up") => app.warm_up(|_| sleep("warm_up")),
        Ok("on_serving") => app.on_serving(|_| sleep("on_serving")),
        Ok("on_stop") => app.on_stop(|_| sleep("on_stop")),
        Ok("task") => app.task("outbox", |_| sleep("task")),
        Ok("schedule") => {
            app.schedule("nightly", Schedule::every(Duration::from_millis(10)), |_| sleep("schedule"))
        }
        _ => app,
    }
}

/// Says so, and never ends.
async fn sleep(name: &str) {
    Event::Hook { name: name.to_owned() }.say();
    pending::<()>().await;
}
