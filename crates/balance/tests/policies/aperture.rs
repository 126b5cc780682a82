//! Which part of a large fleet a client connects to.

use std::sync::Arc;

use meshwork_balance::{Rendezvous, RingAperture, Subsetting};
use meshwork_core::{Instance, InstanceId, ServiceName, Status};

fn instances(ids: impl IntoIterator<Item = usize>) -> Vec<Arc<Instance>> {
    let service = ServiceName::new("users").expect("a name");
    let id = |index: usize| InstanceId::new(format!("users-{index:05}")).expect("an id");
    ids.into_iter().map(|index| Arc::new(Instance::with_id(service.clone(), id(index)))).collect()
}

/// The load of each node for its weight, when each client spreads one unit by the weights of its portions.
fn loads(nodes: &[Arc<Instance>], clients: &[Box<dyn Subsetting>]) -> Vec<f64> {
    let mut loads = vec![0.0; nodes.len()];
    for client in clients {
        let chosen = client.choose(nodes);
        let all: f64 = chosen.iter().map(|portion| f64::from(portion.weight)).sum();
        chosen.iter().for_each(|portion| loads[portion.at] += f64::from(portion.weight) / all);
    }
    loads.iter().zip(nodes).map(|(load, node)| load / f64::from(node.weight.max(1))).collect()
}

fn ring(size: usize, clients: usize) -> Vec<Box<dyn Subsetting>> {
    (0..clients).map(|rank| Box::new(RingAperture::new(size, rank, clients)) as Box<dyn Subsetting>).collect()
}

fn max_over_mean(loads: &[f64]) -> f64 {
    loads.iter().copied().fold(0.0, f64::max) / (loads.iter().sum::<f64>() / loads.len() as f64)
}

#[test]
fn every_node_gets_the_same_load_whatever_the_numbers() {
    for (clients, nodes, size) in
        [(300, 300, 20), (300, 299, 20), (97, 300, 20), (7, 1000, 50), (1000, 30, 20), (3, 2, 20), (1, 50, 5)]
    {
        let loads = loads(&instances(0..nodes), &ring(size, clients));
        let uneven = max_over_mean(&loads);
        assert!(uneven <= 1.02, "{clients} clients, {nodes} nodes: {uneven}");
        assert!(loads.iter().all(|load| *load > 0.0));
    }
}

#[test]
fn nodes_get_load_by_their_weight() {
    let mut nodes = instances(0..100);
    for (index, node) in nodes.iter_mut().enumerate() {
        Arc::make_mut(node).weight = [50, 100, 400][index % 3];
    }
    let uneven = max_over_mean(&loads(&nodes, &ring(20, 90)));
    assert!(uneven <= 1.02, "{uneven}");
}

#[test]
fn the_choice_is_about_as_large_as_asked_for_and_the_same_in_every_order() {
    let nodes = instances(0..299);
    for rank in 0..300 {
        let aperture = RingAperture::new(20, rank, 300);
        let chosen = aperture.choose(&nodes);
        assert!((19..=22).contains(&chosen.len()), "{}", chosen.len());
        let mut turned = nodes.clone();
        turned.reverse();
        let mut again: Vec<_> = aperture.choose(&turned).iter().map(|portion| 298 - portion.at).collect();
        again.reverse();
        assert_eq!(chosen.iter().map(|portion| portion.at).collect::<Vec<_>>(), again);
    }
}

#[test]
fn a_small_fleet_is_taken_whole_and_nobody_else_is_taken_but_who_gets_calls() {
    let mut nodes = instances(0..12);
    let all =
        |chosen: Vec<meshwork_balance::Portion>| chosen.iter().map(|portion| portion.at).collect::<Vec<_>>();
    for subsetting in [&RingAperture::new(20, 3, 10) as &dyn Subsetting, &Rendezvous::new(20, 9)] {
        assert_eq!(all(subsetting.choose(&nodes)), (0..12).collect::<Vec<_>>());
        assert!(subsetting.choose(&[]).is_empty());
    }
    Arc::make_mut(&mut nodes[0]).status = Status::Leaving;
    Arc::make_mut(&mut nodes[1]).weight = 0;
    assert_eq!(all(RingAperture::new(20, 3, 10).choose(&nodes)), (2..12).collect::<Vec<_>>());
    nodes.iter_mut().for_each(|node| Arc::make_mut(node).weight = 0);
    assert_eq!(all(Rendezvous::new(20, 3).choose(&nodes)), (1..12).collect::<Vec<_>>());
}

#[test]
fn senseless_numbers_are_no_trouble() {
    let nodes = instances(0..3);
    for (size, rank, clients) in [(0, 0, 0), (usize::MAX, usize::MAX, usize::MAX), (1, 9, 2)] {
        let chosen = RingAperture::new(size, rank, clients).choose(&nodes);
        assert!(!chosen.is_empty() && chosen.iter().all(|portion| portion.weight > 0), "{chosen:?}");
    }
    assert_eq!(Rendezvous::new(0, 1).choose(&nodes).len(), 1);
}

#[test]
fn rendezvous_costs_only_those_a_connection_who_had_the_node_or_get_it() {
    let (before, after) = (instances(0..300), instances((0..300).filter(|index| *index != 17)));
    let mut new = 0;
    for salt in 0..300 {
        let ids = |nodes: &[Arc<Instance>]| {
            let chosen = Rendezvous::new(20, salt).choose(nodes);
            chosen.iter().map(|portion| nodes[portion.at].id.clone()).collect::<Vec<_>>()
        };
        let had = ids(&before);
        new += ids(&after).iter().filter(|id| !had.contains(id)).count();
    }
    assert!((1..50).contains(&new), "{new} new connections of 300 clients");
}
