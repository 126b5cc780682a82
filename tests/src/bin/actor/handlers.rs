//! The HTTP side.

use std::{convert::Infallible, iter, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use meshwork_tests::{
    behave::{Behaviour, Conduct, Handler, Served},
    users::hang,
};
use serde_json::{Value, json};

type Shared = State<Arc<Conduct>>;

pub(crate) fn router(conduct: Arc<Conduct>) -> Router {
    Router::new()
        .route("/who", get(|| async { Json(json!({ "pid": std::process::id() })) }))
        .route("/work", get(|conduct| worked(conduct, Handler::Work)))
        .route("/effect", post(|conduct| worked(conduct, Handler::Effect)))
        .route("/behave", post(behave))
        .route("/served", get(served))
        .route("/hang", get(hang))
        .route("/flood", get(flood))
        .route("/headers", get(headers))
        .with_state(conduct)
}

async fn worked(State(conduct): Shared, handler: Handler) -> Result<String, StatusCode> {
    match conduct.call(handler).await {
        Ok(()) => Ok(std::process::id().to_string()),
        Err(fault) => Err(StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)),
    }
}

async fn behave(State(conduct): Shared, Json(behaviour): Json<Behaviour>) {
    conduct.behave(behaviour);
}

async fn served(State(conduct): Shared) -> Json<Served> {
    Json(conduct.served())
}

/// An answer without an end.
async fn flood() -> Body {
    Body::from_stream(tokio_stream::iter(iter::repeat_with(|| Ok::<_, Infallible>(vec![0; 64 * 1024]))))
}

async fn headers(headers: HeaderMap) -> Json<Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Json(headers.iter().map(|(name, value)| (name.to_string(), Value::from(text(value)))).collect())
}
