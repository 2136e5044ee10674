//! `topology`: what the program needs, on a file and without any broker.

use serde_json::Value;

use super::program::Program;

const SERVER: &str = "amqp://jobs:hunter2@mq.example/shop";

#[test]
fn what_there_will_be_is_shown_without_a_broker() {
    let program = Program::new().with("WORKER_BROKER_URL", SERVER).with("FIXTURE", "listens");
    let shown = program.run(&["topology", "show"]).exits(0);
    assert_eq!(shown.stdout.lines().next().unwrap(), "WHAT\tNAME\tTYPE\tFOR\tMADE\tARGUMENTS");
    let row = |name: &str| shown.stdout.lines().find(|line| line.split('\t').nth(1) == Some(name)).unwrap();
    assert!(row("emails").starts_with("queue\temails\tquorum\tjobs\tat start\t{\"x-dead-letter-exchange\""), "{shown}");
    assert!(row("emails_retry_5000").contains("\tretries\twhen needed\t"), "{shown}");
    assert!(row("events").starts_with("exchange\tevents\ttopic\t"), "{shown}");
    assert!(row("events to audit (order.*)").starts_with("binding\t"), "{shown}");
    let json = program.run(&["topology", "show", "--format", "json"]).exits(0).json();
    let names: Vec<_> =
        json["queues"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    for name in ["orders", "orders_dlq", "orders_suspects", "orders_retry_25000", "worker.due", "worker.delay.32"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert_eq!(
        (&json["exchanges"][0]["kind"], &json["bindings"][0]["on"]["key"]),
        (&"topic".into(), &"order.*".into())
    );
    assert!(!shown.to_string().contains("hunter2"));
}

#[test]
fn one_queue_can_be_chosen_and_a_name_that_no_job_has_is_warned_of() {
    let program = Program::new().with("WORKER_BROKER_URL", SERVER);
    let json = program.run(&["topology", "show", "--format", "json", "--queue", "emails", "--queue", "emials"]);
    let json = json.exits(0).says(&["no registered job belongs to this queue", "emials"]).json();
    let of: Vec<_> = json["queues"].as_array().unwrap().iter().filter_map(|queue| queue["of"].as_str()).collect();
    assert!(of.contains(&"emails") && of.contains(&"emials") && !of.contains(&"orders"), "{of:?}");
    let classic = program.with("WORKER_RABBITMQ_QUEUE_TYPE", "classic").with("WORKER_RABBITMQ_NAMESPACE", "team");
    classic.run(&["topology", "show", "--queue", "emails"]).exits(0).prints(&["emails\tclassic\t", "\tteam.due\t"]);
}

#[test]
fn pictures_have_every_queue_once() {
    let program = Program::new().with("WORKER_BROKER_URL", SERVER).with("FIXTURE", "listens");
    let mermaid = program.run(&["topology", "show", "--format", "mermaid"]).exits(0).stdout;
    assert!(mermaid.starts_with("flowchart LR\n"), "{mermaid}");
    let nodes = mermaid.lines().filter(|line| line.contains('"') && !line.contains("->")).count();
    // Seven queues of jobs with three others each, the exchange, and three that all share.
    assert_eq!(nodes, 7 * 4 + 1 + 3, "{mermaid}");
    assert!(mermaid.contains("order.#42;") && mermaid.contains("{{\"events<br>topic exchange\"}}"), "{mermaid}");
    let dot = program.run(&["topology", "show", "--format", "dot"]).exits(0).stdout;
    assert!(dot.starts_with("digraph topology {\n") && dot.ends_with("}\n"), "{dot}");
    assert_eq!(dot.matches("[label=\"emails\\njobs\", style=bold]").count(), 1, "{dot}");
}

#[test]
fn on_a_file_queues_exchanges_and_bindings_are_checked_and_applied() {
    let program = Program::new().with("FIXTURE", "listens");
    program.run(&["topology", "check"]).exits(69).says(&["there is no database at `/"]);
    program.run(&["enqueue", "ping"]).exits(0);
    let check = program.run(&["topology", "check"]).exits(3).says(&["missing", "what the program needs is not there"]);
    let status = |name: &str| {
        let row = check.stdout.lines().find(|line| line.split('\t').nth(1) == Some(name)).unwrap();
        row.split('\t').nth(2).unwrap().to_owned()
    };
    assert_eq!((status("default"), status("audit")), ("same".into(), "missing".into()));
    assert_eq!((status("events"), status("events to audit (order.*)")), ("missing".into(), "missing".into()));
    assert!(!check.stdout.contains("_dlq"), "dead letters have no queue of their own there: {check}");
    let applied = program.run(&["topology", "apply"]).exits(0).says(&["created 8 of 9"]);
    applied.prints(&["queue\taudit\n", "exchange\tevents\n", "binding\tevents to audit (order.*)\n"]);
    assert_eq!(program.run(&["topology", "check", "--json"]).exits(0).json()["fine"], true);
    program.run(&["topology", "apply"]).exits(0).says(&["everything was there"]);
}

#[test]
fn a_worker_that_declares_nothing_needs_all_to_be_there_on_a_file_too() {
    let program = Program::new();
    program
        .run(&["run", "--topology", "check"])
        .exits(69)
        .says(&["there is no database", "topology apply` creates it"]);
    assert!(!program.path("jobs.db").exists());
    program.run(&["enqueue", "ping"]).exits(0);
    program.run(&["run", "--topology", "check"]).exits(3).says(&["--topology is `check`", "queue `emails` is missing"]);
    let running = program.start(&["run", "--topology", "check", "--queues", "default"]);
    running.stderr.wait_for("worker started");
    running.signal("TERM");
    running.end().exits(0);
    let memory = program.with("WORKER_BROKER_URL", "memory:").with("WORKER_TOPOLOGY", "check");
    memory.run(&["run"]).exits(78).says(&["WORKER_TOPOLOGY is `check`, and `memory:` begins empty"]);
    let wrong = memory.with("WORKER_TOPOLOGY", "none");
    wrong.run(&["run"]).exits(78).says(&["WORKER_TOPOLOGY is `none`; use `apply` or `check`"]);
}

#[test]
fn an_export_is_for_servers_and_says_so() {
    let program = Program::new();
    program.run(&["topology", "export"]).exits(78).says(&["`sqlite:jobs.db`", "--broker amqp://HOST/VHOST"]);
    let program = program.with("WORKER_BROKER_URL", SERVER);
    program.run(&["topology", "export", "--format", "k8s"]).exits(2).says(&["--cluster"]);
    program
        .run(&["topology", "export", "--format", "k8s", "--cluster", "My Rabbit"])
        .exits(2)
        .says(&["no name in Kubernetes"]);
    let json = program.run(&["topology", "export"]).exits(0).json();
    assert!(json["queues"].as_array().unwrap().iter().all(|queue| queue["vhost"] == "shop"));
    let json = program.run(&["topology", "export", "--vhost", "/"]).exits(0).json();
    assert!(json["queues"].as_array().unwrap().iter().all(|queue| queue["vhost"] == "/"));
}

/// The operator makes of each resource what an import makes of each definition.
#[test]
fn resources_for_kubernetes_say_what_the_definitions_say() {
    let program = Program::new().with("WORKER_BROKER_URL", SERVER).with("FIXTURE", "listens");
    let definitions = program.run(&["topology", "export"]).exits(0).json();
    let yaml = program.run(&["topology", "export", "--format", "k8s", "--cluster", "messaging/rabbit"]).exits(0).stdout;
    let resources: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
    let total = |kind: &str| definitions[kind].as_array().unwrap().len();
    assert_eq!(resources.len(), total("queues") + total("exchanges") + total("bindings"));
    let mut names: Vec<_> =
        resources.iter().map(|resource| (&resource["kind"], &resource["metadata"]["name"])).collect();
    names.sort_by_key(|(kind, name)| (kind.to_string(), name.to_string()));
    names.dedup();
    assert_eq!(names.len(), resources.len(), "no two share a name");
    for resource in &resources {
        let spec = &resource["spec"];
        assert_eq!(resource["apiVersion"], "rabbitmq.com/v1beta1");
        assert_eq!(spec["rabbitmqClusterReference"], serde_json::json!({"name": "rabbit", "namespace": "messaging"}));
        assert_eq!(spec["vhost"], "shop");
        match resource["kind"].as_str().unwrap() {
            "Queue" => {
                let queues = definitions["queues"].as_array().unwrap();
                let queue = queues.iter().find(|queue| queue["name"] == spec["name"]).unwrap();
                assert_eq!((&spec["arguments"], &spec["durable"]), (&queue["arguments"], &queue["durable"]));
                assert_eq!(spec["type"], queue["arguments"]["x-queue-type"]);
            }
            "Exchange" => assert_eq!((&spec["name"], &spec["type"]), (&"events".into(), &"topic".into())),
            "Binding" => {
                let binding = &definitions["bindings"][0];
                assert_eq!((&spec["source"], &spec["destination"]), (&binding["source"], &binding["destination"]));
                assert_eq!((&spec["routingKey"], &spec["destinationType"]), (&binding["routing_key"], &"queue".into()));
            }
            other => panic!("{other}"),
        }
    }
}
