//! Several pickers asked in turn: what the policies that divide the members share.

use crate::{Pick, Picked, Picker, Reason};

/// The first of `pickers` that takes the call with a member as it should be; if none does, the first that takes
/// it at all.
pub(crate) fn ask<'a>(
    pickers: impl Iterator<Item = &'a dyn Picker> + Clone,
    pick: &mut Pick<'_>,
) -> Picked<'a> {
    let last_resort = std::mem::replace(&mut pick.last_resort, false);
    let better = pickers.clone().find_map(|picker| taken(picker.pick(pick)).ok());
    pick.last_resort = last_resort;
    if let Some(taken) = better {
        return taken;
    }
    if !last_resort {
        return Picked::Wait;
    }
    let mut nothing = None;
    let mut waits = false;
    for picker in pickers {
        match taken(picker.pick(pick)) {
            Ok(taken) => return taken,
            Err(None) => waits = true,
            Err(Some(reason)) => {
                nothing.get_or_insert(reason);
            }
        }
    }
    match nothing {
        Some(reason) if !waits => Picked::Nothing(reason),
        _ => Picked::Wait,
    }
}

fn taken(picked: Picked<'_>) -> Result<Picked<'_>, Option<Reason>> {
    match picked {
        Picked::Take(..) => Ok(picked),
        Picked::Wait => Err(None),
        Picked::Nothing(reason) => Err(Some(reason)),
    }
}
