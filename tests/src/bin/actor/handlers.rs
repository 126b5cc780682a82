//! The HTTP side.

use axum::{Json, Router, http::HeaderMap, routing::get};
use meshwork_tests::users::{hang, work};
use serde_json::{Value, json};

pub(crate) fn router() -> Router {
    Router::new()
        .route("/who", get(|| async { Json(json!({ "pid": std::process::id() })) }))
        .route(
            "/work",
            get(|| async {
                work().await;
                std::process::id().to_string()
            }),
        )
        .route("/hang", get(hang))
        .route("/headers", get(headers))
}

async fn headers(headers: HeaderMap) -> Json<Value> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Json(headers.iter().map(|(name, value)| (name.to_string(), Value::from(text(value)))).collect())
}
