//! The ACL token of the moment: fixed, or from a file that may be rotated.

use std::{
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use meshwork_core::Error;
use meshwork_registry::Secret;

use crate::config::ConsulConfig;

/// Where the token comes from, and what it is now.
pub(crate) struct Tokens {
    file: Option<PathBuf>,
    now: RwLock<Option<Secret>>,
}

impl Tokens {
    pub(crate) fn of(config: &ConsulConfig) -> Self {
        let file = config.token_file.clone().filter(|_| config.token.is_none());
        Self { file, now: RwLock::new(config.token.clone()) }
    }

    /// The token to send now; a file that was never read is read.
    ///
    /// # Errors
    /// `Invalid` when the file cannot be read or is empty.
    pub(crate) async fn current(&self) -> Result<Option<Secret>, Error> {
        if self.file.is_some() && self.known().is_none() {
            self.refresh().await?;
        }
        Ok(self.known())
    }

    /// Whether any token is to be sent.
    pub(crate) fn any(&self) -> bool {
        self.file.is_some() || self.known().is_some()
    }

    /// Reads the file again; says whether the token is another one now.
    ///
    /// # Errors
    /// As [`current`](Self::current); the token stays as it was.
    pub(crate) async fn refresh(&self) -> Result<bool, Error> {
        let Some(file) = self.file.clone() else { return Ok(false) };
        let text = tokio::fs::read_to_string(&file).await;
        let said = || Error::invalid(format!("reading the token file {}", file.display()));
        let text = text.map_err(|e| said().with_source(e))?;
        let new = Secret::from(text.trim());
        if new.reveal().is_empty() {
            return Err(said().with_source("it is empty"));
        }
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let differs = now.as_ref() != Some(&new);
        *now = Some(new);
        Ok(differs)
    }

    fn known(&self) -> Option<Secret> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rotated_file_is_picked_up_and_a_broken_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let config = ConsulConfig { token_file: Some(file.path().into()), ..ConsulConfig::default() };
        let tokens = Tokens::of(&config);
        assert!(tokens.any() && tokens.current().await.is_err(), "it is empty");
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(tokens.current().await.unwrap().unwrap().reveal(), "one");
        assert!(!tokens.refresh().await.unwrap());
        std::fs::write(file.path(), "two").unwrap();
        assert!(tokens.refresh().await.unwrap());
        std::fs::remove_file(file.path()).unwrap();
        assert!(tokens.refresh().await.is_err());
        assert_eq!(tokens.current().await.unwrap().unwrap().reveal(), "two");
    }
}
