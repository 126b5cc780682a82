//! Who comes first when not all can be served.

use meshwork_core::Priority;

/// How much room calls of each priority have, in relation to the limit.
///
/// Normal calls have the limit. Sheddable ones have less, so that a share stays for the others; critical ones have
/// more, so that a server full of others still takes them. The room above the limit is rarely filled: it is
/// there for calls that are a part of the whole load, and a queue that long stands only while more of them come
/// than the server can do.
///
/// ```
/// use meshwork_core::Priority;
/// use meshwork_resilience::shed::Shares;
/// let shares = Shares::default();
/// assert_eq!(shares.room(100.0, Priority::Sheddable), 80);
/// assert_eq!(shares.room(100.0, Priority::Normal), 100);
/// assert_eq!(shares.room(100.0, Priority::Critical), 125);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Shares {
    /// The share of the limit that critical calls have besides, 0.0 to 1.0. Default 0.25.
    pub critical: f64,
    /// The calls that critical ones have besides at least, 0 to 1 000. Default 8: with a limit of a few calls, a
    /// share of it is too little for chance (at 40 % of the capacity, 8 places are full once in 1 500).
    pub critical_least: u32,
    /// The share of the limit that is kept from sheddable calls, 0.0 to 0.9. Default 0.2.
    pub normal: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { critical: 0.25, critical_least: 8, normal: 0.2 }
    }
}

impl Shares {
    /// How many calls may be inside when one of this priority comes, itself included; 1 at least. Shares out of
    /// their range count as the nearest, what is no number as 0.
    pub fn room(&self, limit: f64, priority: Priority) -> u32 {
        let share = |share: f64, most: f64| if share.is_nan() { 0.0 } else { share.clamp(0.0, most) };
        let room = match priority {
            Priority::Sheddable => limit * (1.0 - share(self.normal, 0.9)),
            Priority::Normal => limit,
            Priority::Critical => {
                let least = f64::from(self.critical_least.min(1000));
                limit + (limit * share(self.critical, 1.0)).max(least)
            }
        };
        // `as` saturates, and what is no number becomes 0.
        (room as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_priority_has_no_less_room_than_the_one_below() {
        for limit in [0.0, 1.0, 2.5, 17.0, 1e12, f64::NAN] {
            let room = |priority| Shares::default().room(limit, priority);
            let (least, normal, most) =
                (room(Priority::Sheddable), room(Priority::Normal), room(Priority::Critical));
            assert!(1 <= least && least <= normal && normal <= most, "{limit}: {least} {normal} {most}");
        }
        assert_eq!(Shares::default().room(6.0, Priority::Critical), 14);
    }

    #[test]
    fn shares_out_of_range_are_clamped() {
        let odd = Shares { critical: 9.0, critical_least: u32::MAX, normal: -3.0 };
        assert_eq!(odd.room(100.0, Priority::Critical), 1100);
        assert_eq!(odd.room(100.0, Priority::Sheddable), 100);
        let none = Shares { critical: f64::NAN, critical_least: 0, normal: 5.0 };
        assert_eq!(none.room(100.0, Priority::Critical), 100);
        assert_eq!(none.room(100.0, Priority::Sheddable), 9);
    }
}
