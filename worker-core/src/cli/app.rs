//! `App`: an application's jobs, state and commands as one command-line program.

use std::{ffi::OsString, fmt, future::Future, io, path::Path, pin::Pin, process::ExitCode, sync::Arc};

use clap::FromArgMatches as _;
use tokio::runtime::{Builder, Runtime};

use crate::{
    cli::{
        args::{Cli, Command, GlobalArgs, Identity},
        completions::completions,
        config::config,
        dlq::dlq,
        enqueue::enqueue,
        exit,
        fail::Fail,
        health::health,
        invocation::{Invocation, broker_of, sort},
        jobs::jobs,
        logs::{self, Purpose},
        out::{Out, escape},
        queues::queues,
        run::run,
        stack,
        topology::topology,
    },
    config::{BROKER_URL, Settings, SettingsReader},
    handler::States,
    outcome::{BoxError, chain},
    registry::Registry,
    telemetry::TARGET,
    worker::WorkerBuilder,
};

/// The operator's binary, made of an application's jobs.
///
/// `myapp run` works on the jobs; `enqueue`, `jobs`, `queues`, `dlq`,
/// `topology`, `health`, `config` and `completions` are for the people who run it. `myapp --help`
/// has the rest, with the exit codes, which are also in [`exit`].
///
/// A setting is decided by, in this order: a flag, a `WORKER_*` variable, what
/// [`worker`](Self::worker) and [`default_broker_url`](Self::default_broker_url)
/// say in code, and its default.
///
/// # Examples
///
/// ```no_run
/// use std::{io, process::ExitCode};
/// use worker_core::{cli::App, prelude::*};
///
/// struct Mailer;
///
/// impl Mailer {
///     async fn connect() -> io::Result<Self> {
///         Ok(Self)
///     }
/// }
///
/// #[job(queue = "emails")]
/// async fn send_welcome(user_id: u64, mailer: State<Mailer>) {}
///
/// fn main() -> ExitCode {
///     App::new().version(env!("CARGO_PKG_VERSION")).state_with(Mailer::connect).main()
/// }
/// ```
///
/// The same with every option written out:
///
/// ```no_run
/// # use std::process::ExitCode;
/// # use worker_core::{Registry, cli::App};
/// # fn serve(_: Vec<std::ffi::OsString>) -> ExitCode { ExitCode::SUCCESS }
/// # async fn connect() -> Result<u8, std::io::Error> { Ok(1) }
/// # fn main() -> ExitCode {
/// App::new()
///     .name("shop") // default: the name of the executable file
///     .about("Sells things") // one line, for `--help`
///     .version("1.2.0") // for `--version`; default: that of worker-core
///     .registry(Registry::discovered()) // which jobs
///     .state("shared by all jobs") // for `State<&str>`
///     .state_arc::<str>("the same".into()) // for `State<str>`
///     .state_with(connect) // made when `run` starts
///     .default_broker_url("sqlite:shop.db") // default: sqlite:jobs.db
///     .worker(|builder| builder.concurrency(4)) // where neither flag nor variable says otherwise
///     .command("serve", "Take orders over HTTP", serve) // `shop serve`
///     .default_command("serve") // also `shop` alone
///     .main()
/// # }
/// ```
#[must_use = "nothing runs until `main` is called"]
pub struct App {
    name: Option<String>,
    about: Option<String>,
    version: Option<String>,
    registry: Option<Registry>,
    states: States,
    late_states: Vec<LateState>,
    default_broker_url: Option<String>,
    worker: Option<WorkerChoice>,
    commands: Vec<OwnCommand>,
    default_command: Option<String>,
    /// Whether the command line is that of the process.
    is_process: bool,
}

/// Makes a state and puts it where the worker finds it.
type LateState = Box<dyn for<'a> FnOnce(&'a mut States) -> Pin<Box<dyn Future<Output = Result<(), Fail>> + 'a>>>;

/// Builder options that the application chooses in code.
type WorkerChoice = Box<dyn FnOnce(WorkerBuilder) -> WorkerBuilder>;

/// A command of the application.
struct OwnCommand {
    name: String,
    about: String,
    run: Box<dyn FnOnce(Vec<OsString>) -> ExitCode>,
}

/// What `run` needs of the application.
pub(super) struct Parts {
    pub(super) registry: Registry,
    pub(super) states: States,
    pub(super) late_states: Vec<LateState>,
    pub(super) worker: Option<WorkerChoice>,
}

impl App {
    /// An application with all jobs that were linked into the program, and no state.
    pub fn new() -> Self {
        Self {
            name: None,
            about: None,
            version: None,
            registry: None,
            states: States::default(),
            late_states: Vec::new(),
            default_broker_url: None,
            worker: None,
            commands: Vec::new(),
            default_command: None,
            is_process: false,
        }
    }

    /// Calls the program `name` in its help. Default: the name of its executable file.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Says in one line, without a period, what the program is for.
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = Some(about.into());
        self
    }

    /// The application's version, for `--version`: `env!("CARGO_PKG_VERSION")`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Uses these handlers. Default: [`Registry::discovered`].
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Gives `state` to the jobs that ask for `State<T>`.
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> Self {
        self.state_arc(Arc::new(state))
    }

    /// The same for state that is shared already, also for `State<dyn Trait>`.
    pub fn state_arc<T: ?Sized + Send + Sync + 'static>(mut self, state: Arc<T>) -> Self {
        self.states.insert(state);
        self
    }

    /// Makes a state when `run` starts, and only then, inside the runtime.
    ///
    /// Called for several types, the calls happen one after the other. The
    /// first that fails ends the program with its message and exit code 1; a
    /// signal while it waits ends the program with 0.
    pub fn state_with<T, E, F, Made>(mut self, make: F) -> Self
    where
        T: Send + Sync + 'static,
        E: Into<BoxError>,
        F: FnOnce() -> Made + 'static,
        Made: Future<Output = Result<T, E>> + 'static,
    {
        self.late_states.push(Box::new(move |states| {
            Box::pin(async move {
                let state = make().await.map_err(|error| {
                    let (wanted, error) = (std::any::type_name::<T>(), error.into());
                    Fail::new(exit::FAILURE, format_args!("state `{wanted}`: {}", chain(&*error)))
                })?;
                states.insert(Arc::new(state));
                Ok(())
            })
        }));
        self
    }

    /// Uses `url` where neither `--broker` nor `WORKER_BROKER_URL` says otherwise. Default: `sqlite:jobs.db`.
    pub fn default_broker_url(mut self, url: impl Into<String>) -> Self {
        self.default_broker_url = Some(url.into());
        self
    }

    /// Chooses builder options in code. What a flag or a variable sets wins over them.
    pub fn worker(mut self, choose: impl FnOnce(WorkerBuilder) -> WorkerBuilder + 'static) -> Self {
        self.worker = Some(Box::new(choose));
        self
    }

    /// Adds a command of the application's own, with one line of help. Its name
    /// must be new: a second command of one name is an error at every start.
    ///
    /// `run` gets the arguments as a program would: first a name (`shop
    /// serve`), then everything that was written beside the command's name. A
    /// command-line parser of the application's can read them. It runs on the
    /// main thread, outside any runtime, and logging is its own affair.
    /// `--broker` is not taken out; [`SettingsReader::flag`] understands it.
    pub fn command(
        mut self,
        name: impl Into<String>,
        about: impl Into<String>,
        run: impl FnOnce(Vec<OsString>) -> ExitCode + 'static,
    ) -> Self {
        self.commands.push(OwnCommand { name: name.into(), about: about.into(), run: Box::new(run) });
        self
    }

    /// Runs the command `name`, the application's or one of ours, when none is
    /// given, also when there are flags. `--help` and `--version` stay the whole
    /// program's.
    pub fn default_command(mut self, name: impl Into<String>) -> Self {
        self.default_command = Some(name.into());
        self
    }

    /// Does what the command line says; what `fn main` returns.
    ///
    /// Builds a runtime where the command needs one, and does not wait for
    /// threads of the blocking pool that still run when the command is over.
    ///
    /// Where a command meets RabbitMQ and `RUST_MIN_STACK` is not large enough (64 MiB; 512 MiB in a build
    /// with debug assertions), the program executes itself once more with 512 MiB, as the same process: a message with
    /// deeply nested headers would overflow the stack of the client library's thread, which ends the process. What
    /// `fn main` does before this is done twice then, unless the variable is set from outside, as the files in `deploy/`
    /// do. Unix only.
    #[must_use]
    pub fn main(mut self) -> ExitCode {
        self.is_process = true;
        self.main_from(std::env::args_os())
    }

    /// The same with this command line; the first argument is the program's name. The process stays as it is.
    #[must_use]
    pub fn main_from(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let name = self.name.clone().unwrap_or_else(|| file_name(args.first()));
        if let Some(problem) = self.identity(&name).problem() {
            return ExitCode::from(Fail::new(exit::CONFIG, problem).report());
        }
        let own: Vec<_> = self.commands.iter().map(|command| command.name.as_str()).collect();
        match sort(&name, args, &own, self.default_command.as_deref()) {
            Invocation::Own { place, args } => {
                // What it then logs or does not is its own affair, and so is a configuration that is wrong.
                let settings = self.reader(SettingsReader::new(), broker_of(&args)).read(std::env::vars_os());
                let _goes_on_as_it_is = settings.map(|settings| self.make_room(&settings));
                (self.commands.swap_remove(place).run)(args)
            }
            Invocation::Ours(args) => ExitCode::from(self.ours(&name, &args)),
        }
    }

    /// Runs one of our commands; the exit code.
    fn ours(self, name: &str, args: &[OsString]) -> u8 {
        let command_line = self.identity(name).command_line();
        let parsed = command_line.clone().try_get_matches_from(args).and_then(|args| Cli::from_arg_matches(&args));
        let cli = match parsed {
            Ok(cli) => cli,
            Err(error) => {
                // Where nobody can read it, there is nobody to tell.
                drop(error.print());
                return u8::try_from(error.exit_code()).unwrap_or(exit::USAGE);
            }
        };
        self.dispatch(cli, command_line, name).unwrap_or_else(|fail| fail.report())
    }

    fn identity<'a>(&'a self, name: &'a str) -> Identity<'a> {
        Identity {
            name,
            about: self.about.as_deref(),
            version: self.version.as_deref(),
            default_broker_url: self.default_broker_url.as_deref().unwrap_or(BROKER_URL.default),
            commands: self.commands.iter().map(|own| (own.name.as_str(), own.about.as_str())).collect(),
            default_command: self.default_command.as_deref(),
        }
    }

    fn dispatch(self, cli: Cli, command_line: clap::Command, name: &str) -> Result<u8, Fail> {
        let Cli { global, command } = cli;
        let out = Out::new();
        let read = |reader: SettingsReader, purpose: Purpose| self.settings(&global, reader, purpose);
        let new = SettingsReader::new;
        match command {
            Command::Completions(args) => completions(&args, command_line, out),
            Command::Jobs(args) => jobs(&args, &self.jobs(), out),
            Command::Config(args) => config(&args, &read(new(), Purpose::Command)?, out),
            Command::Queues(args) => {
                let settings = read(new(), Purpose::Command)?;
                on_runtime(queues(&args, &settings, &self.jobs(), name, out))
            }
            Command::Dlq(args) => {
                let settings = read(new(), Purpose::Command)?;
                on_runtime(dlq(args, &settings, &self.jobs(), name, out))
            }
            Command::Topology(args) => {
                let settings = read(new(), Purpose::Command)?;
                on_runtime(topology(args, &settings, &self.jobs(), name, out))
            }
            Command::Health(args) => {
                let settings = read(new(), Purpose::Command)?;
                on_runtime(health(&args, &settings, &self.jobs(), out))
            }
            Command::Enqueue(args) => {
                let settings = read(new(), Purpose::Command)?;
                on_runtime(enqueue(args, &settings, &self.jobs(), name, out))
            }
            Command::Run(args) => {
                let settings = read(args.flags(new()), Purpose::Work)?;
                let registry = self.jobs();
                let Self { states, late_states, worker, .. } = self;
                run(&settings, Parts { registry, states, late_states, worker }, name)
            }
        }
    }

    fn jobs(&self) -> Registry {
        self.registry.clone().unwrap_or_else(Registry::discovered)
    }

    /// Knows the broker that the application and the command line name.
    fn reader(&self, mut reader: SettingsReader, broker: Option<&str>) -> SettingsReader {
        if let Some(url) = &self.default_broker_url {
            reader = reader.default_broker_url(url);
        }
        if let Some(url) = broker {
            reader = reader.flag("--broker", url);
        }
        reader
    }

    /// Begins anew, with more stack, where a message from RabbitMQ could overflow it.
    fn make_room(&self, settings: &Settings) -> io::Result<()> {
        let meets_rabbitmq = settings.broker_url.amqp().is_some();
        if self.is_process && meets_rabbitmq { stack::enlarge() } else { Ok(()) }
    }

    /// Reads the settings, and logs from now on.
    fn settings(&self, global: &GlobalArgs, reader: SettingsReader, purpose: Purpose) -> Result<Settings, Fail> {
        let settings = self.reader(reader, global.broker.as_deref()).read(std::env::vars_os())?;
        // Nothing was said or begun yet: it would be twice.
        let enlarged = self.make_room(&settings);
        logs::start(settings.log_format, purpose)?;
        if let Err(error) = enlarged {
            tracing::warn!(target: TARGET, %error, "the program could not be executed again with a larger stack");
        }
        for warning in settings.warnings() {
            tracing::warn!(target: TARGET, "{warning}");
        }
        Ok(settings)
    }
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for App {
    /// Without the state, which may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("name", &self.name).field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// Runs `command` to its end, and leaves alone what then still blocks a thread.
fn on_runtime(command: impl Future<Output = Result<u8, Fail>>) -> Result<u8, Fail> {
    let runtime = runtime(&mut Builder::new_multi_thread())?;
    let code = runtime.block_on(command);
    runtime.shutdown_background();
    code
}

pub(super) fn runtime(builder: &mut Builder) -> Result<Runtime, Fail> {
    let built = builder.enable_all().build();
    built.map_err(|error| Fail::new(exit::FAILURE, format_args!("the runtime could not be started: {error}")))
}

/// The program's name as its user knows it.
fn file_name(program: Option<&OsString>) -> String {
    let name = program.and_then(|program| Path::new(program).file_stem());
    name.map_or_else(|| "worker".into(), |name| escape(&name.to_string_lossy()).into_owned())
}
