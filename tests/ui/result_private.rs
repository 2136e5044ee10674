#![allow(unused_variables)]

mod orders {
    #[derive(Debug)]
    struct OrderError;

    impl std::fmt::Display for OrderError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("gone")
        }
    }

    impl std::error::Error for OrderError {}

    #[worker_core::job]
    pub async fn ship(id: u64) -> Result<(), OrderError> {
        Ok(())
    }
}

fn main() {}
