//! A variant of the hand-out that is known to be bad, which the tests have to catch.
//!
//! It exists where the feature `simulation` is on, and there for the brokers that are opened by the one thread that asks
//! for it: what settles is a thread of the broker's own.

/// A variant that is known to be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), expect(unreachable_pub, reason = "only simulations choose one"))]
pub enum Mutant {
    /// A settlement of an old hand-out is accepted.
    NotFenced,
}

#[cfg(feature = "simulation")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Makes the brokers that this thread opens from now on behave as this variant, or as they should again.
#[cfg(feature = "simulation")]
pub fn mutate(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

#[cfg(feature = "simulation")]
pub(super) fn chosen() -> Option<Mutant> {
    CHOSEN.get()
}

#[cfg(not(feature = "simulation"))]
pub(super) const fn chosen() -> Option<Mutant> {
    None
}
