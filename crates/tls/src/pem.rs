//! From PEM to what rustls takes.

use meshwork_core::Error;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::files::{Contents, File};

/// A certificate with its chain, and its key.
pub(crate) struct Pair<'a> {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// Where the key comes from.
    pub(crate) file: File<'a>,
}

/// The pair of `cert_file` and `key_file`; nothing when neither is configured.
///
/// # Errors
/// `Invalid` when one of them is missing, cannot be read or holds nothing that can be used.
pub(crate) fn pair<'a>(contents: &'a Contents, place: &str) -> Result<Option<Pair<'a>>, Error> {
    match (contents.of(place, "cert_file")?, contents.of(place, "key_file")?) {
        (None, None) => Ok(None),
        (Some(cert), Some(file)) => {
            let key = PrivateKeyDer::from_pem_slice(file.pem)
                .map_err(|error| file.invalid("holds no whole private key").with_source(error))?;
            Ok(Some(Pair { chain: certificates(&cert)?, key, file }))
        }
        _ => Err(half(place)),
    }
}

/// The error for one of two keys that go together.
pub(crate) fn half(place: &str) -> Error {
    Error::invalid(format!("{place} has one of `cert_file` and `key_file`: it takes both"))
}

/// All certificates of a file.
///
/// # Errors
/// `Invalid` when it holds none, or one that is cut short.
pub(crate) fn certificates(file: &File<'_>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let none = || file.invalid("holds no whole certificate");
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.pem).collect();
    let all = all.map_err(|error| none().with_source(error))?;
    if all.is_empty() { Err(none()) } else { Ok(all) }
}

/// Adds all certificates of a file to those that are trusted.
///
/// # Errors
/// As [`certificates`].
pub(crate) fn trust(roots: &mut RootCertStore, file: &File<'_>) -> Result<(), Error> {
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| file.invalid("holds a certificate that cannot be used").with_source(error))?;
    }
    Ok(())
}
