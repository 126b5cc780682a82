//! The search for a member that can be used: all are asked, one after the other a moment apart.

use std::{collections::VecDeque, time::Duration};

use etcd_client::GetOptions;
use futures_util::{StreamExt, stream::FuturesUnordered};
use meshwork_core::Error;
use tokio::{time, time::Instant};

use super::{Members, silent_member};
use crate::{errors, link::Link};

/// The next member is asked when the one before has not answered for this long.
const STAGGER: Duration = Duration::from_millis(250);

/// Why nobody can be used.
struct Silence {
    error: Error,
    /// Somebody answered, and has no leader.
    electing: bool,
}

impl Silence {
    /// Both; what waiting cannot mend says more than what it can.
    fn and(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let electing = self.electing || earlier.electing;
        let error = if earlier.error.kind().is_transient() { self.error } else { earlier.error };
        Self { error, electing }
    }
}

impl From<Error> for Silence {
    fn from(error: Error) -> Self {
        Self { error, electing: false }
    }
}

impl Members {
    /// The first member that answers a linearizable read, `avoid` asked last. While one answers that it
    /// has no leader, all are asked again for as long as one attempt may take: an election is no outage.
    pub(super) async fn search(&self, avoid: Option<&str>) -> Result<Link, Error> {
        let until = Instant::now() + self.attempt_timeout;
        loop {
            match self.ask_all(avoid).await {
                Ok(link) => return Ok(link),
                Err(Silence { error, electing: false }) => return Err(error),
                Err(Silence { error, .. }) if Instant::now() + STAGGER > until => return Err(error),
                Err(_) => time::sleep(STAGGER).await,
            }
        }
    }

    async fn ask_all(&self, avoid: Option<&str>) -> Result<Link, Silence> {
        let mut waiting: VecDeque<Box<str>> = self.addresses().into();
        if let Some(at) = waiting.iter().position(|address| Some(&**address) == avoid) {
            let last = waiting.remove(at).expect("invariant: the position was just found");
            waiting.push_back(last);
        }
        let mut asked = FuturesUnordered::new();
        let mut silence: Option<Silence> = None;
        loop {
            if let Some(next) = waiting.pop_front() {
                asked.push(self.probe(next));
            } else if asked.is_empty() {
                return Err(silence.unwrap_or_else(|| Error::invalid("etcd has no endpoints").into()));
            }
            let pause = async {
                if waiting.is_empty() { std::future::pending().await } else { time::sleep(STAGGER).await }
            };
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Ok(link) => return Ok(link),
                    Err(new) => silence = Some(new.and(silence)),
                },
                () = pause => {}
            }
        }
    }

    async fn probe(&self, address: Box<str>) -> Result<Link, Silence> {
        let link = Link::new(&address, &self.access).await?;
        let mut kv = link.kv.clone();
        let options = GetOptions::new().with_keys_only();
        match time::timeout(self.attempt_timeout, kv.get(&*self.probe_key, Some(options))).await {
            Ok(Ok(answer)) => Ok(self.check(answer.header()).map(|_| link)?),
            // It is asked who we are only after the quorum has answered.
            Ok(Err(cause)) if errors::is_token_refused(&cause) || errors::is_not_permitted(&cause) => {
                Ok(link)
            }
            Ok(Err(cause)) => {
                let electing = errors::is_answered_unavailable(&cause);
                Err(Silence { electing, ..errors::of_first_contact(&address, cause).into() })
            }
            Err(_elapsed) => Err(silent_member(&address, self.attempt_timeout).into()),
        }
    }
}
