//! The README's commands, run as it prints them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// What the commands begin with; the rest is given to the program.
const PROGRAM: &str = "cargo run --release -p example-app";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The commands of the page's console blocks, in order.
fn commands(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let blocks = text.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect()
}

/// The program as `cargo run --release` builds it.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "-p", "example-app", "--locked", "--message-format=json"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).unwrap();
    let message = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let executable = message.filter_map(|message| Some(message["executable"].as_str()?.to_owned())).next_back();
    executable.unwrap().into()
}

#[test]
fn the_readmes_commands_do_what_it_says() {
    let commands = commands("README.md");
    let (first, rest) = commands.split_first().unwrap();
    assert_eq!(first, PROGRAM, "the first command is the main job");
    assert!(rest.contains(&"./tests/run.sh".to_owned()), "and one runs every test");
    let (program, folder) = (build(), TempDir::new().unwrap());
    // As in a clone: the pictures are where the commands say.
    std::os::unix::fs::symlink(root().join("example-app"), folder.path().join("example-app")).unwrap();
    let mut printed = Vec::new();
    for command in commands.iter().filter(|command| *command != "./tests/run.sh") {
        let args = command.strip_prefix(PROGRAM).unwrap_or_else(|| panic!("`{command}` is not run here"));
        let args: Vec<_> = args.trim_start().trim_start_matches("-- ").split_whitespace().collect();
        let output = Command::new(&program).args(&args).current_dir(folder.path()).env_clear().output().unwrap();
        assert!(output.status.success(), "`{command}`: {output:?}");
        printed.push(text(&output));
    }
    assert!(printed[0].contains("thumbnail        12         12"), "{}", printed[0]);
    assert!(printed[1].contains("this job always fails, on purpose"), "dlq list: {}", printed[1]);
    assert!(printed[2].contains("trouble\t0\t0\t0\t0\t1\t0"), "queues: {}", printed[2]);
    assert_eq!(fs::read_dir(folder.path().join("thumbnails")).unwrap().count(), 12);
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
