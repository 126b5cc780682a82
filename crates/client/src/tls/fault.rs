//! What went wrong in TLS, in words that say what to do.

use std::{error::Error, fmt, io};

use meshwork_core::Endpoint;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

use crate::{CallError, CallErrorKind};

/// The error of a handshake.
pub(crate) fn of(to: &Endpoint, error: io::Error) -> CallError {
    let advice = match tls_of(&error) {
        Some(error) => advice(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Some("it closed during the handshake: does it speak TLS, and take our certificate?".into())
        }
        None => None,
    };
    match advice {
        Some(advice) => {
            // Not as an `io::Error`: what is told of it is ours, not its kind.
            let text = format!("TLS to `{to}`: {advice}");
            CallError::new(CallErrorKind::Connect, text).with_source(Behind(error))
        }
        None => CallError::new(CallErrorKind::Connect, format!("TLS to `{to}`")).with_source(error),
    }
}

/// An error of a stream after its handshake: with TLS 1.3 the peer judges our certificate only then.
pub(crate) fn after(error: io::Error) -> io::Error {
    match tls_of(&error).and_then(advice) {
        Some(advice) => io::Error::new(error.kind(), Told { advice, error }),
        None => error,
    }
}

fn tls_of(error: &io::Error) -> Option<&TlsError> {
    error.get_ref()?.downcast_ref()
}

fn advice(error: &TlsError) -> Option<String> {
    Some(match error {
        TlsError::InvalidCertificate(certificate) => of_certificate(certificate)?,
        TlsError::AlertReceived(alert) => match alert {
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
        TlsError::InvalidMessage(_) => "it does not answer in TLS: is its scheme right?".into(),
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

/// An I/O error as the cause of one that says more.
#[derive(Debug)]
struct Behind(io::Error);

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Behind {}

/// An I/O error that says what to do.
#[derive(Debug)]
struct Told {
    advice: String,
    error: io::Error,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)
    }
}

impl Error for Told {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}
