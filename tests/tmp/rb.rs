#![allow(clippy::all)]
worker_tests::conformance!(worker_tests::fixture::RabbitFixture);
