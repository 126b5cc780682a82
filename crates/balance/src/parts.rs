//! Several pickers asked in turn: what the policies that divide the members share.

use crate::{Pick, Picked, Picker, Reason, Resort};

/// The first of `pickers` that takes the call with a member as it should be; if none does, the first that takes it
/// with one that is worse, the least bad first.
pub(crate) fn ask<'a>(
    pickers: impl Iterator<Item = &'a dyn Picker> + Clone,
    pick: &mut Pick<'_>,
) -> Picked<'a> {
    let allowed = pick.resort;
    let mut answer = Picked::Wait;
    for resort in [Resort::None, Resort::Untried, Resort::Any] {
        if resort > allowed {
            break;
        }
        pick.resort = resort;
        answer = first(pickers.clone(), pick);
        if matches!(answer, Picked::Take(..)) {
            break;
        }
    }
    pick.resort = allowed;
    answer
}

/// The first one that takes the call; else `Wait` if one says so, else the first reason.
fn first<'a>(pickers: impl Iterator<Item = &'a dyn Picker>, pick: &mut Pick<'_>) -> Picked<'a> {
    let mut waits = false;
    let mut nothing: Option<Reason> = None;
    for picker in pickers {
        match picker.pick(pick) {
            Picked::Take(member, ticket) => return Picked::Take(member, ticket),
            Picked::Wait => waits = true,
            Picked::Nothing(reason) => nothing = nothing.or(Some(reason)),
        }
    }
    nothing.filter(|_| !waits).map_or(Picked::Wait, Picked::Nothing)
}
