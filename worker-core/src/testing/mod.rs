//! Tests of applications: no server, no waiting, no globals.
//!
//! There are three ways, from the smallest to the whole:
//!
//! 1. **Call the function.** A job function is a function; [`Context::test`](crate::Context::test)
//!    stands in for what the worker would supply.
//! 2. **See what was enqueued.** A [`TestQueue`] gives the code under test a
//!    client; [`assert_enqueued!`](crate::assert_enqueued) looks at what it enqueued.
//! 3. **Run it.** [`TestQueue::drain`] runs everything, retries included, in
//!    virtual time, and says what happened.
//!
//! # Examples
//!
//! ```standalone_crate
//! use worker_core::{prelude::*, testing::TestQueue, assert_enqueued};
//!
//! #[job(queue = "emails", max_retries = 2, backoff = "10s")]
//! async fn send_welcome(user_id: u64, template: String, cx: Context) -> JobResult {
//!     if cx.attempt() == 1 { return Err("the mail server is busy".into()); }
//!     Ok(())
//! }
//!
//! async fn sign_up(client: &Client) -> Result<(), Box<dyn std::error::Error>> {
//!     client.enqueue(send_welcome::new(7, "v2").delay(minutes(5))).await?;
//!     Ok(())
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! // 1. Call the function.
//! send_welcome(7, "v2".into(), Context::test().with_attempt(2)).await.unwrap();
//!
//! // 2. See what was enqueued.
//! let mut t = TestQueue::new();
//! sign_up(&t.client()).await.unwrap();
//! assert_enqueued!(t, send_welcome { user_id: 7, template: "v2", .. });
//!
//! // 3. Run it.
//! assert_eq!(t.run_due().await.executions().len(), 0, "not due yet");
//! t.advance(minutes(5));
//! let run = t.drain().await;
//! assert_eq!(run.summary(), "1 succeeded, 1 retried, 0 dead");
//! # });
//! # fn main() {}
//! ```

mod assert;
mod context;
mod queue;

pub use queue::{Execution, Run, TestQueue, TestQueueBuilder};
