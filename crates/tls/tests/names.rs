//! Who a certificate says that its holder is.
#![expect(clippy::unwrap_used, reason = "a test says by a panic that it failed")]

use meshwork_tls::{Names, caller_advice};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{AlertDescription, CertificateError, Error, pki_types::CertificateDer};

fn signed(dns: &[&str], uris: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    params.subject_alt_names.extend(uris);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

#[test]
fn a_spiffe_id_comes_before_dns_names_and_other_uris_are_none() {
    let both = Names::of(&signed(&["orders.test", "orders"], &["https://x.test", "spiffe://test/orders"]));
    assert_eq!(both.first().unwrap().as_ref(), "spiffe://test/orders");
    assert_eq!(both.dns.iter().map(|name| &**name).collect::<Vec<_>>(), ["orders.test", "orders"]);
    let dns = Names::of(&signed(&["orders.test"], &["https://x.test"]));
    assert_eq!((dns.spiffe.as_deref(), dns.first().unwrap().as_ref()), (None, "orders.test"));
    assert_eq!(Names::of(&signed(&[], &[])).first(), None);
    assert_eq!(Names::of(&CertificateDer::from(vec![1, 2, 3])), Names::default());
}

#[test]
fn what_a_callers_handshake_met_names_the_key_to_look_at() {
    let stranger = Error::InvalidCertificate(CertificateError::UnknownIssuer);
    for (error, key) in [
        (Error::NoCertificatesPresented, "`client_auth`"),
        (stranger, "`client_ca_file`"),
        (Error::AlertReceived(AlertDescription::UnknownCA), "`cert_file`"),
    ] {
        let advice = caller_advice(&error).unwrap();
        assert!(advice.contains(key), "{advice}");
    }
    assert_eq!(caller_advice(&Error::HandshakeNotComplete), None);
}
