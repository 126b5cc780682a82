//! What a configuration says about TLS.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// TLS towards a server: whom we trust, and what we show of ourselves.
///
/// ```toml
/// ca_file = "/etc/orders/ca.pem"
/// cert_file = "/etc/orders/tls.pem"
/// key_file = "/etc/orders/tls.key"
/// server_name = "users.internal"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// PEM certificates that sign those of the server. Default: none; then the machine's are trusted.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificates that the machine trusts are trusted beside `ca_file`. They are read with the
    /// files. Default: no.
    pub platform_roots: bool,
    /// PEM certificate, with its chain, that we show when asked. Default: none.
    pub cert_file: Option<PathBuf>,
    /// PEM key of `cert_file`. Default: none.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must have, and that we ask for (SNI). Default: the host that is
    /// connected to.
    pub server_name: Option<String>,
}

/// TLS at a listener of ours.
///
/// ```toml
/// cert_file = "/etc/orders/tls.pem"
/// key_file = "/etc/orders/tls.key"
/// client_ca_file = "/etc/orders/ca.pem"
/// client_auth = "required"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerTlsConfig {
    /// PEM certificate, with its chain. Needed.
    pub cert_file: Option<PathBuf>,
    /// PEM key of `cert_file`. Needed.
    pub key_file: Option<PathBuf>,
    /// PEM certificates that sign those of the callers. Default: none; callers are then not asked for one.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a caller must show a certificate. Counts with `client_ca_file` only. Default: `required`.
    pub client_auth: ClientAuth,
}

/// Whether a caller must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientAuth {
    /// A caller without a certificate is refused.
    #[default]
    Required,
    /// A caller without a certificate is served; one with a certificate that nobody we trust signed is not.
    Optional,
}

// === impl TlsConfig ===

impl TlsConfig {
    /// Whether anything is set.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

// === impl ServerTlsConfig ===

impl ServerTlsConfig {
    /// Whether anything is set.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}
