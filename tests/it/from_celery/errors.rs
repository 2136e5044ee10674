//! Retries, limits of time, and what ends without an end.

use worker_core::prelude::*;

use self::tests::{Problem, Rows, Web};

#[job(queue = "web", max_retries = 5, backoff = "2s..10m", timeout = "30s")]
async fn fetch(url: String, web: State<Web>) -> JobResult {
    let page = match web.get(&url).await {
        Err(Problem::NotFound) => return Err(JobError::discard("there is no such page")),
        Err(Problem::TryLater(pause)) => return Err(JobError::retry_in(pause, "the server asks to wait")),
        answer => answer?, // any other error: tried again by the policy above
    };
    web.keep(url, page).await;
    Ok(())
}

#[job(queue = "reports", timeout = "60s")]
async fn read_rows(rows: State<Rows>, cx: Context) -> JobResult {
    while let Some(row) = rows.next() {
        row.read().await?;
        if cx.remaining() < seconds(10) || cx.should_stop() {
            return Err(JobError::snooze(seconds(0))); // goes on later, which is no failure
        }
    }
    Ok(())
}

mod tests {
    use std::{
        fmt, io,
        sync::{
            Mutex,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use tokio::time::sleep;
    use worker_core::{Ending, FailureKind, Registry, testing::TestQueue};

    use super::*;
    use crate::bench::Bench;

    /// Why there is no page.
    #[derive(Debug, Clone, Copy)]
    pub(super) enum Problem {
        NotFound,
        TryLater(Duration),
        Broken,
    }

    impl fmt::Display for Problem {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl std::error::Error for Problem {}

    /// Gives each of these problems once, in their order, and pages from then on; and keeps pages.
    pub(super) struct Web(Mutex<Vec<Problem>>, Mutex<Vec<String>>);

    impl Web {
        pub(super) async fn get(&self, url: &str) -> Result<String, Problem> {
            let mut problems = self.0.lock().unwrap();
            if problems.is_empty() { Ok(format!("the page of {url}")) } else { Err(problems.remove(0)) }
        }

        pub(super) async fn keep(&self, url: String, page: String) {
            self.1.lock().unwrap().push(format!("{url}: {page}"));
        }
    }

    /// Rows that take a while each.
    pub(super) struct Rows(AtomicU32);

    pub(super) struct Row;

    impl Rows {
        pub(super) fn next(&self) -> Option<Row> {
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).ok().map(|_| Row)
        }
    }

    impl Row {
        pub(super) async fn read(&self) -> io::Result<()> {
            sleep(seconds(4)).await;
            Ok(())
        }
    }

    /// Runs `fetch` while the web gives these problems: when each attempt began, and what became of it.
    async fn fetched(problems: &[Problem]) -> (Vec<Duration>, Option<FailureKind>) {
        let web = Web(Mutex::new(problems.to_vec()), Mutex::default());
        let mut t = TestQueue::builder().registry(Registry::new().with::<fetch>()).state(web).build();
        t.client().enqueue(fetch::new("https://example.org")).await.unwrap();
        let run = t.drain().await;
        let dead = t.dead_letters().await.first().map(|dead| dead.failure.kind);
        (run.executions().iter().map(|execution| execution.at).collect(), dead)
    }

    #[tokio::test]
    async fn an_error_is_tried_again_with_growing_pauses_as_often_as_the_policy_says() {
        let (starts, dead) = fetched(&[Problem::Broken; 3]).await;
        assert_eq!((starts, dead), ([0, 2, 6, 14].map(seconds).to_vec(), None));
        let (starts, dead) = fetched(&[Problem::Broken; 9]).await;
        assert_eq!((starts.len(), dead), (6, Some(FailureKind::Error)));
    }

    #[tokio::test]
    async fn an_error_can_choose_its_pause_or_say_that_there_is_no_use() {
        let (starts, dead) = fetched(&[Problem::TryLater(minutes(3))]).await;
        assert_eq!((starts, dead), ([0, 180].map(seconds).to_vec(), None));
        let (starts, dead) = fetched(&[Problem::Broken, Problem::NotFound]).await;
        assert_eq!((starts.len(), dead), (2, Some(FailureKind::Discarded)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_whose_time_is_nearly_over_stops_in_order_and_goes_on_later() {
        let (bench, _broker) = Bench::memory();
        let worker = bench.worker_of(Registry::new().with::<read_rows>()).state(Rows(AtomicU32::new(20)));
        let running = crate::bench::Running::start(worker);
        bench.client.enqueue(read_rows::new()).await.unwrap();
        bench.finished(1).await;
        let ends: Vec<_> = bench.reports().into_iter().map(|report| (report.attempt, report.ending)).collect();
        // 13 rows take 52 s: less than 10 s are left.
        assert_eq!(ends.len(), 2, "{ends:?}");
        assert!(matches!(ends[0], (1, Ending::Released { .. })), "{ends:?}");
        assert!(matches!(ends[1], (1, Ending::Succeeded)), "{ends:?}");
        running.stop().await;
    }
}
