//! `[service.notices]` as a part of the app that follows the configuration.

use std::sync::Arc;

use meshwork_config::Config;

use super::{
    board::Board,
    webhook::{Target, Webhook},
};
use crate::{
    RunError,
    live::{Apply, LivePart, is_below},
};

/// Whom a changed configuration reaches.
pub(crate) struct LiveNotices {
    pub(crate) board: Arc<Board>,
    pub(crate) webhook: Arc<Webhook>,
}

impl LivePart for LiveNotices {
    fn follows(&self, key: &str) -> bool {
        is_below(key, "service.notices")
    }

    fn judge(&self, newer: &Config) -> Result<Option<Apply>, RunError> {
        let (target, delay) = (Target::of(newer)?, newer.service().notices.delay);
        let (board, webhook) = (Arc::clone(&self.board), Arc::clone(&self.webhook));
        Ok(Some(Box::new(move || {
            board.set_delay(delay);
            webhook.set(target);
        })))
    }
}
