//! A complete, linearizable list of a prefix, in pages of one revision.

use etcd_client::GetOptions;
use meshwork_core::Error;

use crate::{
    errors,
    members::{Failure, Members},
    record::{Entry, Listing},
};

/// Records per page at first; an answer that is too large makes it smaller.
const PAGE: i64 = 1000;
/// No list goes on for more pages than this: a service has at most 20 000 records that are read.
const MAX_PAGES: usize = 256;

/// How much of each record is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Records,
    Keys,
}

/// Reads everything under `prefix` as of one revision.
pub(crate) async fn read(members: &Members, prefix: &str, part: Part) -> Result<Listing, Error> {
    let mut page = PAGE;
    loop {
        match pages(members, prefix, part, page).await {
            // Compacted between two pages, or a page of huge records: start over with smaller ones.
            Err(Failure::Refused(cause)) if errors::is_out_of_range(&cause) && page > 1 => page /= 8,
            outcome => return outcome.map_err(|failure| failure.into_error(format!("listing {prefix}"))),
        }
        page = page.max(1);
    }
}

async fn pages(members: &Members, prefix: &str, part: Part, page: i64) -> Result<Listing, Failure> {
    let end = end_of(prefix.as_bytes());
    let (mut listing, mut from) = (Listing::default(), prefix.as_bytes().to_vec());
    for _ in 0..MAX_PAGES {
        let mut answer = members
            .call(|link| {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(page)
                    .with_revision(listing.revision);
                let options = if part == Part::Keys { options.with_keys_only() } else { options };
                let (mut kv, from) = (link.kv.clone(), from.clone());
                async move { kv.get(from, Some(options)).await }
            })
            .await?;
        if listing.revision == 0 {
            listing.revision = answer.header().map_or(0, |header| header.revision());
        }
        let more = answer.more();
        listing.entries.extend(answer.take_kvs().into_iter().map(|kv| Entry::from(kv.0)));
        match listing.entries.last() {
            Some(last) if more => {
                from = last.key.clone();
                from.push(0);
            }
            _ => return Ok(listing),
        }
    }
    tracing::warn!(prefix, records = listing.entries.len(), "more records than are read");
    Ok(listing)
}

/// The first key behind all keys that begin with `prefix`, which ends in `/`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("invariant: a prefix ends in a slash");
    *last += 1;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_prefix_leaves_its_neighbours_out() {
        let end = end_of(b"/m/user/");
        assert_eq!(end, b"/m/user0");
        let inside = |key: &[u8]| key >= b"/m/user/".as_slice() && key < end.as_slice();
        assert!(inside(b"/m/user/a") && !inside(b"/m/user-admin/a") && !inside(b"/m/user0"));
    }
}
