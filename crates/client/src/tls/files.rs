//! The files behind TLS: read whole, and made into what rustls needs.

use std::{fs, io, io::Read, path::Path};

use tokio::task;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{CallError, CallErrorKind, tls::TlsConfig};

/// The most that is read of one file.
const LARGEST: u64 = 1024 * 1024;

/// The contents of the files that a configuration names.
#[derive(PartialEq, Eq)]
pub(crate) struct Files {
    ca: Option<Contents>,
    cert: Option<Contents>,
    key: Option<Contents>,
    /// Whether the machine's certificates are wanted.
    platform: bool,
}

/// What a file holds, or why it cannot be read.
type Contents = Result<Vec<u8>, io::ErrorKind>;

impl Files {
    /// Reads them, off the runtime. What cannot be read is a content too: it is judged like the rest.
    pub(crate) async fn read(config: &TlsConfig) -> Self {
        let config = config.clone();
        let platform = config.platform_roots;
        let read = task::spawn_blocking(move || {
            let read = |path: &Option<_>| path.as_deref().map(read);
            Self {
                ca: read(&config.ca_file),
                cert: read(&config.cert_file),
                key: read(&config.key_file),
                platform,
            }
        });
        // Cancelled only when the runtime ends.
        read.await.unwrap_or(Self { ca: None, cert: None, key: None, platform })
    }

    /// What rustls needs.
    ///
    /// # Errors
    /// [`Connect`](CallErrorKind::Connect), naming the key of the configuration and the file.
    pub(crate) fn client(&self, config: &TlsConfig) -> Result<ClientConfig, CallError> {
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("choosing TLS versions").with_source(error))?
            .with_root_certificates(self.roots(config)?);
        let pair =
            (of(&self.cert, "cert_file", &config.cert_file)?, of(&self.key, "key_file", &config.key_file)?);
        let (cert, key) = match pair {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => (cert, key),
            _ => return Err(invalid("one of `cert_file` and `key_file` is set: TLS takes both or none")),
        };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| invalid("`key_file` holds no whole private key").with_source(error))?;
        builder
            .with_client_auth_cert(certificates(cert, "cert_file")?, key)
            .map_err(|error| invalid("`key_file` is not the key of `cert_file`").with_source(error))
    }

    fn roots(&self, config: &TlsConfig) -> Result<RootCertStore, CallError> {
        let mut roots = RootCertStore::empty();
        if let Some(pem) = of(&self.ca, "ca_file", &config.ca_file)? {
            for cert in certificates(pem, "ca_file")? {
                roots.add(cert).map_err(|error| invalid("`ca_file`").with_source(error))?;
            }
        }
        if self.platform {
            // What of the machine's set cannot be read or used is none of the peer's signers.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        match (roots.is_empty(), self.platform) {
            (false, _) => Ok(roots),
            (true, true) => Err(invalid("the machine trusts no certificates: set `ca_file`")),
            (true, false) => Err(invalid("nothing is trusted: set `ca_file`, or `platform_roots = true`")),
        }
    }
}

fn read(path: &Path) -> Contents {
    let read = || {
        // A pipe would never end.
        if !fs::metadata(path)?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut contents = Vec::new();
        fs::File::open(path)?.take(LARGEST).read_to_end(&mut contents)?;
        Ok(contents)
    };
    read().map_err(|error: io::Error| error.kind())
}

/// The contents of one file, where it is configured.
fn of<'a>(
    contents: &'a Option<Contents>,
    key: &str,
    path: &Option<std::path::PathBuf>,
) -> Result<Option<&'a [u8]>, CallError> {
    match contents {
        None => Ok(None),
        Some(Ok(contents)) => Ok(Some(contents)),
        Some(Err(kind)) => {
            let path = path.as_deref().unwrap_or(Path::new(""));
            // No source: the attempt's one line is all that is told of a failed dial.
            Err(invalid(&format!("reading `{key}` ({}): {kind}", path.display())))
        }
    }
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, CallError> {
    let none = || invalid(&format!("`{key}` holds no whole certificate"));
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| none().with_source(error))?;
    if all.is_empty() { Err(none()) } else { Ok(all) }
}

fn invalid(what: &str) -> CallError {
    CallError::new(CallErrorKind::Connect, format!("`[client.<service>.tls]`: {what}"))
}
