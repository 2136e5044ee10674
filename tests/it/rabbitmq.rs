//! The RabbitMQ broker keeps the contract.

worker_tests::conformance!(worker_tests::fixture::RabbitFixture);
