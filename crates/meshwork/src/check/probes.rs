//! The questions that are asked over the network.

use std::{error::Error as _, sync::Arc};

use axum::body::Body;
use http::{Request, Uri, header::HOST};
use hyper_util::rt::TokioIo;
use meshwork_core::{BoxError, ErrorChain};
use tokio::{net::TcpStream, select};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

pub(super) async fn tcp(address: Arc<str>) -> Result<(), BoxError> {
    TcpStream::connect(&*address).await?;
    Ok(())
}

pub(super) async fn get(url: Uri) -> Result<(), BoxError> {
    let host = url.host().ok_or("no host in the URL")?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let authority = url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority).body(Body::empty())?;
    let answer = select! {
        // The answer first: the connection may end with it.
        biased;
        answer = sender.send_request(request) => answer?,
        ended = connection => return Err(ended.err().map_or("closed without an answer".into(), Into::into)),
    };
    let status = answer.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("answered {status}").into()),
    }
}

pub(super) async fn serving(endpoint: Endpoint, service: String) -> Result<(), BoxError> {
    let channel = endpoint.connect().await.map_err(|error| match error.source() {
        // "transport error" alone says nothing.
        Some(source) => BoxError::from(ErrorChain(source).to_string()),
        None => error.into(),
    })?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("answered {}", other.as_str_name()).into()),
    }
}
