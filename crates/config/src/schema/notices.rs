//! `[service.notices]`: whom a process tells when something that it depends on, or it itself, stops being well.

use super::review::Review;
use crate::{duration, layers::End};
use serde::Deserialize;
use std::{fmt, time::Duration};

/// `[service.notices]`: notices about lost heartbeats, checks that turn and addresses that change. Each is a line of the log; here is who else gets it. All keys are live.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NoticesConfig {
    /// An `http://` or `https://` URL that gets every notice as a `POST` of JSON. Never shown, as it may hold a secret. Default: none.
    pub webhook: Option<WebhookUrl>,
    /// How long one delivery to the webhook may take; it is tried twice. Default: 3s.
    #[serde(with = "duration")]
    pub webhook_timeout: Duration,
    /// Trouble that passes within this time is not told. Default: 1s.
    #[serde(with = "duration")]
    pub delay: Duration,
}

/// A URL that is not shown: what stands behind the host may be a secret.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// The URL itself, for whoever opens it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Scheme, authority, and path with query. What is wrong with it is said without it.
    ///
    /// # Errors
    /// It is no URL of a webhook, in words.
    pub fn parts(&self) -> Result<(&str, &str, &str), &'static str> {
        let (scheme, rest) = self.0.split_once("://").unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            return Err("it is no `http://` or `https://` URL");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.is_empty() {
            return Err("the URL has no host");
        }
        if authority.contains('@') {
            return Err("a user in the URL is not sent; put the secret into its path or query");
        }
        if self.0.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return Err("the URL has blanks or a fragment");
        }
        Ok((scheme, authority, path))
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[webhook]")
    }
}

impl Default for NoticesConfig {
    fn default() -> Self {
        Self { webhook: None, webhook_timeout: Duration::from_secs(3), delay: Duration::from_secs(1) }
    }
}

impl NoticesConfig {
    /// Judges what stands below `notices` of the section under review.
    pub(super) fn review(&self, review: &mut Review<'_>) {
        review.positive("notices.webhook_timeout", Some(self.webhook_timeout));
        if let Some(Err(fault)) = self.webhook.as_ref().map(WebhookUrl::parts) {
            review.refuse("notices.webhook", End::Value, fault);
        }
    }
}
