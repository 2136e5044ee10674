//! The command line of every application: commands, and what the help says around them.

use std::{collections::BTreeSet, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    cli::{
        completions::CompletionsArgs, config::ConfigArgs, dlq::DlqArgs, enqueue::EnqueueArgs, exit, health::HealthArgs,
        jobs::JobsArgs, queues::QueuesArgs, run::RunArgs, topology::TopologyArgs,
    },
    config::BROKER_URL,
};

/// The name in the examples of the help texts, replaced by the application's.
const NAME_IN_EXAMPLES: &str = "myapp";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = r#"Examples:
  myapp run                          work on the queues of all registered jobs
  myapp enqueue JOB key=value        ask for a job
  myapp dlq list                     what failed for good, and why
  myapp dlq replay --all --dry-run   what a replay would do

Settings come from flags, then from WORKER_* variables; `myapp config` shows
them with their origin. RUST_LOG chooses what is logged, NO_COLOR takes out
colours."#
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(super) struct GlobalArgs {
    /// Where the jobs are
    #[arg(long, global = true, value_name = "URL", display_order = 900)]
    pub(super) broker: Option<String>,
}

/// The commands that every application has.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(display_order = 100)]
    Run(RunArgs),
    #[command(display_order = 101)]
    Enqueue(EnqueueArgs),
    #[command(display_order = 102)]
    Jobs(JobsArgs),
    #[command(display_order = 103)]
    Queues(QueuesArgs),
    #[command(display_order = 104)]
    Dlq(DlqArgs),
    #[command(display_order = 105)]
    Topology(TopologyArgs),
    #[command(display_order = 106)]
    Health(HealthArgs),
    #[command(display_order = 107)]
    Config(ConfigArgs),
    #[command(display_order = 108)]
    Completions(CompletionsArgs),
}

/// A duration of a flag that is no setting.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    crate::config::duration(text).map_err(|why| format!("it {why}"))
}

/// The application's own name, text and commands around ours.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    pub(super) name: &'a str,
    pub(super) about: Option<&'a str>,
    pub(super) version: Option<&'a str>,
    pub(super) default_broker_url: &'a str,
    /// Name and first line of help.
    pub(super) commands: Vec<(&'a str, &'a str)>,
    pub(super) default_command: Option<&'a str>,
}

impl Identity<'_> {
    /// What is wrong with the application's commands, if anything: a mistake in its code.
    pub(super) fn problem(&self) -> Option<String> {
        let ours = <Cli as clap::CommandFactory>::command();
        let is_ours = |name: &str| name == "help" || ours.find_subcommand(name).is_some();
        let mut names = BTreeSet::new();
        if let Some((twice, _)) = self.commands.iter().find(|(name, _)| is_ours(name) || !names.insert(*name)) {
            return Some(format!("the application has a command `{twice}`, but there is one of this name already"));
        }
        let default = self.default_command.filter(|name| !names.contains(name) && !is_ours(name))?;
        Some(format!("the application's default command `{default}` does not exist"))
    }

    /// The command line of this application.
    pub(super) fn command_line(&self) -> clap::Command {
        let library = concat!("worker-core ", env!("CARGO_PKG_VERSION"));
        let version = self.version.map_or_else(|| format!("({library})"), |version| format!("{version} ({library})"));
        let mut command = <Cli as clap::CommandFactory>::command().name(self.name.to_owned()).version(version);
        command = match self.about {
            Some(about) => command.about(about.to_owned()),
            None => command.about("Works on background jobs, and shows how they are"),
        };
        for (place, (name, about)) in self.commands.iter().enumerate() {
            let anything = clap::Arg::new("arguments").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
            let own = clap::Command::new((*name).to_owned()).about((*about).to_owned()).display_order(place); // Before ours.
            command = command.subcommand(own.disable_help_flag(true).arg(anything.hide(true)));
        }
        let broker = format!(
            "Where the jobs are: {} [default: WORKER_BROKER_URL, or {}]",
            BROKER_URL.form, self.default_broker_url
        );
        command = command.mut_arg("broker", |arg| arg.help(broker));
        let mut after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        if let Some(default) = self.default_command {
            after = format!("Without a command, `{default}` runs: `myapp {default} --help`.\n\n{after}");
            command = command.arg_required_else_help(false).subcommand_required(false);
        }
        self.personal(command.after_help(format!("{after}\n\n{}", exit::HELP)))
    }

    /// With the application's name in the examples.
    fn personal(&self, command: clap::Command) -> clap::Command {
        let with_name = |text: &clap::builder::StyledStr| text.to_string().replace(NAME_IN_EXAMPLES, self.name);
        let after = command.get_after_help().map(with_name);
        let command = match after {
            Some(after) => command.after_help(after),
            None => command,
        };
        command.mut_subcommands(|command| self.personal(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_lines(command: &clap::Command) -> Vec<String> {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let long = after.lines().filter(|line| line.chars().count() > 80).map(str::to_owned);
        long.chain(command.get_subcommands().flat_map(long_lines)).collect()
    }

    const IDENTITY: Identity<'_> = Identity {
        name: "app",
        about: None,
        version: None,
        default_broker_url: "sqlite:jobs.db",
        commands: Vec::new(),
        default_command: None,
    };

    #[test]
    fn the_command_line_is_sound_and_its_help_fits_on_a_screen() {
        let identity = Identity { commands: vec![("serve", "Serve")], default_command: Some("serve"), ..IDENTITY };
        let command = identity.command_line();
        command.clone().debug_assert();
        assert_eq!(long_lines(&command), [""; 0]);
        assert_eq!(identity.problem(), None);
    }

    #[test]
    fn a_command_that_exists_already_and_a_default_that_does_not_are_mistakes() {
        let problem = |commands: &[&'static str], default_command| {
            let commands = commands.iter().map(|name| (*name, "")).collect();
            Identity { commands, default_command, ..IDENTITY }.problem()
        };
        assert!(problem(&["run"], None).unwrap().contains("command `run`"));
        assert!(problem(&["serve", "serve"], None).unwrap().contains("command `serve`"));
        assert!(problem(&["serve"], Some("sevre")).unwrap().contains("`sevre` does not exist"));
        assert_eq!(problem(&["serve"], Some("run")), None);
    }
}
