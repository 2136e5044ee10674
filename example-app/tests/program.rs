//! The program as a stranger runs it: real pictures, real requests, a real file.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use image::GenericImageView as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program in a folder of its own, with nothing in its environment.
struct Program(TempDir);

impl Program {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_example-app"));
        command.args(args).current_dir(self.0.path()).env_clear().stdin(Stdio::null());
        command
    }

    /// Runs it to its end, and gives both streams.
    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> (String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
        assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    /// Starts it with a log line for every job.
    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.env("RUST_LOG", "info,worker=debug").stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // It ends with the program, whose log it reads to the end so that nothing waits for a reader.
        thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines }
    }

    #[track_caller]
    fn queue(&self, name: &str) -> Vec<String> {
        let (queues, _) = self.run(&["queues"], 0);
        let row = queues.lines().find(|line| line.split('\t').next() == Some(name));
        row.unwrap_or_else(|| panic!("no queue `{name}`:\n{queues}")).split('\t').skip(1).map(str::to_owned).collect()
    }
}

/// The program at work.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Reads its log up to a line with this text.
    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let mut log = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(text) {
                return line;
            }
            log.push(line);
        }
        panic!("it ended or went silent without saying `{text}`:\n{}", log.join("\n"));
    }

    /// Asks it to end, and gives its exit code.
    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().unwrap().success());
        // The log ends with the program.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where a test failed half-way.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn shipped(picture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures").join(picture)
}

/// The numbers of one row of the closing table.
#[track_caller]
fn row<'t>(table: &'t str, job: &str) -> Vec<&'t str> {
    let row = table.lines().map(str::split_whitespace).find(|row| row.clone().next() == Some(job));
    row.unwrap_or_else(|| panic!("no row `{job}`:\n{table}")).skip(1).take(4).collect()
}

/// A folder as people have them: a photograph that was stored turned, a PNG, a
/// JPEG that is cut off, a text called .jpg, and something that is no picture.
fn mixed_folder(program: &Program) -> PathBuf {
    let input = program.path("my pictures");
    fs::create_dir_all(input.join("holidays")).unwrap();
    fs::copy(shipped("morning-valley.jpg"), input.join("holidays/valley.JPG")).unwrap();
    fs::copy(shipped("julia-square.png"), input.join("julia.png")).unwrap();
    fs::write(input.join("broken.jpg"), &fs::read(shipped("ripples.jpg")).unwrap()[..20_000]).unwrap();
    fs::write(input.join("notes.jpg"), "dear diary").unwrap();
    fs::write(input.join("readme.txt"), "not a picture").unwrap();
    input
}

#[test]
fn what_can_become_a_thumbnail_does_and_the_rest_is_dead_lettered_with_the_reason() {
    let program = Program::new();
    let input = mixed_folder(&program);
    let (table, said) = program.run(&["--input", input.to_str().unwrap(), "--output", "small", "--size", "90"], 0);
    assert!(said.contains("4 pictures of") && said.contains("(1 other files skipped)"), "{said}");
    assert_eq!(row(&table, "thumbnail"), ["4", "2", "0", "2"], "enqueued, succeeded, retried, dead");
    assert_eq!(row(&table, "flaky"), ["3", "3", "6", "0"]);
    assert_eq!(row(&table, "poison"), ["1", "0", "2", "1"]);

    let valley = image::open(program.path("small/holidays/valley.JPG")).unwrap();
    assert_eq!(valley.dimensions(), (90, 68), "stored 540 x 720, seen 720 x 540");
    assert_eq!(image::open(program.path("small/julia.png")).unwrap().dimensions(), (90, 90));
    assert!(!program.path("small/broken.jpg").exists() && !program.path("small/notes.jpg").exists());

    let (dead, _) = program.run(&["dlq", "list"], 0);
    for reason in
        ["broken.jpg: the JPEG is cut off", "notes.jpg: it is neither a JPEG nor a PNG", "always fails, on purpose"]
    {
        assert!(dead.contains(reason), "{dead}");
    }

    // The commands that the run ends with do what they say.
    let commands = table.lines().filter_map(|line| line.trim().strip_prefix("cargo run --release -p example-app -- "));
    let commands = commands.map(|command| command.split(" #").next().unwrap().split_whitespace().collect());
    let [list, show, replay, run]: [Vec<&str>; 4] = commands.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(program.run(&list, 0).0, dead);
    let (shown, _) = program.run(&show, 0);
    assert!(shown.contains(show[2]) && dead.contains(show[2]), "{shown}");
    let (_, said) = program.run(&replay, 2);
    assert!(said.contains("--yes"), "it asks, and here is nobody to answer: {said}");
    program.run(&[&replay[..], &["--yes"]].concat(), 0);
    assert!(!program.run(&["dlq", "list"], 0).0.contains(show[2]), "it was replayed");
    let worker = program.start(&run);
    worker.wait_for("job dead-lettered");
    assert_eq!(worker.stop(), Some(0));
    assert!(program.run(&["dlq", "list"], 0).0.contains(show[2]), "and has failed again");
}

#[test]
fn a_replayed_job_runs_again_from_the_start() {
    let program = Program::new();
    let empty = program.path("empty");
    fs::create_dir(&empty).unwrap();
    fs::copy(shipped("julia-square.png"), empty.join("one.png")).unwrap();
    program.run(&["--input", "empty"], 0);
    assert_eq!(
        program.queue("trouble"),
        ["0", "0", "0", "0", "1", "0"],
        "ready, running, delayed, retrying, dead, consumers"
    );
    program.run(&["dlq", "replay", "--all", "--yes"], 0);
    assert_eq!(program.queue("trouble"), ["1", "0", "0", "0", "0", "0"]);
    let worker = program.start(&["run"]);
    worker.wait_for("job dead-lettered");
    assert_eq!(worker.stop(), Some(0));
    let dead: Value = serde_json::from_str(&program.run(&["dlq", "list", "--json"], 0).0).unwrap();
    assert_eq!((&dead["jobs"][0]["job"], &dead["jobs"][0]["attempts"]), (&json!("poison"), &json!(3)));
}

#[test]
fn orders_and_pictures_are_enqueued_over_http_and_a_worker_does_them() {
    let program = Program::new();
    let service = program.start(&["serve", "--listen", "127.0.0.1:0"]);
    let address = service.wait_for("listening on http://").replace("listening on http://", "");
    let post = |path: &str, body: &str| post(&address, path, body);

    let (status, order) = post("/orders", r#"{"order_id": 7, "customer": "ada@example.com"}"#);
    assert_eq!(status, 202, "{order}");
    assert!(order["job"].is_string(), "{order}");
    assert_eq!(post("/thumbnails", r#"{"picture": "galaxy.jpg", "size": 64}"#).0, 202);

    assert_eq!(post("/orders", r#"{"customer": "nobody"}"#).0, 422, "an order without a number");
    assert_eq!(post("/thumbnails", r#"{"picture": "../src/main.rs"}"#).0, 400, "a path that leaves the folder");
    assert_eq!(post("/thumbnails", r#"{"picture": "/etc/passwd.png"}"#).0, 400);
    assert_eq!(post("/thumbnails", r#"{"picture": "galaxy.jpg", "size": 100000}"#).0, 400);
    let (status, error) = post("/thumbnails", r#"{"picture": "nothing.jpg"}"#);
    assert_eq!((status, &error["error"]), (404, &json!("there is no picture `nothing.jpg`")));
    assert_eq!(post("/orders", &format!(r#"{{"order_id": 7, "items": ["{}"]}}"#, "x".repeat(70_000))).0, 413);
    assert_eq!(service.stop(), Some(0));

    assert_eq!((program.queue("orders")[0].as_str(), program.queue("images")[0].as_str()), ("1", "1"));
    let worker = program.start(&["run", "--queues", "images"]);
    worker.wait_for("job succeeded");
    assert!(image::open(program.path("thumbnails/galaxy.jpg")).unwrap().dimensions().0 <= 64);
    assert_eq!(worker.stop(), Some(0));
    let worker = program.start(&["run", "--queues", "orders,mail"]);
    let mail = worker.wait_for("mail sent");
    assert!(mail.contains("ada@example.com") && mail.contains("your order 7"), "{mail}");
    assert_eq!(worker.stop(), Some(0));
}

#[test]
fn the_operators_commands_know_the_applications_jobs() {
    let program = Program::new();
    // As a program in another language would publish it.
    program.run(&["enqueue", "process_order", "--json", r#"{"order_id": 1001, "note": "leave it at the door"}"#], 0);
    program.run(&["enqueue", "send_receipt", "order_id=7", "to=ada@example.com", "--in", "5m"], 0);
    assert_eq!(program.queue("orders")[0], "1");
    assert_eq!(program.queue("mail")[2], "1", "delayed");
    assert!(program.path("example-app.db").exists(), "the default of all its commands");
    let (_, said) = program.run(&["enqueue", "thumnail"], 2);
    assert!(said.contains("did you mean `thumbnail`?"), "{said}");
    let (_, said) = program.run(&["enqueue", "send_receipt", "oder_id=7", "to=x"], 65);
    assert!(said.contains("no argument `oder_id`; did you mean `order_id`?"), "{said}");
    let (jobs, _) = program.run(&["jobs"], 0);
    for job in ["flaky", "poison", "process_order", "send_receipt", "thumbnail"] {
        assert!(jobs.lines().any(|line| line.starts_with(&format!("{job}\t"))), "{jobs}");
    }
}

#[test]
fn a_folder_that_is_none_or_has_no_pictures_is_said() {
    let program = Program::new();
    let (_, said) = program.run(&["--input", "nowhere"], 1);
    assert!(said.contains("`nowhere`: No such file"), "{said}");
    fs::create_dir(program.path("bare")).unwrap();
    let (_, said) = program.run(&["--input", "bare"], 1);
    assert!(said.contains("there is no .jpg, .jpeg or .png file in `bare`"), "{said}");
    program.run(&["--inptu", "bare"], 2);
}

/// One request; the status and the answer, null where that is no JSON.
fn post(address: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A service that refuses a large body need not read it.
    drop(stream.write_all(body.as_bytes()));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}
