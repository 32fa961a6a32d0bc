//! `tollgate completions`: prints a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CommandError, print};

/// Print a completion script for your shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate completions bash > /etc/bash_completion.d/tollgate
  tollgate completions zsh  > \"${fpath[1]}/_tollgate\"
  tollgate completions fish > ~/.config/fish/completions/tollgate.fish")]
pub(super) struct CompletionsArgs {
    /// Your shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tollgate", &mut script);
    Ok(print::text(&String::from_utf8_lossy(&script))?)
}
