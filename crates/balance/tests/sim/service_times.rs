//! Measured service times, for handlers as they are in life.

use crate::world::Rng;

/// Draws from the quantiles in `tests/data`, in nanoseconds.
pub(crate) struct ServiceTimes(Vec<f64>);

impl ServiceTimes {
    pub(crate) fn read() -> Self {
        let lines = include_str!("../data/service_times.txt").lines();
        let numbers = lines.filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        Self(numbers.map(|text| text.parse::<f64>().expect("a number") * 1e6).collect())
    }

    pub(crate) fn draw(&self, rng: &mut Rng) -> u64 {
        let at = rng.unit() * (self.0.len() - 1) as f64;
        let (low, high) = (self.0[at as usize], self.0[at as usize + 1]);
        (low + (high - low) * at.fract()) as u64
    }
}

#[test]
fn the_times_have_the_shape_they_are_said_to_have() {
    let (times, mut rng) = (ServiceTimes::read(), Rng::new(1));
    let mut drawn: Vec<u64> = (0..100_000).map(|_| times.draw(&mut rng)).collect();
    drawn.sort_unstable();
    let ms = |q: f64| drawn[(q * 99_999.0) as usize] as f64 / 1e6;
    assert!((ms(0.5) - 167.5).abs() < 0.2 && (ms(0.99) - 192.3).abs() < 0.7, "{} {}", ms(0.5), ms(0.99));
    assert!(ms(0.0) >= 164.0 && ms(1.0) <= 200.0);
}
