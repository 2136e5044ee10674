//! The manifests: probes, times, privileges, and that they belong together.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use super::{assert_command, assert_longer_than_an_end, at, root, yaml};

const BASE: &str = "deploy/k8s/base";
const ADMIN_PORT: u64 = 9_091;

fn document(path: &str) -> Value {
    let mut documents = yaml(path);
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn deployment() -> Value {
    document(&format!("{BASE}/deployment.yaml"))
}

fn pod(deployment: &Value) -> &Value {
    at(deployment, "/spec/template/spec")
}

fn container(deployment: &Value) -> &Value {
    at(pod(deployment), "/containers/0")
}

/// The variable's value in the manifest.
fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = at(container, "/env").as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

#[test]
fn kubernetes_waits_longer_than_the_worker_needs() {
    let deployment = deployment();
    let given = at(pod(&deployment), "/terminationGracePeriodSeconds").as_u64().unwrap();
    assert_longer_than_an_end(Duration::from_secs(given));
    let grace = variable(container(&deployment), "WORKER_SHUTDOWN_GRACE").unwrap();
    assert_eq!(
        worker_core::GRACE_DEFAULT,
        super::seconds(grace),
        "the arithmetic in the comment is that of the default"
    );
    assert_eq!(container(&deployment).get("lifecycle"), None, "a preStop hook would eat that time");
}

#[test]
fn each_probe_asks_its_own_question_on_the_admin_port() {
    let deployment = deployment();
    let container = container(&deployment);
    for (probe, path) in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(at(container, &format!("/{probe}/httpGet")), &json!({ "path": path, "port": "admin" }));
    }
    assert_eq!(at(container, "/ports/0"), &json!({ "name": "admin", "containerPort": ADMIN_PORT }));
    assert_eq!(variable(container, "WORKER_ADMIN").unwrap(), format!("0.0.0.0:{ADMIN_PORT}"));
    let number = |pointer| at(container, pointer).as_u64().unwrap();
    let start_max = number("/startupProbe/periodSeconds") * number("/startupProbe/failureThreshold");
    assert!(start_max >= 300, "a broker that restarts is waited for");
    let rollout_max = at(&deployment, "/spec/progressDeadlineSeconds").as_u64().unwrap();
    assert!(rollout_max > start_max, "a rollout waits as long as its pods");
}

#[test]
fn the_worker_has_no_privilege() {
    let deployment = deployment();
    let (pod, container) = (pod(&deployment), container(&deployment));
    assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true);
    assert_eq!(at(pod, "/securityContext/seccompProfile/type"), "RuntimeDefault");
    assert_eq!(
        (at(pod, "/automountServiceAccountToken"), at(pod, "/enableServiceLinks")),
        (&json!(false), &json!(false))
    );
    let expected = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] }
    });
    assert_eq!(at(container, "/securityContext"), &expected);
}

#[test]
fn the_secret_is_a_file_that_the_worker_is_told_of() {
    let deployment = deployment();
    let (pod, container) = (pod(&deployment), container(&deployment));
    let mount = at(container, "/volumeMounts/0");
    let path = mount["mountPath"].as_str().unwrap();
    assert_eq!(variable(container, "WORKER_BROKER_URL_FILE"), Some(&*format!("{path}/broker-url")));
    assert_eq!(variable(container, "WORKER_BROKER_URL"), None);
    assert_eq!(at(pod, "/volumes/0/name"), &mount["name"]);
    assert_eq!(at(pod, "/volumes/0/secret/defaultMode"), 0o440);
    let user = at(pod, "/securityContext/runAsUser");
    assert_eq!(at(pod, "/securityContext/fsGroup"), user, "or it could not read the file");
}

#[test]
fn the_command_exists() {
    let deployment = deployment();
    let args = at(container(&deployment), "/args").as_array().unwrap();
    assert_command(args.iter().map(|arg| arg.as_str().unwrap()));
    assert_eq!(container(&deployment).get("command"), None, "the image's ENTRYPOINT is the program");
}

#[test]
fn everything_selects_the_pods_of_the_deployment() {
    let labels = json!({ "app.kubernetes.io/name": "worker" });
    let deployment = deployment();
    assert_eq!(at(&deployment, "/spec/template/metadata/labels"), &labels);
    let selectors = [
        (deployment.clone(), "/spec/selector/matchLabels"),
        (deployment.clone(), "/spec/template/spec/topologySpreadConstraints/0/labelSelector/matchLabels"),
        (document(&format!("{BASE}/pdb.yaml")), "/spec/selector/matchLabels"),
        (document(&format!("{BASE}/networkpolicy.yaml")), "/spec/podSelector/matchLabels"),
        (document("deploy/k8s/components/podmonitor/podmonitor.yaml"), "/spec/selector/matchLabels"),
    ];
    for (document, selector) in &selectors {
        assert_eq!(at(document, selector), &labels, "{selector} in {document:#}");
    }
    let scaled = yaml("deploy/k8s/components/keda/scaledobject.yaml");
    let (authentication, scaler) = (&scaled[0], &scaled[1]);
    assert_eq!(at(scaler, "/spec/scaleTargetRef/name"), at(&deployment, "/metadata/name"));
    assert_eq!(at(scaler, "/spec/triggers/0/authenticationRef/name"), at(authentication, "/metadata/name"));
    assert!(at(scaler, "/spec/minReplicaCount").as_u64() >= Some(1), "delays need a worker to carry them on");
    let slots = at(scaler, "/spec/triggers/0/metadata/value");
    assert_eq!(slots, &json!(worker_core::CONCURRENCY_DEFAULT.to_string()));
}

#[test]
fn metrics_can_be_fetched_from_where_they_are() {
    let policy = document(&format!("{BASE}/networkpolicy.yaml"));
    assert_eq!(at(&policy, "/spec/ingress/0/ports/0/port"), ADMIN_PORT);
    let monitor = document("deploy/k8s/components/podmonitor/podmonitor.yaml");
    assert_eq!(at(&monitor, "/spec/podMetricsEndpoints/0/port"), "admin");
    assert_eq!(at(&monitor, "/spec/podMetricsEndpoints/0/path"), "/metrics");
}

#[test]
fn kustomize_names_every_file_and_only_files_that_exist() {
    for folder in
        [BASE, "deploy/k8s/components/keda", "deploy/k8s/components/podmonitor", "deploy/k8s/overlays/example"]
    {
        let kustomization = document(&format!("{folder}/kustomization.yaml"));
        let list = |key: &str| kustomization.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let named: Vec<_> = list("resources").into_iter().chain(list("components")).collect();
        for name in &named {
            assert!(root().join(folder).join(name.as_str().unwrap()).exists(), "{folder}: {name}");
        }
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let file = json!(entry.unwrap().file_name().to_str().unwrap());
            assert!(file == "kustomization.yaml" || named.contains(&file), "{folder}: {file} is not named");
        }
    }
}
