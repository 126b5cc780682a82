//! Bits and what is made of them.

/// The finisher of splitmix64: mixes bits so that each depends on all.
pub(crate) fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Maps 32 random bits to `0..len`.
pub(crate) fn below(bits: u64, len: usize) -> usize {
    (((bits & 0xffff_ffff) * len as u64) >> 32) as usize
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): the same in every process, on every machine and by every compiler.
pub(crate) const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Where [`fnv`] begins.
pub(crate) const FNV: u64 = 0xcbf2_9ce4_8422_2325;
