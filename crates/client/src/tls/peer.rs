//! Who a certificate says that its holder is.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The SPIFFE id of a certificate that was checked, else its first DNS name.
pub(crate) fn name_in(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    let spiffe = certificate.valid_uri_names().find(|name| name.starts_with("spiffe://"));
    let name = spiffe.or_else(|| certificate.valid_dns_names().next());
    name.map(Arc::from)
}
