//! P7: memory per endpoint, by resident set, from none to ten thousand; and what watching costs when nothing
//! happens.

mod idle;

use std::{hint::black_box, sync::Arc};

use meshwork_balance::{Member, Node, P2c, Peers, Policy};
use meshwork_core::{BoxError, Decoder, Instance, encode};

use crate::{
    fleet,
    verdict::{Findings, Mode, Verdict},
};

const ENDPOINTS: usize = 10_000;

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let texts: Vec<Vec<u8>> = (0..ENDPOINTS)
        .map(|index| encode(&fleet::instance(index)?).map_err(|refusal| refusal.to_string().into()))
        .collect::<Result<_, BoxError>>()?;
    let bytes = texts.iter().map(Vec::len).sum::<usize>() / ENDPOINTS;
    let mut decoder = Decoder::default();
    let mut decode = |text: &Vec<u8>| -> Result<Arc<Instance>, BoxError> {
        Ok(Arc::new(decoder.decode(text).map_err(|refusal| refusal.to_string())?))
    };
    let peers = Peers::new(fleet::now);
    let attachment = Arc::new(());
    // What every process pays once is not an endpoint's.
    for text in texts.iter().take(10) {
        black_box(fleet::node(&*decode(text)?, &peers, &attachment));
    }

    // Their lists are written now, so that they do not count.
    let mut instances: Vec<Option<Arc<Instance>>> = vec![None; ENDPOINTS];
    let mut nodes: Vec<Option<Arc<Node>>> = vec![None; ENDPOINTS];
    black_box((&mut instances, &mut nodes));
    let empty = resident()?;
    for (place, text) in instances.iter_mut().zip(&texts) {
        *place = Some(decode(text)?);
    }
    let with_records = resident()?;
    for (place, instance) in nodes.iter_mut().zip(instances.iter().flatten()) {
        *place = Some(fleet::node(instance, &peers, &attachment));
    }
    let with_nodes = resident()?;
    let both = nodes.iter().flatten().zip(instances.iter().flatten());
    let members = both.map(|(node, i)| Member::new(Arc::clone(node), Arc::clone(i)));
    let picker = P2c::default().picker(members.collect());
    let with_picker = resident()?;
    black_box((&instances, &nodes, &picker));

    let each = |from: usize, to: usize| to.saturating_sub(from) / ENDPOINTS;
    let (record, node) = (each(empty, with_records), each(with_records, with_nodes));
    let (index, all) = (each(with_nodes, with_picker), each(empty, with_picker));
    let mut findings = Findings::new(mode);
    findings.text(format!("record {record} B"));
    findings.text(format!("node {node} B"));
    findings.text(format!("member and picker {index} B"));
    findings.text(format!("all {all} B"));
    findings.at_most(node as f64, 256.0, &"B of a node");
    findings.at_most(all as f64, 1024.0, &"B of an endpoint");
    let idle = idle::measure(mode)?;
    findings.text(format!(
        "{} services watched in etcd, a channel to each, nobody calls: {idle:.2} % of a core",
        idle::SERVICES
    ));
    findings.at_most(idle, 0.5, &"% of a core when idle");
    Ok(findings.verdict(&format!("P7 memory per endpoint at {ENDPOINTS} (records of {bytes} B JSON)")))
}

/// The resident set of this process in bytes.
fn resident() -> Result<usize, BoxError> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find(|line| line.starts_with("Rss:")).ok_or("no Rss in smaps_rollup")?;
    let kilobytes: usize = line.split_whitespace().nth(1).ok_or("no figure in Rss")?.parse()?;
    Ok(kilobytes * 1024)
}
