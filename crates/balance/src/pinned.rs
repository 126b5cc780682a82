//! Calls pinned to one instance or address.

use crate::{Hint, Member, Pick, Picked, Reason, ticket::Admission};

/// Answers a pinned call; `None` when the call is not pinned.
///
/// A pinned call goes to its member whatever its weight and health, but not when the record says `unready` or
/// `leaving`.
pub(crate) fn pick<'a>(members: &'a [Member], pick: &Pick<'_>) -> Option<Picked<'a>> {
    let found = match pick.hint {
        Hint::Instance(id) => {
            // Snapshots are sorted by id; a set that is not is searched through.
            let guess = members.binary_search_by(|member| member.instance().id.cmp(id));
            let at = guess.ok().or_else(|| members.iter().position(|member| member.instance().id == *id));
            at.map(|at| &members[at])
        }
        Hint::Addr(addr) => members.iter().find(|member| member.node().key().has_addr(addr)),
        Hint::Any | Hint::Hash(_) => return None,
    };
    Some(match found.filter(|member| member.takes_calls()) {
        None => Picked::Nothing(Reason::NoSuchInstance),
        Some(member) => match member.node().begin_with(pick.now, Admission::Any) {
            Some(ticket) => Picked::Take(member, ticket),
            None => Picked::Wait,
        },
    })
}
