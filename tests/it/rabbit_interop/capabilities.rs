//! What each version of RabbitMQ can do, as the guide says: compared with the version that runs.

use std::path::Path;

use serde_json::{Map, Value};
use worker_tests::rabbit::{shared_node, shared_vhost};

use crate::cli::program::Program;

/// The row of the guide's table that begins with `versions`: capability → whether it is there.
fn expected(versions: &str) -> Map<String, Value> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/rabbitmq.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let table: Vec<_> = guide.lines().skip_while(|line| !line.starts_with("| server | `durable`")).collect();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let names = cells(table[0]);
    let row = table.iter().map(|line| cells(line)).find(|row| row[0] == versions).unwrap();
    let said = |cell: &str| match cell {
        "yes" => Value::Bool(true),
        "no" => Value::Bool(false),
        other => panic!("`{other}` in the table of capabilities"),
    };
    names.iter().zip(row).skip(1).map(|(name, cell)| (name.trim_matches('`').to_owned(), said(&cell))).collect()
}

#[tokio::test]
async fn the_running_server_can_do_what_the_guide_says_of_its_version() {
    let (node, vhost) = (shared_node(), shared_vhost());
    let program = Program::new().with("WORKER_BROKER_URL", vhost.url());
    let health = program.run(&["health", "--json"]).exits(69).json();
    let mut found = health["broker"]["capabilities"].as_object().unwrap().clone();
    assert_eq!(found.remove("broker"), Some("rabbitmq".into()));
    let (version, server) = (node.version().await, found.remove("server").unwrap());
    assert!(server.as_str().unwrap().starts_with(&format!("RabbitMQ {}.{}.", version.0, version.1)), "{server}");
    assert_eq!(
        found,
        expected(match version {
            (..=3, _) => "3.10 to 3.13",
            (4, ..=2) => "4.0 to 4.2",
            _ => "from 4.3",
        })
    );
}
