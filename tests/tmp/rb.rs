#![allow(clippy::all)]
worker_tests::conformance!(worker_tests::fixture::RabbitFixture);
#[test]
fn aa_log() {
    tracing_subscriber::fmt().with_env_filter("worker=debug").try_init().ok();
}
