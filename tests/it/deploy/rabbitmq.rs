//! The broker's files: a user who may do what the program does and nothing else.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use super::{at, read, root};

/// The queues of the example application.
fn queues() -> BTreeSet<String> {
    let mut queues = BTreeSet::new();
    for entry in fs::read_dir(root().join("example-app/src/jobs")).unwrap() {
        let source = fs::read_to_string(entry.unwrap().path()).unwrap();
        queues.extend(source.split("#[job(queue = \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    queues
}

fn definitions() -> Value {
    serde_json::from_str(&read("deploy/rabbitmq/definitions.json")).unwrap()
}

#[test]
fn the_workers_user_may_touch_the_programs_queues_and_nothing_else() {
    let definitions = definitions();
    let permission = at(&definitions, "/permissions/0");
    let queues = queues().into_iter().collect::<Vec<_>>().join("|");
    let own = format!(r"^(({queues})(_dlq|_suspects|_retry_[0-9]+|_dlq\.turn)?|worker\.(due(_dlq)?|delay\.[0-9]+))$");
    let expected = json!({
        "user": "worker", "vhost": "worker", "configure": own, "write": r"^amq\.default$", "read": own
    });
    assert_eq!(permission, &expected);
    assert_eq!(at(&definitions, "/users/0/tags"), &json!([]), "it has no business on the management pages");
    assert_eq!(at(&definitions, "/permissions/1/read"), "^$", "numbers, but no message");
}

#[test]
fn the_url_of_the_composition_is_that_of_the_definitions() {
    let definitions = definitions();
    let text = |pointer| at(&definitions, pointer).as_str().unwrap();
    let (user, password, vhost) = (text("/users/0/name"), text("/users/0/password"), text("/vhosts/0/name"));
    assert_eq!(read("deploy/rabbitmq/broker-url"), format!("amqp://{user}:{password}@rabbitmq:5672/{vhost}\n"));
}

#[test]
fn the_wait_of_dead_lettering_is_ten_seconds() {
    let config = read("deploy/rabbitmq/advanced.config");
    assert!(config.contains("{dead_letter_worker_publisher_confirm_timeout, 10000}"), "{config}");
    assert!(config.trim_end().ends_with("]."), "an Erlang term ends with a period");
    let settings = read("deploy/rabbitmq/rabbitmq.conf");
    for line in settings.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.contains(" = "), "`{line}` is no setting");
    }
}
