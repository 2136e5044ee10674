//! The image and the composition, as far as they can be read without an engine.

use super::{assert_command, assert_longer_than_an_end, at, read, root, seconds, yaml};

/// The instructions of the Dockerfile's last stage: keyword and the rest, continued lines joined.
fn last_stage() -> Vec<(String, String)> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let instructions = lines.map(|line| {
        let (keyword, rest) = line.split_once(' ').unwrap();
        (keyword.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    let all: Vec<_> = instructions.collect();
    let last = all.iter().rposition(|(keyword, _)| keyword == "FROM").unwrap();
    assert!(last > 0, "what builds is not in the image");
    all[last..].to_vec()
}

#[track_caller]
fn instruction(keyword: &str) -> String {
    let stage = last_stage();
    let mut found = stage.into_iter().filter(|(found, _)| found == keyword).map(|(_, rest)| rest);
    let first = found.next().unwrap_or_else(|| panic!("no {keyword}"));
    assert_eq!(found.next(), None, "{keyword} stands twice");
    first
}

/// A list of words, as the exec form has it.
#[track_caller]
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("`{text}` is no exec form: {error}"))
}

#[test]
fn the_image_runs_the_program_itself_as_nobody() {
    let user = instruction("USER");
    let ids: Vec<u32> = user.split(':').map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| *id > 0), "`{user}` is two numbers, neither of them root");
    assert_eq!(instruction("STOPSIGNAL"), "SIGTERM");
    let program = words(&instruction("ENTRYPOINT"));
    assert_eq!(program.len(), 1, "no shell between");
    let copied = last_stage().into_iter().any(|(keyword, rest)| keyword == "COPY" && rest.ends_with(&program[0]));
    assert!(copied, "{program:?} is in the image");
    assert_command(words(&instruction("CMD")).iter().map(String::as_str));
    let check = instruction("HEALTHCHECK");
    let check = words(check.split("CMD ").nth(1).unwrap());
    assert_eq!(check[0], program[0]);
    assert_command(check[1..].iter().map(String::as_str));
    assert_eq!(check[1], "health");
}

#[test]
fn the_image_is_built_from_the_lock_file_by_a_compiler_that_is_new_enough() {
    let text = read("deploy/Dockerfile");
    assert!(text.contains("--locked"));
    let image = text.split("FROM rust:").nth(1).unwrap();
    let minor: u32 = image.split(['.', '-']).nth(1).unwrap().parse().unwrap();
    let manifest = read("Cargo.toml");
    let needed = manifest.split("rust-version = \"1.").nth(1).unwrap().split('"').next().unwrap();
    assert!(minor >= needed.parse().unwrap(), "1.{minor} is older than 1.{needed}");
}

#[test]
fn nothing_that_is_big_or_secret_goes_to_the_builder_and_nothing_that_it_needs_is_kept_back() {
    let ignored = read(".dockerignore");
    let ignored: Vec<_> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    for folder in [".git", "target", "deploy"] {
        assert!(ignored.contains(&folder), "{folder}");
    }
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.lines().filter_map(|line| line.split('"').nth(1)) {
        assert!(!ignored.contains(&member), "{member} is part of the workspace");
    }
}

#[test]
fn the_composition_waits_for_the_broker_and_for_the_end() {
    let compose = &yaml("deploy/compose.yaml")[0];
    let worker = at(compose, "/services/worker");
    assert_longer_than_an_end(seconds(at(worker, "/stop_grace_period").as_str().unwrap()));
    assert_eq!(at(worker, "/depends_on/rabbitmq/condition"), "service_healthy");
    let broker = at(compose, "/services/rabbitmq");
    assert_eq!(at(broker, "/image"), "rabbitmq:4-management");
    assert!(at(broker, "/healthcheck/test/1").as_str().unwrap().contains("check_local_alarms"));
    let secret = root().join("deploy").join(at(compose, "/secrets/broker-url/file").as_str().unwrap());
    assert!(secret.exists());
    assert_eq!(at(worker, "/environment/WORKER_BROKER_URL_FILE"), "/run/secrets/broker-url");
    let mounts = at(broker, "/volumes").as_array().unwrap().iter().map(|mount| mount.as_str().unwrap());
    for (here, there) in mounts.filter_map(|mount| mount.strip_prefix("./")?.split_once(':')) {
        assert!(root().join("deploy").join(here).exists(), "{here}");
        assert_eq!(there, format!("/etc/{here}:ro"));
    }
}
