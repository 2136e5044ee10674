//! `completions`: what a shell needs to complete the command line.

use clap::Args;
use clap_complete::Shell;

use crate::cli::{fail::Fail, out::Out};

/// Print a script that completes commands and options in a shell
#[derive(Debug, Args)]
#[command(after_help = r#"Examples:
  myapp completions bash > ~/.local/share/bash-completion/completions/myapp
  myapp completions zsh > ~/.zfunc/_myapp
  myapp completions fish > ~/.config/fish/completions/myapp.fish"#)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs, mut command_line: clap::Command, out: Out) -> Result<u8, Fail> {
    let name = command_line.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line, name, &mut script);
    out.text(&String::from_utf8_lossy(&script))?;
    Ok(super::exit::OK)
}
