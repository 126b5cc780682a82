//! The limits of calls: a method's own, then the client's.

use super::Call;
use crate::{CallError, limit::Place};

/// What an admitted call holds until the head of its answer is there: of its method's limit, and of the client's.
pub(super) type Places = [Option<Place>; 2];

impl Call {
    /// Takes the places that are free; says whether those are all. At no cost where nothing is limited.
    pub(super) fn admit_at_once(&self, places: &mut Places) -> bool {
        let limiters = self.rule.limiters().into_iter().zip(places);
        limiters.filter_map(|(limiter, place)| Some((limiter?, place))).all(|(limiter, place)| {
            *place = limiter.at_once();
            place.is_some()
        })
    }

    /// Takes those that are missing, each at its turn and at the latest when the call's time is over.
    ///
    /// # Errors
    /// [`Overloaded`](crate::CallErrorKind::Overloaded) when no turn comes in time.
    ///
    /// # Cancel safety
    /// Dropping the future gives its turn to the next one.
    pub(super) async fn admit(&self, places: &mut Places) -> Result<(), CallError> {
        let ends = self.deadline.waiting().map(|bound| bound.at());
        for (limiter, place) in self.rule.limiters().into_iter().zip(places) {
            if let (Some(limiter), None) = (limiter, &place) {
                *place = Some(limiter.wait(ends).await?);
            }
        }
        Ok(())
    }
}
