//! Who a certificate says that its holder is.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The names in a certificate. Only those of one that was checked say anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Names {
    /// Its SPIFFE id: `spiffe://cluster/orders`. The first, where there are more.
    pub spiffe: Option<Arc<str>>,
    /// Its DNS names.
    pub dns: Box<[Arc<str>]>,
}

impl Names {
    /// Reads the subject's alternative names; a certificate that cannot be read has none.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Self::default() };
        let spiffe = certificate.valid_uri_names().find(|name| name.starts_with("spiffe://"));
        Self { spiffe: spiffe.map(Arc::from), dns: certificate.valid_dns_names().map(Arc::from).collect() }
    }

    /// The SPIFFE id, else the first DNS name.
    pub fn first(&self) -> Option<&Arc<str>> {
        self.spiffe.as_ref().or_else(|| self.dns.first())
    }
}
