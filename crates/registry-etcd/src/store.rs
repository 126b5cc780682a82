//! The two transactions by which an announcer writes and reads its own records.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use crate::{
    keys::Records,
    members::{Failure, Members},
    record::Entry,
};

/// How a conditional write ended.
pub(crate) enum Put {
    /// The records stand since this revision.
    Done { revision: i64 },
    /// The first key is not as it was expected to be: what stands under each key.
    Found(Vec<Option<Entry>>),
}

/// Writes all records under `lease` if the first key was last written at revision `over` (0 = is absent).
pub(crate) async fn put(members: &Members, records: &Records, lease: i64, over: i64) -> Result<Put, Failure> {
    let puts: Vec<TxnOp> = records
        .iter()
        .map(|(key, value)| {
            TxnOp::put(key.as_str(), value.as_slice(), Some(PutOptions::new().with_lease(lease)))
        })
        .collect();
    let expected = Compare::mod_revision(records[0].0.as_str(), CompareOp::Equal, over);
    let txn = Txn::new().when([expected]).and_then(puts).or_else(gets(records));
    let answer = send(members, &txn).await?;
    if answer.succeeded() {
        return Ok(Put::Done { revision: answer.header().map_or(0, |header| header.revision()) });
    }
    Ok(Put::Found(found(&answer)))
}

/// What stands under each key, all of one revision.
pub(crate) async fn read(members: &Members, records: &Records) -> Result<Vec<Option<Entry>>, Failure> {
    let txn = Txn::new().and_then(gets(records));
    Ok(found(&send(members, &txn).await?))
}

async fn send(members: &Members, txn: &Txn) -> Result<TxnResponse, Failure> {
    members
        .call(|link| {
            let (mut kv, txn) = (link.kv.clone(), txn.clone());
            async move { kv.txn(txn).await }
        })
        .await
}

fn gets(records: &Records) -> Vec<TxnOp> {
    records.iter().map(|(key, _)| TxnOp::get(key.as_str(), None)).collect()
}

fn found(answer: &TxnResponse) -> Vec<Option<Entry>> {
    let entry = |op| match op {
        TxnOpResponse::Get(mut get) => get.take_kvs().pop().map(|kv| Entry::from(kv.0)),
        _ => None,
    };
    answer.op_responses().into_iter().map(entry).collect()
}
