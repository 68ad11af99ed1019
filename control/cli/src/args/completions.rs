//! The arguments of `dflow completions`.

use clap::Args;

use crate::completions::Shell;

/// The arguments of `dflow completions`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct CompletionsArgs {
    /// The shell that the script is for
    #[arg(value_enum)]
    pub shell: Shell,
}

const HELP: &str = "\
The script calls dflow for each completion. Load it when the shell starts; a saved copy might not match the next \
release. After `dflow run FILE`, the names of the inputs and parameters of FILE are completed too.

Examples:
  bash, in ~/.bashrc:                       source <(dflow completions bash)
  zsh, in ~/.zshrc, after compinit:         source <(dflow completions zsh)
  fish, in ~/.config/fish/config.fish:      dflow completions fish | source

Exit status: 0.";
