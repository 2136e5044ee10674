//! Variants of the hand-over that are known to be bad, which the simulation has to catch.
//!
//! A simulation that finds nothing proves something only if it finds these. They exist where the feature `simulation`
//! is on, and there for the one thread that asks for one, since a simulated world lives on one thread; or for a whole
//! process, which works on a real server.

/// A variant that is known to be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), expect(unreachable_pub, reason = "only simulations choose one"))]
pub enum Mutant {
    /// A delivery is acknowledged before its copy is confirmed.
    AckBeforeConfirm,
    /// A message counts as taken once it is written.
    ConfirmIgnored,
    /// A confirm is waited for without end.
    NoConfirmTimeout,
    /// A message that was refused counts as taken.
    NackIgnored,
    /// A message that no queue takes does not come back.
    NotMandatory,
    /// A copy says through which queues the original went.
    DeathCopied,
    /// A job that failed for good goes back to its queue.
    RequeuedInsteadOfDead,
    /// A retry does not count those before it.
    AttemptsForgotten,
    /// What is acknowledged is acknowledged again.
    AckedTwice,
    /// What was fetched and not begun is acknowledged at a stop.
    DroppedOnShutdown,
    /// A queue is consumed without a limit.
    PrefetchForgotten,
    /// What was delivered on a connection that is gone is settled on the next.
    EpochForgotten,
    /// What has waited long enough leaves its queue before it has arrived in the next.
    ForwardedAtMostOnce,
    /// A bundle is acknowledged when the first of its jobs is settled.
    BundleAckedEarly,
    /// A second consumer's channel is closed while what it brought is not settled.
    ExtraClosedEarly,
}

#[cfg(feature = "simulation")]
impl Mutant {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeConfirm,
        Self::ConfirmIgnored,
        Self::NoConfirmTimeout,
        Self::NackIgnored,
        Self::NotMandatory,
        Self::DeathCopied,
        Self::RequeuedInsteadOfDead,
        Self::AttemptsForgotten,
        Self::AckedTwice,
        Self::DroppedOnShutdown,
        Self::PrefetchForgotten,
        Self::EpochForgotten,
        Self::ForwardedAtMostOnce,
        Self::BundleAckedEarly,
        Self::ExtraClosedEarly,
    ];
}

#[cfg(feature = "simulation")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Makes everything on this thread behave as this variant, or as it should again.
#[cfg(feature = "simulation")]
pub fn mutate(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

#[cfg(feature = "simulation")]
static OF_PROCESS: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// Makes everything in this process behave as this variant, to its end; the first one that is chosen.
#[cfg(feature = "simulation")]
pub fn mutate_process(mutant: Mutant) {
    OF_PROCESS.get_or_init(|| mutant);
}

#[cfg(feature = "simulation")]
pub(super) fn is(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant) || OF_PROCESS.get() == Some(&mutant)
}

#[cfg(not(feature = "simulation"))]
pub(super) const fn is(_: Mutant) -> bool {
    false
}
