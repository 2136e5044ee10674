//! P11: what a hundred jobs cost to compile, beside the same payload structs, serde derives and dispatch by hand.
//!
//! Both are libraries in a workspace of their own, with the versions of this one. What is measured is a call of `cargo`
//! after a literal in one job was changed; cargo's own start and the same body of each job are on both sides, and nothing
//! is linked, which would cost both the same as any program. And how much code the compiler is given for a job.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use tempfile::TempDir;

use crate::{
    measure::{Goal, Line, Sample, Unit},
    stage::{Contest, Scale, Stage},
};

const BY_HAND: &str = "by hand";
const OURS: &str = "framework";

pub(crate) async fn hundred_jobs(stage: &Stage) -> Vec<Line> {
    let yard = Yard::new(stage.scale == Scale::Quick, stage.jobs(100, 3));
    eprintln!("P11: building what both need");
    let both = [Package::ByHand, Package::Ours];
    both.iter().for_each(|package| yard.change(*package, 0));
    // First: without code being made, what the next build could use again is lost.
    let lines = both.map(|package| yard.expanded(package) as f64 / yard.jobs as f64);
    for package in both {
        yard.time(package, "check");
        yard.time(package, "build");
    }
    let mut contest = Contest::new(stage, "P11");
    for ((name, package), lines) in [(BY_HAND, Package::ByHand), (OURS, Package::Ours)].into_iter().zip(lines) {
        let yard = &yard;
        contest = contest.side(name, async move || yard.measure(package).chain([lines]).map(Sample::plain).collect());
    }
    let results = contest.run().await;
    let count = yard.jobs;
    let line = |n: usize, what: String, unit, goal| {
        results.beside(Line::new(what, unit, goal, results.of(OURS, n)), BY_HAND, n)
    };
    let most = Goal::RatioAtMost(1.3);
    vec![
        line(0, format!("{count} jobs, one changed: cargo build"), Unit::Seconds, most),
        line(1, format!("{count} jobs, one changed: cargo check"), Unit::Seconds, most),
        line(2, "expanded code of a job".into(), Unit::Lines, Goal::None),
    ]
}

#[derive(Debug, Clone, Copy)]
enum Package {
    ByHand,
    Ours,
}

impl Package {
    const fn name(self) -> &'static str {
        match self {
            Self::ByHand => "by_hand",
            Self::Ours => "ours",
        }
    }

    /// What stands before the jobs, and after them.
    fn frame(self, jobs: u64) -> (&'static str, String) {
        match self {
            Self::Ours => ("use worker_core::prelude::*;\n", String::new()),
            Self::ByHand => {
                let arm = |n: u64| format!("        \"job_{n}\" => start(body, job_{n}),\n");
                let arms: String = (0..jobs).map(arm).collect();
                (
                    HAND,
                    format!(
                        "pub fn dispatch(name: &str, body: &[u8]) -> Option<Running> {{\n    Some(match name {{\n{arms}        _ => return None,\n    }})\n}}\n"
                    ),
                )
            }
        }
    }

    /// The `n`th job; `change` is what differs from one build to the next.
    fn job(self, n: u64, change: usize) -> String {
        let body = format!("    println!(\"{{id}} {{name}} {{tags:?}} {change}\");\n    Ok(())\n");
        match self {
            Self::Ours => format!(
                "#[job]\npub async fn job_{n}(id: u64, name: String, tags: Vec<String>) -> JobResult {{\n{body}}}\n"
            ),
            Self::ByHand => format!(
                "#[derive(Debug, Clone, Serialize, Deserialize)]\npub struct Job{n} {{\n    pub id: u64,\n    pub name: String,\n    pub tags: Vec<String>,\n}}\npub async fn job_{n}(Job{n} {{ id, name, tags }}: Job{n}) -> Result<(), Failure> {{\n{body}}}\n"
            ),
        }
    }
}

/// What somebody writes who has no framework: an error of any kind, and a way to start a job from its bytes.
const HAND: &str = "use std::{error::Error, future::Future, pin::Pin};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
pub type Failure = Box<dyn Error + Send + Sync>;
pub type Running = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;
fn start<J, F>(body: &[u8], run: fn(J) -> F) -> Running
where
    J: DeserializeOwned + Send + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let job = serde_json::from_slice::<J>(body);
    Box::pin(async move { run(job?).await })
}
";

/// The workspace of both.
struct Yard {
    folder: TempDir,
    jobs: u64,
}

impl Yard {
    fn new(is_quick: bool, jobs: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = repository();
        let manifest = |package: Package, dependencies: &str| {
            let name = package.name();
            format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}")
        };
        // Whether it runs is seen without the brokers, which take a minute to compile.
        let features = if is_quick { "default-features = false, " } else { "" };
        let core = repository.join("worker-core");
        let ours = format!("worker-core = {{ {features}path = {core:?} }}\n");
        let by_hand = "serde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\n";
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"by_hand\", \"ours\"]\n");
        write("by_hand/Cargo.toml", &manifest(Package::ByHand, by_hand));
        write("ours/Cargo.toml", &manifest(Package::Ours, &ours));
        fs::create_dir_all(folder.path().join("by_hand/src")).unwrap();
        fs::create_dir_all(folder.path().join("ours/src")).unwrap();
        // The same versions, which are here already.
        fs::copy(repository.join("Cargo.lock"), folder.path().join("Cargo.lock")).unwrap();
        Self { folder, jobs }
    }

    /// Changes one job.
    fn change(&self, package: Package, change: usize) {
        let (before, after) = package.frame(self.jobs);
        let mut text = String::from(before);
        for n in 0..self.jobs {
            write!(text, "\n{}", package.job(n, if n == 0 { change } else { 0 })).unwrap();
        }
        fs::write(self.folder.path().join(package.name()).join("src/lib.rs"), text + "\n" + &after).unwrap();
    }

    /// Seconds of a build and of a check, each after a change.
    fn measure(&self, package: Package) -> impl Iterator<Item = f64> {
        ["build", "check"].into_iter().map(move |command| {
            self.change(package, fastrand::usize(1..));
            self.time(package, command)
        })
    }

    /// Seconds of a call of `cargo`.
    fn time(&self, package: Package, command: &str) -> f64 {
        let began = Instant::now();
        self.cargo(package, &[command]);
        began.elapsed().as_secs_f64()
    }

    /// Lines of the code that the compiler sees, as it prints it.
    fn expanded(&self, package: Package) -> usize {
        let output = self.cargo(package, &["rustc", "--lib", "--", "-Zunpretty=expanded"]);
        output.stdout.iter().filter(|byte| **byte == b'\n').count()
    }

    fn cargo(&self, package: Package, args: &[&str]) -> Output {
        let (command, rest) = args.split_first().unwrap();
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([command, "--offline", "--quiet", "--package", package.name()]).args(rest);
        // For `-Zunpretty` of these two alone; always, since a change of it would have everything built anew.
        cargo.env("RUSTC_BOOTSTRAP", "by_hand,ours").env("CARGO_TARGET_DIR", self.folder.path().join("target"));
        let output = cargo.current_dir(self.folder.path()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo {args:?} of {}: {told}", package.name());
        output
    }
}

/// Where this program's source is.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
