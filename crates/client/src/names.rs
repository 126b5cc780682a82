//! The headers of `meshwork_core::headers` as parsed names: made once, not for each call.

use http::HeaderName;
use meshwork_core::headers;

pub(crate) static PRIORITY: HeaderName = HeaderName::from_static(headers::PRIORITY);
pub(crate) static LANE: HeaderName = HeaderName::from_static(headers::LANE);
pub(crate) static ATTEMPT: HeaderName = HeaderName::from_static(headers::ATTEMPT);
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static(headers::TRACEPARENT);
pub(crate) static TO: HeaderName = HeaderName::from_static(headers::TO);
