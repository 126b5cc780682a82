//! Server reflection: the gRPC services told to whoever asks, from the descriptors that the code brings.

use std::{
    panic::Location,
    task::{Context, Poll},
};

use futures_util::StreamExt;
use http::Request;
use http_body_util::{BodyStream, StreamBody};
use meshwork_core::{Error, ErrorChain};
use meshwork_server::{Services, draining};
use tonic::{body::Body, server::NamedService};
use tonic_health::pb::FILE_DESCRIPTOR_SET as HEALTH;
use tonic_reflection::server::Builder;
use tower_service::Service;

/// The service of gRPC health, which every server has.
const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
/// The services that answer, in the version that is current and in the one that older clients ask.
const V1: &str = "grpc.reflection.v1.ServerReflection";
const V1_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The descriptor sets of one app, as declared.
#[derive(Default)]
pub(crate) struct Reflection(Vec<Set>);

struct Set {
    bytes: Box<[u8]>,
    place: &'static Location<'static>,
}

impl Reflection {
    pub(crate) fn add(&mut self, bytes: &[u8], place: &'static Location<'static>) {
        self.0.push(Set { bytes: bytes.into(), place });
    }

    /// `services` with those that tell of them, where `wanted` and where there are any.
    ///
    /// # Errors
    /// `Invalid`: a set that cannot be read, wanted or not, with the line that gave it.
    pub(crate) fn tell(&self, services: Services, wanted: bool) -> Result<Services, Error> {
        for Set { bytes, place } in &self.0 {
            let judged = Builder::configure().register_encoded_file_descriptor_set(bytes).build_v1();
            judged.map_err(|error| {
                let (file, line, error) = (place.file(), place.line(), ErrorChain(&error));
                Error::invalid(format!("`reflection` at {file}:{line}: no descriptor set: {error}"))
            })?;
        }
        if self.0.is_empty() || !wanted || !services.has_grpc() {
            return Ok(services);
        }
        let served = services.grpc_names().to_vec();
        let has = |name| served.contains(&name);
        // Only what is served is told of, whatever else the sets describe.
        let named = served.iter().chain([HEALTH_SERVICE, V1, V1_ALPHA].iter().filter(|name| !has(name)));
        let builder = || {
            let builder = Builder::configure().register_encoded_file_descriptor_set(HEALTH);
            let sets = self.0.iter().map(|set| &*set.bytes);
            let builder = sets.fold(builder, Builder::register_encoded_file_descriptor_set);
            named.clone().fold(builder, |builder, name| builder.with_service_name(*name))
        };
        let mistake = |error| Error::invalid(format!("`reflection`: {}", ErrorChain(&error)));
        // An author may have added one of them by hand.
        let services = match has(V1) {
            true => services,
            false => services.grpc_service(Brief(builder().build_v1().map_err(mistake)?)),
        };
        Ok(match has(V1_ALPHA) {
            true => services,
            false => services.grpc_service(Brief(builder().build_v1alpha().map_err(mistake)?)),
        })
    }
}

/// A gRPC service whose callers have asked all they wanted when the drain begins: tools keep a stream open for as long as
/// they run, and would hold up every stop until its deadline.
#[derive(Clone)]
struct Brief<S>(S);

impl<S: NamedService> NamedService for Brief<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Brief<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let draining = draining();
        let over = async move { draining.begun().await };
        self.0.call(request.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(over)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_none_is_a_mistake_that_names_its_line() {
        let mut reflection = Reflection::default();
        reflection.add(HEALTH, Location::caller());
        assert!(reflection.tell(Services::new(), true).is_ok());
        reflection.add(b"no protobuf", Location::caller());
        let error = reflection.tell(Services::new(), false).unwrap_err().to_string();
        assert!(error.contains("reflection.rs:") && error.contains("no descriptor set"), "{error}");
    }
}
