//! `gateway man DIR`: a manual page of each command.

use std::path::PathBuf;

use clap_mangen::Man;

use super::output::{Exit, Failure, print_text};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for the pages; made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// A page: its file name, and its text.
struct Page {
    name: String,
    text: Vec<u8>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let failed = |path: &std::path::Path, e: std::io::Error| {
        Failure::new(
            Exit::Failure,
            format!("{}: {e}", path.display()),
            "name a directory that can be written",
        )
    };
    std::fs::create_dir_all(&args.dir).map_err(|e| failed(&args.dir, e))?;
    let pages = pages(super::command())?;
    for page in &pages {
        let path = args.dir.join(&page.name);
        std::fs::write(&path, &page.text).map_err(|e| failed(&path, e))?;
    }
    print_text(&format!(
        "wrote {} pages\nnext: man {}",
        pages.len(),
        args.dir.join("gateway.1").display()
    ))
}

/// The pages of a command and of all below it that are shown in its help.
fn pages(command: clap::Command) -> Result<Vec<Page>, Failure> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, pages: &mut Vec<Page>) -> Result<(), Failure> {
    let man = Man::new(command.clone())
        .manual("Gateway manual")
        .source(concat!("gateway ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    pages.push(Page {
        name: man.get_filename(),
        text,
    });
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        collect(below, pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    /// Names of all commands with those above them, as their pages are called.
    fn names(command: &clap::Command, above: &str, into: &mut BTreeSet<String>) {
        let name = format!("{above}{}", command.get_name());
        for below in command.get_subcommands() {
            if !below.is_hide_set() && below.get_name() != "help" {
                names(below, &format!("{name}-"), into);
            }
        }
        into.insert(name);
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_is() {
        let mut wanted = BTreeSet::new();
        names(&crate::cli::command(), "", &mut wanted);
        assert!(wanted.len() > 60 && wanted.contains("gateway-config-set"));
        let pages = pages(crate::cli::command()).unwrap();
        let had: BTreeSet<String> = pages
            .iter()
            .map(|p| p.name.strip_suffix(".1").unwrap().to_owned())
            .collect();
        assert_eq!(had, wanted);
        assert_eq!(had.len(), pages.len());
        for page in &pages {
            let text = String::from_utf8(page.text.clone()).unwrap();
            for part in [
                ".TH",
                ".SH NAME",
                ".SH SYNOPSIS",
                ".SH OPTIONS",
                ".SH VERSION",
            ] {
                assert!(text.contains(part), "{} has no {part}", page.name);
            }
            let name = page.name.strip_suffix(".1").unwrap().replace('-', "\\-");
            let about = text
                .lines()
                .find_map(|l| l.strip_prefix(&name)?.strip_prefix(" \\- "));
            assert!(about.is_some_and(|a| a.len() > 5), "{}: {text}", page.name);
        }
        let of = |name: &str| {
            let page = pages.iter().find(|p| p.name == name).unwrap();
            String::from_utf8(page.text.clone()).unwrap()
        };
        assert!(of("gateway.1").contains("Exit codes"));
        assert!(of("gateway-serve.1").contains("wasm\\-dir"));
        assert!(!had.contains("gateway-man"));
    }
}
