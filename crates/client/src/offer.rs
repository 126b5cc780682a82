//! What a record offers to one kind of call: the endpoints of one scheme, and what is spoken there.

use meshwork_core::{AddressRules, Endpoint, Instance, Scheme};

use crate::{ClientConfig, Protocol, TlsUse, shared::Kind};

/// The endpoints of a record for one kind of call: those of one scheme, which make one node.
pub(crate) fn endpoints_of(kind: Kind, instance: &Instance, config: &ClientConfig) -> Option<Vec<Endpoint>> {
    of(kind, instance, config.scheme, config.connect.tls(), &config.addresses)
}

/// Whether a record without such endpoints would have some, if its addresses could be called.
pub(crate) fn is_forbidden(kind: Kind, instance: &Instance, config: &ClientConfig) -> bool {
    let mut schemes = schemes(kind, config.scheme, config.connect.tls());
    schemes.any(|scheme| instance.endpoints.iter().any(|endpoint| endpoint.scheme() == scheme))
}

fn of(
    kind: Kind,
    instance: &Instance,
    only: Option<Scheme>,
    tls: TlsUse,
    rules: &AddressRules,
) -> Option<Vec<Endpoint>> {
    let allowed = |scheme: Scheme| {
        let of_scheme = instance.endpoints.iter().filter(move |endpoint| endpoint.scheme() == scheme);
        of_scheme.filter(|endpoint| rules.objection_to(endpoint).is_none())
    };
    let scheme = schemes(kind, only, tls).find(|scheme| allowed(*scheme).next().is_some())?;
    Some(allowed(scheme).cloned().collect())
}

/// The schemes that may serve a kind of call, the best first.
fn schemes(kind: Kind, only: Option<Scheme>, tls: TlsUse) -> impl Iterator<Item = Scheme> {
    let mut order = match kind {
        Kind::Grpc => [Scheme::Grpc, Scheme::Grpcs, Scheme::Http, Scheme::Https],
        Kind::Http => [Scheme::Http, Scheme::Https, Scheme::Grpc, Scheme::Grpcs],
    };
    if tls != TlsUse::Avoided {
        // What is offered with TLS for the one kind of call is better than what is offered without for the other.
        order.sort_by_key(|scheme| !scheme.is_tls());
    }
    order.into_iter().filter(move |scheme| match only {
        Some(only) => only == *scheme,
        None => tls != TlsUse::Required || scheme.is_tls(),
    })
}

/// Native instances speak HTTP/2 everywhere; a foreign `http` endpoint speaks HTTP/1.1, but for gRPC.
pub(crate) fn protocol_of(kind: Kind, instance: &Instance, scheme: Scheme) -> Protocol {
    if instance.is_native() || scheme.is_grpc() || kind == Kind::Grpc {
        Protocol::Http2
    } else {
        Protocol::Http1
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, Origin, ServiceName};

    use super::*;

    fn instance(endpoints: &[&str]) -> Instance {
        let service = ServiceName::new("users").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new("users-1").unwrap());
        instance.endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        instance
    }

    fn chosen(kind: Kind, endpoints: &[&str], only: Option<Scheme>) -> Vec<String> {
        chosen_with(TlsUse::Avoided, kind, endpoints, only)
    }

    fn chosen_with(tls: TlsUse, kind: Kind, endpoints: &[&str], only: Option<Scheme>) -> Vec<String> {
        let found = of(kind, &instance(endpoints), only, tls, &AddressRules::default());
        found.unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_kind_has_its_scheme_and_one_scheme_serves_both() {
        let both = ["http://10.0.0.1:80", "grpc://10.0.0.1:90", "grpc://[fd00::1]:90"];
        assert_eq!(chosen(Kind::Http, &both, None), ["http://10.0.0.1:80"]);
        assert_eq!(chosen(Kind::Grpc, &both, None), ["grpc://10.0.0.1:90", "grpc://[fd00::1]:90"]);
        assert_eq!(chosen(Kind::Grpc, &both[..1], None), ["http://10.0.0.1:80"]);
        assert_eq!(chosen(Kind::Http, &both[1..2], None), ["grpc://10.0.0.1:90"]);
        assert_eq!(chosen(Kind::Http, &both, Some(Scheme::Grpc)).len(), 2);
        assert!(chosen(Kind::Http, &both, Some(Scheme::Https)).is_empty());
    }

    #[test]
    fn with_tls_configured_nothing_is_sent_in_the_clear_unless_asked_for() {
        let all = ["http://10.0.0.1:80", "https://10.0.0.1:443", "grpc://10.0.0.1:90"];
        assert_eq!(chosen(Kind::Http, &all, None), ["http://10.0.0.1:80"]);
        for tls in [TlsUse::Preferred, TlsUse::Required] {
            assert_eq!(chosen_with(tls, Kind::Http, &all, None), ["https://10.0.0.1:443"]);
            assert_eq!(chosen_with(tls, Kind::Grpc, &all, None), ["https://10.0.0.1:443"]);
            assert_eq!(chosen_with(tls, Kind::Grpc, &all, Some(Scheme::Grpc)), ["grpc://10.0.0.1:90"]);
        }
        assert_eq!(chosen_with(TlsUse::Preferred, Kind::Http, &all[..1], None), ["http://10.0.0.1:80"]);
        assert!(chosen_with(TlsUse::Required, Kind::Http, &all[..1], None).is_empty());
    }

    #[test]
    fn addresses_that_may_not_be_called_are_no_endpoints() {
        assert!(chosen(Kind::Http, &["http://169.254.1.1:80"], None).is_empty());
    }

    #[test]
    fn only_foreign_http_endpoints_speak_http1() {
        let mut record = instance(&["http://10.0.0.1:80"]);
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Http), Protocol::Http2);
        record.origin = Origin::Foreign;
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Http), Protocol::Http1);
        assert_eq!(protocol_of(Kind::Grpc, &record, Scheme::Http), Protocol::Http2);
        assert_eq!(protocol_of(Kind::Http, &record, Scheme::Grpc), Protocol::Http2);
    }
}
