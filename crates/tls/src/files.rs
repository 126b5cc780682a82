//! The files that a configuration names: read whole, off the runtime, and compared as they are.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use meshwork_core::Error;
use rustls::pki_types::CertificateDer;
use tokio::task;

/// The most that is read of one file.
const LARGEST: u64 = 1024 * 1024;

/// Which files are read: the key of the configuration that names one, and its path.
pub(crate) type Named = Vec<(&'static str, PathBuf)>;

/// What the files hold. What cannot be read is a content too: it is judged like the rest.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Contents {
    held: Vec<Held>,
    /// The certificates that the machine trusts, where they are wanted. What of them cannot be read is none.
    pub(crate) platform: Vec<CertificateDer<'static>>,
}

/// Key, path, and what the file holds or why it cannot be read.
type Held = (&'static str, PathBuf, Result<Vec<u8>, io::ErrorKind>);

impl Contents {
    /// Reads them.
    ///
    /// # Cancel safety
    /// May be dropped; the reading ends by itself.
    pub(crate) async fn read(named: Named, platform: bool) -> Self {
        let all = move || {
            let one = |(key, path): (_, PathBuf)| {
                let held = read(&path);
                (key, path, held)
            };
            let trusted = || rustls_native_certs::load_native_certs().certs;
            let platform = if platform { trusted() } else { Vec::new() };
            Self { held: named.into_iter().map(one).collect(), platform }
        };
        // Cancelled only when the runtime ends.
        task::spawn_blocking(all).await.unwrap_or_default()
    }

    /// What the file of a key holds; nothing when the configuration names none.
    ///
    /// # Errors
    /// `Invalid`, naming key and file, when it cannot be read.
    pub(crate) fn of(&self, place: &str, key: &str) -> Result<Option<File<'_>>, Error> {
        let Some((key, path, held)) = self.held.iter().find(|(name, ..)| *name == key) else {
            return Ok(None);
        };
        match held {
            Ok(pem) => Ok(Some(File { place: place.into(), key, path, pem })),
            Err(kind) => {
                let text = format!("reading `{key}` of {place} ({})", path.display());
                Err(Error::invalid(text).with_source(io::Error::from(*kind)))
            }
        }
    }
}

/// One file that was read.
pub(crate) struct File<'a> {
    place: Box<str>,
    key: &'static str,
    path: &'a Path,
    pub(crate) pem: &'a [u8],
}

impl File<'_> {
    /// An error about what it holds.
    pub(crate) fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("`{}` of {} ({}) {what}", self.key, self.place, self.path.display()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, io::ErrorKind> {
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
