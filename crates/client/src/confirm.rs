//! Asking who answers on a new connection: addresses are reused, and a kept node may have become someone else.

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use meshwork_core::{InstanceId, ServiceName, headers};

use crate::{CallError, CallErrorKind, failure::Failure, http2::Http2, target::Target, upload::Outbound};

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The instance of the record.
    Itself,
    /// The same service under another id: restarted on its address.
    Successor(InstanceId),
    /// Somebody else, or nobody who knows the question.
    Another,
    /// The instance, or its successor, which is going away.
    Draining(InstanceId),
}

/// Asks, by one empty exchange, whether `service`/`id` answers.
///
/// # Cancel safety
/// Dropping the future resets the stream.
pub(crate) async fn confirm(
    connection: &Http2,
    target: &Target,
    service: &ServiceName,
    id: &InstanceId,
) -> Result<Answer, CallError> {
    let expected = format!("{service}/{id}");
    let path = http::uri::PathAndQuery::from_static(headers::CONFIRM_PATH);
    let request = Request::builder()
        .method(Method::HEAD)
        .version(Version::HTTP_2)
        .uri(target.uri(path))
        .header(headers::TO, &expected)
        .body(Outbound::empty())
        .map_err(|error| CallError::new(CallErrorKind::Invalid, "asking who answers").with_source(error))?;
    let answer = connection.exchange(request).await.map_err(Failure::into_error)?;
    let refused = answer.headers().get(headers::REFUSED);
    let draining = refused.is_some_and(|word| word == headers::REFUSED_DRAINING);
    match judge(answer.headers(), service, id) {
        Answer::Itself if draining => Ok(Answer::Draining(id.clone())),
        Answer::Successor(id) if draining => Ok(Answer::Draining(id)),
        Answer::Another if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
            // A limit or a gateway in between: it says nothing of who is behind it.
            Err(CallError::new(CallErrorKind::Connect, "asking who answers: 503"))
        }
        answer => Ok(answer),
    }
}

pub(crate) fn judge(answer: &HeaderMap, service: &ServiceName, id: &InstanceId) -> Answer {
    let named = |value: &HeaderValue| {
        let (of, id) = value.to_str().ok()?.split_once('/')?;
        if of == service.as_str() { InstanceId::new(id).ok() } else { None }
    };
    let mut successor = None;
    for found in answer.get_all(headers::IS).iter().filter_map(named) {
        if found == *id {
            return Answer::Itself;
        }
        successor = Some(found);
    }
    successor.map_or(Answer::Another, Answer::Successor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_service_counts() {
        let service = ServiceName::new("users").unwrap();
        let id = InstanceId::new("users-1").unwrap();
        let judged = |values: &[&'static str]| {
            let mut answer = HeaderMap::new();
            for value in values {
                answer.append(headers::IS, HeaderValue::from_static(value));
            }
            judge(&answer, &service, &id)
        };
        assert_eq!(judged(&["orders/orders-1", "users/users-1"]), Answer::Itself);
        let successor = Answer::Successor(InstanceId::new("users-2").unwrap());
        assert_eq!(judged(&["users/users-2"]), successor);
        assert_eq!(judged(&["orders/users-1"]), Answer::Another);
        assert_eq!(judged(&["users", "users/..", ""]), Answer::Another);
        assert_eq!(judged(&[]), Answer::Another);
    }
}
