//! What went wrong in TLS, in words that say what to do.

use std::{error, io};

use rustls::{AlertDescription, CertificateError, Error};

/// The error of TLS inside another one, however deep I/O errors hide it.
pub fn tls_of<'a>(error: &'a (dyn error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<Error>() {
            return Some(tls);
        }
        // An `io::Error` skips what it wraps: its source is the source of that.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// What a handshake with a server met, in words that say what to do, where there are some.
///
/// ```
/// use rustls::{CertificateError, Error};
/// let expired = Error::InvalidCertificate(CertificateError::Expired);
/// assert_eq!(meshwork_tls::advice(&expired).unwrap(), "its certificate has expired: renew it");
/// ```
pub fn advice(error: &Error) -> Option<String> {
    Some(match error {
        Error::InvalidCertificate(certificate) => of_certificate(certificate)?,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "it asks for a certificate of ours: set `cert_file` and `key_file`".into()
            }
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied => {
                format!("it refused our certificate (`cert_file`): {alert:?}")
            }
            AlertDescription::NoApplicationProtocol => "it speaks neither of the protocols offered".into(),
            AlertDescription::UnrecognisedName => "it does not know the name asked for: `server_name`".into(),
            _ => return None,
        },
        Error::InvalidMessage(_) => "it does not answer in TLS: is its scheme right?".into(),
        _ => return None,
    })
}

/// What a handshake with a caller met at a listener of ours, in words that say what to do, where there are some.
///
/// ```
/// use rustls::Error;
/// let stranger = Error::NoCertificatesPresented;
/// assert!(meshwork_tls::caller_advice(&stranger).unwrap().contains("`client_auth`"));
/// ```
pub fn caller_advice(error: &Error) -> Option<String> {
    Some(match error {
        Error::NoCertificatesPresented => "it shows no certificate, and `client_auth` requires one".into(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "its certificate is signed by nobody in `client_ca_file`".into()
        }
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "its certificate is not one of a client".into(),
        Error::InvalidCertificate(certificate) => of_certificate(certificate)?,
        Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked => format!("it does not take our `cert_file`: {alert:?}"),
            _ => return None,
        },
        Error::NoApplicationProtocol => "it offers neither h2 nor http/1.1".into(),
        Error::InvalidMessage(_) => "it does not speak TLS".into(),
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<String> {
    Some(match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: compare the clocks".into()
        }
        // A bad signature: an authority of the same name with another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by nobody we trust: is `ca_file` the right one?".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let (expected, presented) = (expected.to_str(), presented.join(", "));
            format!("its certificate is for {presented}, not for `{expected}`: set `server_name`")
        }
        CertificateError::NotValidForName => "its certificate is for another name: set `server_name`".into(),
        CertificateError::Revoked => "its certificate is revoked".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not one of a server".into()
        }
        _ => return None,
    })
}

/// `users.test` of `DnsName("users.test")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_tls_is_found_however_deep_io_errors_hide_it() {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(unknown.clone()));
        assert_eq!(tls_of(&wrapped), Some(&unknown));
        assert_eq!(tls_of(&io::Error::other("nothing of TLS")), None);
    }

    #[test]
    fn a_wrong_name_says_both_names_and_the_key_to_set() {
        let said = of_certificate(&CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("orders.test").unwrap(),
            presented: vec!["DnsName(\"users.test\")".to_owned()],
        });
        let said = said.unwrap();
        assert_eq!(said, "its certificate is for users.test, not for `orders.test`: set `server_name`");
    }
}
