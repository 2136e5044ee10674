//! Everything that a job may return.

use std::{convert::Infallible, error::Error, fmt, io, num::ParseIntError};

use worker_core::{BoxError, JobError, JobResult, job};

#[derive(Debug)]
pub(crate) enum OrderError {
    Gone,
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gone")
    }
}

impl Error for OrderError {}

type Outcome<T = ()> = Result<T, OrderError>;

#[job]
async fn ui_returns_nothing() {}

#[job]
async fn ui_returns_unit() -> () {}

#[job]
async fn ui_returns_bool() -> bool {
    true
}

#[job]
async fn ui_returns_job_result() -> JobResult {
    Err(JobError::discard("no"))
}

#[job]
async fn ui_returns_a_value(a: f64, b: f64) -> JobResult<f64> {
    Ok(a + b)
}

#[job]
async fn ui_returns_own_error() -> Result<(), OrderError> {
    Err(OrderError::Gone)
}

#[job]
async fn ui_returns_an_alias() -> Outcome {
    Ok(())
}

#[job]
async fn ui_returns_io() -> io::Result<Vec<u8>> {
    Ok(Vec::new())
}

#[job]
async fn ui_returns_boxed() -> Result<(), BoxError> {
    Ok("1".parse::<u8>().map(drop)?)
}

#[job]
async fn ui_returns_text() -> Result<u8, String> {
    "1".parse().map_err(|error: ParseIntError| error.to_string())
}

#[job]
async fn ui_returns_static_text() -> Result<&'static str, &'static str> {
    Ok("static")
}

#[job]
fn ui_returns_infallible() -> Result<Option<u8>, Infallible> {
    Ok(None)
}

#[tokio::test]
async fn a_handlers_error_passes_through_a_test() -> Result<(), Box<dyn Error>> {
    assert_eq!(ui_returns_a_value(1.0, 2.0).await?, 3.0);
    assert!(ui_returns_own_error().await.is_err());
    Ok(())
}
