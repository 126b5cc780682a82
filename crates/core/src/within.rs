//! Values that running code may look at without being handed them.

use std::{cell::RefCell, mem, thread::LocalKey};

/// Puts `value` where `key` is read, for the time of `work`, and gives it back, also after a panic. What stood there is
/// in `value` meanwhile. Nothing is copied: this stands around every poll of a handler and of a body.
///
/// ```
/// use std::cell::RefCell;
/// use meshwork_core::within;
/// thread_local! { static NAME: RefCell<Option<String>> = const { RefCell::new(None) }; }
/// let mut name = Some("users".to_owned());
/// let seen = within(&NAME, &mut name, || NAME.with_borrow(Clone::clone));
/// assert_eq!((seen.as_deref(), name.as_deref()), (Some("users"), Some("users")));
/// assert_eq!(NAME.with_borrow(Clone::clone), None);
/// ```
///
/// # Panics
/// Inside of a borrow of `key`.
pub fn within<T, R>(
    key: &'static LocalKey<RefCell<Option<T>>>,
    value: &mut Option<T>,
    work: impl FnOnce() -> R,
) -> R {
    swap(key, value);
    let _back = Back { key, value };
    work()
}

struct Back<'a, T: 'static> {
    key: &'static LocalKey<RefCell<Option<T>>>,
    value: &'a mut Option<T>,
}

impl<T> Drop for Back<'_, T> {
    fn drop(&mut self) {
        swap(self.key, self.value);
    }
}

fn swap<T>(key: &'static LocalKey<RefCell<Option<T>>>, value: &mut Option<T>) {
    // On a thread that is about to end there is nothing to look at any more.
    let _ended = key.try_with(|slot| mem::swap(&mut *slot.borrow_mut(), value));
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    thread_local! {
        static SEEN: RefCell<Option<u8>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_value_comes_back_from_a_panic_and_keeps_what_was_done_to_it() {
        let (mut outer, mut inner) = (Some(1), Some(2));
        within(&SEEN, &mut outer, || {
            let work = || {
                SEEN.with_borrow_mut(|seen| *seen = Some(3));
                panic!("on purpose");
            };
            let panic = catch_unwind(AssertUnwindSafe(|| within(&SEEN, &mut inner, work)));
            assert!(panic.is_err());
            assert_eq!(SEEN.take(), Some(1));
        });
        assert_eq!((outer, inner, SEEN.take()), (None, Some(3), None));
    }
}
