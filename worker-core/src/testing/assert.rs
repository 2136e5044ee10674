//! Assertions about what waits in a [`TestQueue`].

use std::time::Duration;

use crate::{job::Job, testing::TestQueue};

/// Asserts that a job like this waits in a [`TestQueue`](crate::testing::TestQueue).
///
/// Fields are compared with `==`, so string literals work; as in a pattern, `..`
/// leaves the others open. A closure instead of fields decides for itself. `delay:` asks
/// for how long it still waits. On failure the waiting jobs are listed.
///
/// # Examples
///
/// ```
/// # use worker_core::{prelude::*, testing::TestQueue, assert_enqueued, refute_enqueued};
/// # #[job] async fn send_welcome(user_id: u64, template: String) {}
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let t = TestQueue::new();
/// t.client().enqueue(send_welcome::new(7, "v2").delay(minutes(5))).await.unwrap();
///
/// assert_enqueued!(t, send_welcome);
/// assert_enqueued!(t, send_welcome { user_id: 7, template: "v2" });
/// assert_enqueued!(t, send_welcome { user_id: 7, .. }, delay: minutes(5));
/// assert_enqueued!(t, send_welcome, |job| job.user_id > 6);
/// refute_enqueued!(t, send_welcome { user_id: 8, .. });
/// # });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! assert_enqueued {
    ($queue:expr, $job:path $({ $($fields:tt)* })? $(, delay: $delay:expr)? $(,)?) => {
        $queue.assert_enqueued::<$job>(
            concat!(stringify!($job), $(" { ", stringify!($($fields)*), " }",)? $(", delay: ", stringify!($delay))?),
            |_job: &$job| true $(&& $crate::__job_matches!(_job, $job, { $($fields)* }))?,
            None $(.or(Some($delay)))?,
        )
    };
    ($queue:expr, $job:path, $predicate:expr $(,)?) => {
        $queue.assert_enqueued::<$job>(concat!(stringify!($job), ", ", stringify!($predicate)), $predicate, None)
    };
}

/// Asserts that no job like this waits; the forms are those of [`assert_enqueued!`](crate::assert_enqueued).
#[macro_export]
macro_rules! refute_enqueued {
    ($queue:expr, $job:path $({ $($fields:tt)* })? $(, delay: $delay:expr)? $(,)?) => {
        $queue.refute_enqueued::<$job>(
            concat!(stringify!($job), $(" { ", stringify!($($fields)*), " }",)? $(", delay: ", stringify!($delay))?),
            |_job: &$job| true $(&& $crate::__job_matches!(_job, $job, { $($fields)* }))?,
            None $(.or(Some($delay)))?,
        )
    };
    ($queue:expr, $job:path, $predicate:expr $(,)?) => {
        $queue.refute_enqueued::<$job>(concat!(stringify!($job), ", ", stringify!($predicate)), $predicate, None)
    };
}

// The pattern names every field or says `..`, as one in the language does.
#[doc(hidden)]
#[macro_export]
macro_rules! __job_matches {
    ($value:ident, $job:path, { $($field:ident : $wanted:expr),* $(,)? }) => {{
        let $job { $($field: _),* } = $value;
        true $(&& $value.$field == $wanted)*
    }};
    ($value:ident, $job:path, { $($field:ident : $wanted:expr,)* .. }) => {{
        let $job { $($field: _,)* .. } = $value;
        true $(&& $value.$field == $wanted)*
    }};
}

impl TestQueue {
    #[doc(hidden)]
    #[track_caller]
    pub fn assert_enqueued<J: Job>(&self, wanted: &str, like: impl Fn(&J) -> bool, delay: Option<Duration>) {
        assert!(self.has(like, delay), "no such job is enqueued:\n  {wanted}\nenqueued:\n{}", self.waiting_text());
    }

    #[doc(hidden)]
    #[track_caller]
    pub fn refute_enqueued<J: Job>(&self, unwanted: &str, like: impl Fn(&J) -> bool, delay: Option<Duration>) {
        assert!(!self.has(like, delay), "such a job is enqueued:\n  {unwanted}\nenqueued:\n{}", self.waiting_text());
    }

    fn has<J: Job>(&self, like: impl Fn(&J) -> bool, delay: Option<Duration>) -> bool {
        let as_asked = |(job, waits): &(J, Duration)| like(job) && delay.is_none_or(|delay| delay == *waits);
        self.waiting_of::<J>().iter().any(as_asked)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{Enqueue, minutes, seconds};

    #[derive(Debug, Serialize, Deserialize)]
    struct Welcome {
        user_id: u64,
        template: String,
    }

    impl Job for Welcome {
        const NAME: &'static str = "welcome";
        type Return = ();
    }

    async fn queue() -> TestQueue {
        let t = TestQueue::new();
        let job = Enqueue::new(Welcome { user_id: 7, template: "v2".into() }).delay(minutes(5));
        t.client().enqueue(job).await.unwrap();
        t
    }

    #[tokio::test]
    async fn every_form_finds_what_waits_and_nothing_else() {
        let t = queue().await;
        assert_enqueued!(t, Welcome);
        assert_enqueued!(t, Welcome { user_id: 7, .. });
        assert_enqueued!(t, Welcome { user_id: 7, template: "v2" }, delay: minutes(5));
        assert_enqueued!(t, Welcome, |job| job.template.starts_with('v'));
        refute_enqueued!(t, Welcome { user_id: 8, .. });
        refute_enqueued!(t, Welcome { .. }, delay: seconds(1));
        refute_enqueued!(t, Welcome, |job| job.user_id > 7);
    }

    #[tokio::test]
    #[should_panic(
        expected = "no such job is enqueued:\n  Welcome { user_id: 8, .. }\nenqueued:\n  welcome {\"user_id\":7"
    )]
    async fn a_failure_shows_what_was_wanted_and_what_waits() {
        let t = queue().await;
        assert_enqueued!(t, Welcome { user_id: 8, .. });
    }
}
