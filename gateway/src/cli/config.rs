//! `gateway config get | set | unset | edit | validate | diff | rollback | history | explain | schema`
//!
//! They work on the file; a running gateway sees the edit and lets it count.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use gateway_config::{
    ConfigError, ConfigFile, KeyEdit, Origin, Overrides, Plan, Reload, Settings, Snapshot,
    differences, doc_of, join_path, look_up, options_schema, parse_value, redacted_json,
    split_path, value_at,
};
use gateway_core::cron::schedule::rfc3339;
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, clean, clean_lines, print, print_text, table};
use crate::run_file::RunFile;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// What counts: the whole configuration or one value, defaults included, without secrets.
    Get {
        /// Path, for example gateway.port or channels.webhook.accounts.default.
        path: Option<String>,
    },
    /// Set one value; comments stay. The result is checked as a whole before it is written.
    Set {
        /// Path, for example logging.level.
        path: String,
        /// JSON5, or plain text.
        value: String,
    },
    /// Take one key out; its default counts then.
    Unset {
        /// Path.
        path: String,
    },
    /// Open the file in $VISUAL or $EDITOR; it is checked before it is put in place.
    Edit,
    /// Check the file, or another one.
    Validate {
        /// Another file.
        file: Option<PathBuf>,
    },
    /// Values that differ: between what ran last and the file, or between two of: file, last-good, a number of `history`,
    /// a path.
    Diff {
        /// The one [default: last-good].
        a: Option<String>,
        /// The other [default: file].
        b: Option<String>,
    },
    /// Bring an earlier text of the file back.
    Rollback {
        /// Its number in `history`.
        #[arg(default_value_t = 1)]
        number: usize,
    },
    /// Earlier texts of the file, kept at each edit by a command or a client.
    History,
    /// Where a value is from, what a change of it needs, and what it means.
    Explain {
        /// Path.
        path: String,
    },
    /// Print the JSON Schema of the file, for editors (`$schema` in the file may name it).
    Schema,
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    let file = config_file(global)?;
    match command {
        Command::Get { path } => get(global, &file, path.as_deref()),
        Command::Set { path, value } => {
            let value = parse_value(&value).unwrap_or(Value::String(value));
            change(global, &file, &path, Some(value))
        }
        Command::Unset { path } => change(global, &file, &path, None),
        Command::Edit => edit(global, &file),
        Command::Validate { file: other } => validate(global, &file, other),
        Command::Diff { a, b } => diff(global, &file, a.as_deref(), b.as_deref()),
        Command::Rollback { number } => rollback(global, &file, number),
        Command::History => history(global, &file),
        Command::Explain { path } => explain(global, &file, &path),
        Command::Schema => print_text(&format!("{:#}", options_schema())),
    }
}

/// The file that the command line means.
fn config_file(global: &Global) -> Result<ConfigFile, Failure> {
    let state_dir = std::path::absolute(global.state_dir()?)?;
    Ok(ConfigFile::new(
        state_dir,
        global.config.clone(),
        Overrides::default(),
        Arc::new(|name| std::env::var(name).ok()),
    ))
}

fn steps(path: &str) -> Result<Vec<String>, Failure> {
    split_path(path).filter(|s| !s.is_empty()).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("{path:?} is not a path"),
            "write it like gateway.port, or tenants.acme.channels.webhook.accounts[\"a.b\"]",
        )
    })
}

fn get(global: &Global, file: &ConfigFile, path: Option<&str>) -> Result<(), Failure> {
    let shown = redacted_json(&file.load()?);
    let value = match path {
        None => Some(&shown),
        Some(path) => value_at(&shown, &steps(path)?),
    };
    let value = value.ok_or_else(|| {
        Failure::new(
            Exit::Failure,
            format!("nothing counts at {}", path.unwrap_or_default()),
            "look at `gateway config get`, or at `gateway config explain` for what may stand there",
        )
    })?;
    print(global.json, value, |value| match value {
        Value::String(text) => clean(text),
        other => clean_lines(&format!("{other:#}")),
    })
}

fn change(
    global: &Global,
    file: &ConfigFile,
    path: &str,
    value: Option<Value>,
) -> Result<(), Failure> {
    let base = file.read()?;
    let edit = KeyEdit {
        steps: steps(path)?,
        value,
    };
    let text = file.edited(&base, &[edit])?;
    put(global, file, &base, &text)
}

/// Checks a text, puts it in place, and says what that does.
fn put(global: &Global, file: &ConfigFile, base: &Snapshot, text: &str) -> Result<(), Failure> {
    let after = file.check(text)?;
    let plan = file
        .load()
        .ok()
        .map(|before| Plan::between(&before, &after));
    let unchanged = base.text == text;
    if !unchanged && !file.replace(base, text)? {
        return Err(Failure::new(
            Exit::Failure,
            "the file was changed by somebody else in the meantime",
            "run the command again",
        ));
    }
    let (changed, restart) = plan.map_or((Vec::new(), Vec::new()), |p| (p.paths(), p.restart()));
    let runs = RunFile::of_running(file.state_dir()).is_some();
    let result = json!({
        "path": file.path(), "written": !unchanged, "changed": changed, "restartNeeded": restart,
        "warnings": after.warnings, "running": runs,
    });
    print(global.json, &result, |_| {
        if unchanged {
            return "nothing to change".to_owned();
        }
        let mut lines = vec![format!("wrote   {}", file.path().display())];
        lines.extend(
            changed
                .iter()
                .map(|path| format!("changed {}", clean(path))),
        );
        lines.extend(
            after
                .warnings
                .iter()
                .map(|w| format!("warning {}", clean(w))),
        );
        lines.push(match (runs, restart.is_empty()) {
            (false, _) => "next    it counts when the gateway starts".to_owned(),
            (true, true) => {
                "next    the running gateway takes it up; `gateway status` shows it".to_owned()
            }
            (true, false) => format!(
                "next    restart the gateway: {} cannot change while it runs",
                restart.join(", ")
            ),
        });
        lines.join("\n")
    })
}

fn edit(global: &Global, file: &ConfigFile) -> Result<(), Failure> {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "neither VISUAL nor EDITOR names an editor",
            format!("set EDITOR, or edit {} by hand", file.path().display()),
        )
    })?;
    let base = file.read()?;
    let draft = file.draft(&base.text)?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = std::process::Command::new(program)
        .args(words)
        .arg(&draft)
        .status()
        .map_err(|e| {
            Failure::new(
                Exit::Failure,
                format!("{program} cannot be started: {e}"),
                "set EDITOR to an editor that is there",
            )
        })?;
    if !status.success() {
        return Err(Failure::new(
            Exit::Failure,
            format!("{program} ended with {status}"),
            format!("nothing was changed; the draft is {}", draft.display()),
        ));
    }
    let text = file.read_draft(&draft)?;
    match put(global, file, &base, &text) {
        Ok(()) => {
            // The draft has done its work; one that stays is only clutter with mode 0600.
            let _ = std::fs::remove_file(&draft);
            Ok(())
        }
        Err(failure) => Err(Failure {
            next: format!(
                "nothing was changed; the draft is {}: mend it and run `gateway config validate {}`",
                draft.display(),
                draft.display()
            ),
            ..failure
        }),
    }
}

fn validate(global: &Global, file: &ConfigFile, other: Option<PathBuf>) -> Result<(), Failure> {
    let file = match other {
        Some(path) => ConfigFile::new(
            file.state_dir(),
            Some(path),
            Overrides::default(),
            Arc::new(|name| std::env::var(name).ok()),
        ),
        None => file.clone(),
    };
    match file.load() {
        Ok(settings) => {
            let result = json!({
                "valid": true, "path": file.path(), "issues": [], "warnings": settings.warnings,
                "hash": settings.hash, "included": settings.written.included(),
            });
            print(global.json, &result, |_| {
                let mut lines = vec![format!("{} is right", file.path().display())];
                lines.extend(
                    settings
                        .warnings
                        .iter()
                        .map(|w| format!("warning {}", clean(w))),
                );
                lines.join("\n")
            })
        }
        Err(error) if global.json => {
            print(
                true,
                &json!({
                    "valid": false, "path": file.path(), "issues": issues(&error), "warnings": [],
                }),
                |_| String::new(),
            )?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn issues(error: &ConfigError) -> Vec<Value> {
    error
        .problems
        .iter()
        .map(|p| {
            json!({
                "file": p.file.as_ref().or(error.file.as_ref()),
                "line": p.position.map(|(line, _)| line),
                "column": p.position.map(|(_, column)| column),
                "path": p.path, "message": p.message, "help": p.help,
            })
        })
        .collect()
}

/// The text that a word of `diff` names.
fn text_of(file: &ConfigFile, word: &str) -> Result<String, Failure> {
    let missing = |what: &str, next: &str| Failure::new(Exit::Failure, what.to_owned(), next);
    match word {
        "file" => Ok(file.read()?.text),
        "last-good" => file.last_good_text().ok_or_else(|| {
            missing(
                "there is no last good configuration yet",
                "it is kept when a gateway has started; compare with a number of `gateway config history`",
            )
        }),
        number if number.parse::<usize>().is_ok() => {
            let wanted: usize = number.parse().unwrap_or_default();
            let backup = file.history()?.into_iter().find(|b| b.number == wanted);
            backup.map(|b| b.text).ok_or_else(|| {
                missing(
                    &format!("there is no backup {number}"),
                    "see `gateway config history`",
                )
            })
        }
        path => Ok(std::fs::read_to_string(path)?),
    }
}

fn diff(
    global: &Global,
    file: &ConfigFile,
    a: Option<&str>,
    b: Option<&str>,
) -> Result<(), Failure> {
    let (a, b) = (a.unwrap_or("last-good"), b.unwrap_or("file"));
    let changes = differences(&text_of(file, a)?, &text_of(file, b)?)?;
    let rows: Vec<Value> = changes
        .iter()
        .map(|c| {
            json!({
                "path": c.path, "from": c.from, "to": c.to, "reload": Reload::of(&c.path).as_str(),
            })
        })
        .collect();
    let result = json!({ "a": a, "b": b, "changes": rows });
    print(global.json, &result, |_| {
        if changes.is_empty() {
            return format!("{a} and {b} say the same");
        }
        let side = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or("-".to_owned(), |v| clean(&v.to_string()))
        };
        changes
            .iter()
            .map(|c| format!("{}: {} → {}", clean(&c.path), side(&c.from), side(&c.to)))
            .collect::<Vec<_>>()
            .join("\n")
    })
}

fn rollback(global: &Global, file: &ConfigFile, number: usize) -> Result<(), Failure> {
    let text = text_of(file, &number.to_string())?;
    let base = file.read()?;
    put(global, file, &base, &text)
}

fn history(global: &Global, file: &ConfigFile) -> Result<(), Failure> {
    let backups = file.history()?;
    let list: Vec<Value> = backups
        .iter()
        .map(|b| {
            json!({
                "number": b.number, "replacedAt": b.replaced_at_ms, "hash": b.hash,
                "bytes": b.text.len(), "path": b.path,
            })
        })
        .collect();
    let rows: Vec<Vec<String>> = backups
        .iter()
        .map(|b| {
            vec![
                b.number.to_string(),
                rfc3339(i64::try_from(b.replaced_at_ms).unwrap_or(0)),
                b.hash.chars().take(12).collect(),
                b.text.len().to_string(),
            ]
        })
        .collect();
    print(global.json, &json!({ "backups": list }), |_| {
        table(
            &["NUMBER", "REPLACED", "HASH", "BYTES"],
            &rows,
            "no backups: nothing was edited by a command or a client yet",
        )
    })
}

fn explain(global: &Global, file: &ConfigFile, path: &str) -> Result<(), Failure> {
    let steps = steps(path)?;
    let path = join_path(&steps);
    let node = look_up(&path);
    let (settings, problem) = match file.load() {
        Ok(settings) => (Some(settings), None),
        Err(error) => (file.last_good(), Some(error.to_string())),
    };
    let value = settings
        .as_ref()
        .and_then(|s| value_at(&redacted_json(s), &steps).cloned());
    if node.is_none() && value.is_none() {
        return Err(Failure::new(
            Exit::Failure,
            format!("there is no option {path}"),
            "see `gateway config schema`, or `gateway config get` for what counts now",
        ));
    }
    let running = RunFile::of_running(file.state_dir());
    let flag = running.and_then(|run| run.flags.get(&path).cloned());
    let origin = origin(settings.as_ref(), &path, flag.as_deref());
    let keys: Vec<String> = node
        .iter()
        .flat_map(|n| n.children.iter().map(|(key, _)| key.clone()))
        .collect();
    let reload = Reload::of(&path);
    let doc = doc_of(&path);
    let result = json!({
        "path": path, "value": value, "origin": origin.1, "reload": reload.as_str(), "doc": doc,
        "keys": keys, "problem": problem,
    });
    print(global.json, &result, |_| {
        let mut lines = vec![format!("path    {}", clean(&path))];
        let shown = match &value {
            Some(Value::String(text)) => clean(text),
            Some(Value::Object(_)) => "an object".to_owned(),
            Some(other) => clean(&other.to_string()),
            None => "not set".to_owned(),
        };
        lines.push(format!("value   {shown}"));
        lines.push(format!("from    {}", clean(&origin.0)));
        lines.push(format!(
            "change  {}",
            match reload {
                Reload::Live => "counts at once in a running gateway",
                Reload::Part => "drains and restarts the account that it belongs to",
                Reload::Process => "counts from the next start of the gateway",
            }
        ));
        if let Some(doc) = &doc {
            lines.push(format!("doc     {}", clean(doc)));
        }
        if !keys.is_empty() {
            lines.push(format!("keys    {}", keys.join(", ")));
        }
        if let Some(problem) = &problem {
            lines.push(format!(
                "note    the file is broken, this is the last good one: {}",
                clean_lines(problem)
            ));
        }
        lines.join("\n")
    })
}

/// Where a value is from, for people and for programs.
fn origin(settings: Option<&Settings>, path: &str, flag: Option<&str>) -> (String, Value) {
    if let Some(flag) = flag {
        return (
            format!("flag {flag} of the running gateway"),
            json!({ "kind": "flag", "flag": flag }),
        );
    }
    match settings.map(|s| s.written.origin(path)) {
        Some(Origin::File {
            file,
            line,
            column,
            env,
        }) => {
            let place = format!("{}:{line}:{column}", shown(&file));
            let text = if env.is_empty() {
                place
            } else {
                format!("{place} with the environment variable {}", env.join(", "))
            };
            let kind = if env.is_empty() { "file" } else { "env" };
            (
                text,
                json!({ "kind": kind, "file": file, "line": line, "column": column, "env": env }),
            )
        }
        _ => ("default".to_owned(), json!({ "kind": "default" })),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
