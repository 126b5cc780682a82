//! The embedded registry among real processes: what is killed, frozen, deleted, damaged or planted.

#[cfg(test)]
mod bench;
#[cfg(test)]
mod harm;
#[cfg(test)]
mod life;
#[cfg(test)]
mod peer;
