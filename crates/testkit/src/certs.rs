//! Certificates for tests, made in this process: an authority, and what it signs.
//!
//! Nothing here is secret, and nothing of it is trusted by anybody else.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::Error;

/// What is not said otherwise is valid for a day.
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate authority.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// A key and its public half, both PEM; for instance to sign tokens with ES256.
#[derive(Clone, Debug)]
pub struct SigningKey {
    /// The key, PKCS #8.
    pub private: String,
    /// What others check signatures with.
    pub public: String,
}

impl Authority {
    /// An authority of this name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut params = params(name, &[], DAY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = generate()?;
        let cert = params.self_signed(&key).map_err(failed(name))?;
        Ok(Self { pem: cert.pem(), issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes its own certificate into `dir`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, Error> {
        write(dir.join("ca.pem"), &self.pem)
    }

    /// A server at these hosts (names or addresses), which may also be somebody's client.
    ///
    /// # Errors
    /// When a host is none.
    pub fn server(&self, hosts: &[&str]) -> Result<Certificate, Error> {
        self.sign(hosts.first().copied().unwrap_or("server"), hosts, DAY)
    }

    /// A client of this common name.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self, name: &str) -> Result<Certificate, Error> {
        self.sign(name, &[], DAY)
    }

    /// A client whose certificate ends so long from now; zero = it has ended.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client_for(&self, name: &str, valid: Duration) -> Result<Certificate, Error> {
        self.sign(name, &[], valid)
    }

    fn sign(&self, name: &str, hosts: &[&str], valid: Duration) -> Result<Certificate, Error> {
        let mut params = params(name, hosts, valid)?;
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let key = generate()?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed(name))?;
        Ok(Certificate { cert: cert.pem(), key: key.serialize_pem() })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Writes `{stem}.pem` and `{stem}-key.pem` into `dir`, over what is there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path, stem: &str) -> Result<(PathBuf, PathBuf), Error> {
        let cert = write(dir.join(format!("{stem}.pem")), &self.cert)?;
        Ok((cert, write(dir.join(format!("{stem}-key.pem")), &self.key)?))
    }
}

impl SigningKey {
    /// A new one on the curve P-256.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self, Error> {
        let key = generate()?;
        Ok(Self { private: key.serialize_pem(), public: key.public_key_pem() })
    }

    /// Writes `{stem}.pem` and `{stem}-public.pem` into `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path, stem: &str) -> Result<(PathBuf, PathBuf), Error> {
        let private = write(dir.join(format!("{stem}.pem")), &self.private)?;
        Ok((private, write(dir.join(format!("{stem}-public.pem")), &self.public)?))
    }
}

fn params(name: &str, hosts: &[&str], valid: Duration) -> Result<CertificateParams, Error> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).map_err(failed(name))?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + valid).into();
    Ok(params)
}

fn generate() -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(|e| Error::new("making a key").with_source(e))
}

fn failed(name: &str) -> impl FnOnce(rcgen::Error) -> Error {
    move |e| Error::new(format!("making a certificate of `{name}`")).with_source(e)
}

fn write(file: PathBuf, text: &str) -> Result<PathBuf, Error> {
    match fs::write(&file, text) {
        Ok(()) => Ok(file),
        Err(e) => Err(Error::new(format!("writing {}", file.display())).with_source(e)),
    }
}
