//! `gateway completion SHELL`

use clap::ValueEnum;

use super::output::{Failure, print_text};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Your shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    Powershell,
}

/// The program completes for itself (method names come from its registry), so a shell only needs to know that.
pub fn run(args: &Args) -> Result<(), Failure> {
    print_text(match args.shell {
        Shell::Bash => "source <(COMPLETE=bash gateway)   # add this line to ~/.bashrc",
        Shell::Zsh => "source <(COMPLETE=zsh gateway)   # add this line to ~/.zshrc",
        Shell::Fish => {
            "COMPLETE=fish gateway | source   # add this line to ~/.config/fish/config.fish"
        }
        Shell::Elvish => {
            "eval (E:COMPLETE=elvish gateway | slurp)   # add this line to ~/.config/elvish/rc.elv"
        }
        Shell::Powershell => {
            "$env:COMPLETE = \"powershell\"; gateway | Out-String | Invoke-Expression; Remove-Item Env:\\COMPLETE   # add this line to $PROFILE"
        }
    })
}
