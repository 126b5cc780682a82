//! What one call asks for beyond its request; travels in the request's extensions.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use meshwork_core::{InstanceId, NameError, Priority};

/// What one call asks for. Set on a [`Channel`](crate::Channel) or on a request ([`OptionsExt`]); the
/// request's word wins.
///
/// ```
/// use std::time::Duration;
/// use meshwork_client::CallOptions;
/// let options = CallOptions::default().timeout(Duration::from_millis(300)).idempotent();
/// assert!(options.idempotent == Some(true));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// The longest time of the whole call, its body included.
    pub timeout: Option<Duration>,
    /// The longest time of one attempt until the head of its answer.
    pub attempt_timeout: Option<Duration>,
    /// The hash of a key: equal keys prefer equal instances where the policy knows how.
    pub hash: Option<u64>,
    /// The only instance that may take the call.
    pub instance: Option<InstanceId>,
    /// The only address that may take the call; it must be one of the service's.
    pub addr: Option<SocketAddr>,
    /// Whether the call may run twice, so that it may be tried again.
    pub idempotent: Option<bool>,
    /// How much the call matters.
    pub priority: Option<Priority>,
    /// The traffic lane.
    pub lane: Option<Arc<str>>,
    /// Whether to wait, up to the deadline, for an instance when there is none.
    pub wait_for_ready: Option<bool>,
    /// Whether the context of the running handler (its deadline, lane, trace) is left aside.
    pub detached: Option<bool>,
    /// Why the call cannot be made as it was asked.
    fault: Option<NameError>,
}

impl CallOptions {
    /// Bounds the whole call, its body included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Bounds each attempt until the head of its answer.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// Prefers one instance for all calls of this key, where the policy knows how.
    #[must_use]
    pub fn hash(mut self, key: impl AsRef<[u8]>) -> Self {
        self.hash = Some(hash_of(key.as_ref()));
        self
    }

    /// Pins the call to one instance. Text that is no instance id makes the call fail as
    /// [`Invalid`](crate::CallErrorKind::Invalid).
    #[must_use]
    pub fn to_instance(mut self, id: impl AsRef<str>) -> Self {
        match InstanceId::new(id) {
            Ok(id) => (self.instance, self.fault) = (Some(id), None),
            Err(fault) => self.fault = Some(fault),
        }
        self
    }

    /// Pins the call to one address of the service.
    #[must_use]
    pub fn to_addr(mut self, addr: SocketAddr) -> Self {
        self.addr = Some(addr);
        self
    }

    /// Says that the call may run twice, so that it may be tried again.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = Some(true);
        self
    }

    /// Says how much the call matters.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Puts the call into a traffic lane.
    #[must_use]
    pub fn lane(mut self, lane: impl Into<Arc<str>>) -> Self {
        self.lane = Some(lane.into());
        self
    }

    /// Waits, up to the deadline, for an instance when there is none.
    #[must_use]
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// Leaves the context of the running handler aside: its deadline, lane, priority and trace.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.detached = Some(true);
        self
    }

    /// These, with what is absent taken from `base`.
    pub(crate) fn over(self, base: &Self) -> Self {
        Self {
            timeout: self.timeout.or(base.timeout),
            attempt_timeout: self.attempt_timeout.or(base.attempt_timeout),
            hash: self.hash.or(base.hash),
            instance: self.instance.or_else(|| base.instance.clone()),
            addr: self.addr.or(base.addr),
            idempotent: self.idempotent.or(base.idempotent),
            priority: self.priority.or(base.priority),
            lane: self.lane.or_else(|| base.lane.clone()),
            wait_for_ready: self.wait_for_ready.or(base.wait_for_ready),
            detached: self.detached.or(base.detached),
            fault: self.fault.or_else(|| base.fault.clone()),
        }
    }

    /// Why the call cannot be made as it was asked.
    pub(crate) fn fault(&self) -> Option<&NameError> {
        self.fault.as_ref()
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), then mixed: the same key gives the same hash in every process.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

/// Call options on a single request.
///
/// ```
/// use std::time::Duration;
/// use meshwork_client::OptionsExt;
/// let request = tonic::Request::new(()).options(|o| o.hash("7").timeout(Duration::from_millis(300)));
/// # drop(request);
/// ```
pub trait OptionsExt: Sized {
    /// The extensions that travel with the request.
    #[doc(hidden)]
    fn call_extensions(&mut self) -> &mut http::Extensions;

    /// Changes the request's options; what was set before stays.
    #[must_use]
    fn options(mut self, set: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        let extensions = self.call_extensions();
        let before = extensions.remove::<CallOptions>().unwrap_or_default();
        extensions.insert(set(before));
        self
    }
}

impl<T> OptionsExt for http::Request<T> {
    fn call_extensions(&mut self) -> &mut http::Extensions {
        self.extensions_mut()
    }
}

impl<T> OptionsExt for tonic::Request<T> {
    fn call_extensions(&mut self) -> &mut http::Extensions {
        self.extensions_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_word_wins_and_the_rest_is_the_channels() {
        let channel = CallOptions::default().timeout(Duration::from_secs(1)).idempotent();
        let mut request = http::Request::new(()).options(|o| o.timeout(Duration::from_secs(2)));
        request = request.options(|o| o.lane("blue"));
        let both = request.extensions().get::<CallOptions>().cloned().unwrap().over(&channel);
        assert_eq!(both.timeout, Some(Duration::from_secs(2)));
        assert_eq!((both.idempotent, both.lane.as_deref()), (Some(true), Some("blue")));
    }

    #[test]
    fn equal_keys_hash_alike_in_every_process() {
        assert_eq!(hash_of(b"7"), hash_of(b"7"));
        assert_ne!(hash_of(b"7"), hash_of(b"8"));
        assert_eq!(CallOptions::default().hash("7"), CallOptions::default().hash(b"7"));
    }
}
