//! `gateway onboard`: from nothing to an agent that answers. Each step is written when it is decided, so that what was cut off
//! goes on where it ended; what is there already is left as it is.

mod agent;
mod ask;
mod channel;
mod listener;
mod progress;
mod settle;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use gateway_config::{
    ConfigFile, InitReport, KeyEdit, MAIN_TENANT, Overrides, Plan, Settings, Snapshot,
    init_state_dir, parse_value, value_at,
};
use serde_json::{Value, json};

use super::Global;
use super::output::{Exit, Failure, clean, clean_lines, print};
use super::serve::default_state_dir;
use super::service::{self, Where};
use crate::run_file::RunFile;
use progress::{Progress, Step};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What answers: `echo` needs nothing, `openai` is any OpenAI-compatible server.
    #[arg(long, value_enum, value_name = "WHAT")]
    agent: Option<AgentChoice>,
    /// Address of the server, as a rule with /v1 at its end.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Model of the server. It is asked for a real answer before anything is written.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Environment variable that holds the server's key; the configuration names it, so the gateway has to get it too.
    #[arg(long, value_name = "VAR", conflicts_with_all = ["api_key_stdin", "no_api_key"])]
    api_key_env: Option<String>,
    /// Read the server's key from standard input and store it.
    #[arg(long, conflicts_with_all = ["no_api_key", "channel_token_stdin"])]
    api_key_stdin: bool,
    /// The server wants no key.
    #[arg(long)]
    no_api_key: bool,
    /// Where messages come from, besides this gateway's own clients.
    #[arg(long, value_enum, value_name = "KIND")]
    channel: Option<ChannelChoice>,
    /// Name of the channel's account.
    #[arg(long, value_name = "NAME", default_value = "default")]
    account: String,
    /// Environment variable that holds the bot token; it is stored, and the variable is not needed later.
    #[arg(long, value_name = "VAR", conflicts_with = "channel_token_stdin")]
    channel_token_env: Option<String>,
    /// Read the bot token from standard input and store it.
    #[arg(long)]
    channel_token_stdin: bool,
    /// Where to listen: loopback, lan or one IP address.
    #[arg(long, value_name = "WHERE")]
    bind: Option<String>,
    /// Port.
    #[arg(long)]
    port: Option<u16>,
    /// Speak TLS, with a certificate of the gateway's own unless the configuration names one.
    #[arg(long, conflicts_with = "no_tls")]
    tls: bool,
    /// Speak in clear.
    #[arg(long)]
    no_tls: bool,
    /// Install a systemd service: for this `user`, for the machine (`system`), or `none`.
    #[arg(long, value_enum, value_name = "WHOSE")]
    service: Option<ServiceChoice>,
    /// Only write the service's unit.
    #[arg(long)]
    no_start: bool,
    /// Ask nothing: what no flag answers and nothing has decided is refused with its flag.
    #[arg(long)]
    non_interactive: bool,
    /// Ask again what was decided before.
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AgentChoice {
    Echo,
    Openai,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ChannelChoice {
    None,
    Webhook,
    Telegram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ServiceChoice {
    None,
    User,
    System,
}

pub fn run(global: &Global, mut args: Args) -> Result<(), Failure> {
    refuse_what_cannot_be(global, &mut args)?;
    let state_dir = std::path::absolute(global.state_dir()?)?;
    let mut progress = Progress::read(&state_dir);
    if args.again {
        progress.forget();
    }
    let terminal = std::io::stdin().is_terminal() && !args.non_interactive;
    if !terminal {
        refuse_what_is_missing(&args, &progress, &state_dir)?;
    }
    let made = init_state_dir(&state_dir)?;
    let file = ConfigFile::new(
        state_dir.clone(),
        None,
        Overrides::default(),
        Arc::new(|name| std::env::var(name).ok()),
    );
    let settings = file.load()?;
    if settings.gateway.remote_mode {
        return Err(Failure::new(
            Exit::Config,
            "gateway.mode is \"remote\": commands of this machine talk to a gateway elsewhere, and none runs here",
            "`gateway config unset gateway.mode`, then run this again",
        ));
    }
    let mut setup = Setup {
        global,
        args,
        state_dir,
        made,
        file,
        settings,
        progress,
        terminal,
        steps: Vec::new(),
        changed: Vec::new(),
        restart: Vec::new(),
        notes: Vec::new(),
    };
    if terminal {
        ask::say(&format!(
            "This sets up the gateway of {}. Enter takes what stands in brackets; Ctrl-C stops, and the next call goes on.",
            setup.state_dir.display()
        ))?;
    }
    agent::step(&mut setup)?;
    channel::step(&mut setup)?;
    listener::step(&mut setup)?;
    setup.service()?;
    setup.end()
}

fn refuse_what_cannot_be(global: &Global, args: &mut Args) -> Result<(), Failure> {
    let usage =
        |message: &str, next: &str| Err(Failure::new(Exit::Usage, message.to_owned(), next));
    if global.url.is_some() {
        return usage(
            "onboard sets up the gateway of a state directory, not one elsewhere",
            "run it on the gateway's machine, without --url",
        );
    }
    if global.config.is_some() {
        return usage(
            "onboard edits gateway.json5 of the state directory only",
            "leave --config out",
        );
    }
    if global.tenant != MAIN_TENANT {
        return usage(
            "onboard sets up the tenant main",
            "further tenants stand in `tenants` of gateway.json5: `gateway config set tenants.NAME …`",
        );
    }
    let of_server = args.upstream.is_some()
        || args.model.is_some()
        || args.api_key_env.is_some()
        || args.api_key_stdin
        || args.no_api_key;
    if of_server && args.agent == Some(AgentChoice::Echo) {
        return usage(
            "the echo agent asks no server",
            "leave --upstream, --model and the key out, or write --agent openai",
        );
    }
    if of_server {
        args.agent = Some(AgentChoice::Openai);
    }
    let of_channel = args.channel_token_env.is_some() || args.channel_token_stdin;
    if of_channel && !matches!(args.channel, None | Some(ChannelChoice::Telegram)) {
        return usage(
            "only telegram has a bot token",
            "write --channel telegram, or leave the token out",
        );
    }
    if of_channel {
        args.channel = Some(ChannelChoice::Telegram);
    }
    Ok(())
}

/// Where nobody can be asked, everything is known before anything is written.
fn refuse_what_is_missing(
    args: &Args,
    progress: &Progress,
    state_dir: &std::path::Path,
) -> Result<(), Failure> {
    let file = ConfigFile::new(
        state_dir,
        None,
        Overrides::default(),
        Arc::new(|name| std::env::var(name).ok()),
    );
    let settings = match file.path().exists() {
        true => Some(file.load()?),
        false => None,
    };
    let mut missing = Vec::new();
    missing.extend(agent::missing(args, progress, settings.as_ref()));
    missing.extend(channel::missing(args, progress, settings.as_ref()));
    missing.extend(listener::missing(args, settings.as_ref()));
    if missing.is_empty() {
        return Ok(());
    }
    let why = if args.non_interactive {
        "--non-interactive asks nothing"
    } else {
        "standard input is no terminal, so nobody can be asked"
    };
    Err(Failure::new(
        Exit::Usage,
        format!("{why}, and these are missing:\n  {}", missing.join("\n  ")),
        "add them; nothing was changed",
    ))
}

/// What the steps work on.
struct Setup<'a> {
    global: &'a Global,
    args: Args,
    state_dir: PathBuf,
    made: InitReport,
    file: ConfigFile,
    settings: Settings,
    progress: Progress,
    /// Whether somebody can be asked.
    terminal: bool,
    steps: Vec<Value>,
    changed: Vec<String>,
    restart: Vec<String>,
    notes: Vec<String>,
}

impl Setup<'_> {
    /// Whether a step is left as it was decided before.
    fn decided(&self, step: Step, given: bool) -> bool {
        !given && self.progress.has(step)
    }

    /// A step is over.
    fn done(&mut self, step: Step, told: Value) -> Result<(), Failure> {
        self.steps.push(told);
        Ok(self.progress.add(step)?)
    }

    /// Makes the edits that change something. The file is checked as a whole before it is written.
    fn write(&mut self, edits: Vec<KeyEdit>) -> Result<bool, Failure> {
        let base = self.file.read()?;
        let plain = plain(&base);
        let edits: Vec<KeyEdit> = edits
            .into_iter()
            .filter(|edit| value_at(&plain, &edit.steps) != edit.value.as_ref())
            .collect();
        if edits.is_empty() {
            return Ok(false);
        }
        let text = self.file.edited(&base, &edits)?;
        let after = self.file.check(&text)?;
        let plan = Plan::between(&self.settings, &after);
        if !self.file.replace(&base, &text)? {
            return Err(Failure::new(
                Exit::Failure,
                "the configuration was changed by somebody else in the meantime",
                "run the command again",
            ));
        }
        self.changed.extend(plan.paths());
        self.restart.extend(plan.restart());
        self.settings = after;
        Ok(true)
    }

    fn service(&mut self) -> Result<(), Failure> {
        let choice = match self.args.service {
            Some(choice) => choice,
            None if self.decided(Step::Service, false) || !self.terminal => {
                return Ok(());
            }
            None => match ask::choice(
                "Who is to start the gateway?",
                &[
                    ("none", "you, with `gateway serve`"),
                    ("user", "systemd, when you log in"),
                    ("system", "systemd, when the machine starts (needs root)"),
                ],
                "none",
            )? {
                "user" => ServiceChoice::User,
                "system" => ServiceChoice::System,
                _ => ServiceChoice::None,
            },
        };
        let told = match choice {
            ServiceChoice::None => json!({ "step": "service", "is": "none", "changed": false }),
            ServiceChoice::User | ServiceChoice::System => {
                let place = Where::usual(choice == ServiceChoice::System);
                let whose = if choice == ServiceChoice::System {
                    "system"
                } else {
                    "user"
                };
                if service::is_current(self.global, &place)? {
                    json!({ "step": "service", "is": whose, "changed": false })
                } else {
                    let put = service::put(self.global, &place, self.args.no_start)?;
                    self.changed.push("the service's unit".to_owned());
                    json!({
                        "step": "service", "is": whose, "changed": true, "unit": put["unit"],
                        "verify": put["verify"], "started": put["started"],
                    })
                }
            }
        };
        self.done(Step::Service, told)
    }

    /// What there is now: one address, where the token is, one next step.
    fn end(mut self) -> Result<(), Failure> {
        let running = RunFile::of_running(&self.state_dir);
        let live = self.changed.iter().any(|path| !self.restart.contains(path));
        if running.is_some() && live {
            let taken = async { Ok(settle::taken_up(self.global, &self.settings).await) };
            self.notes.extend(super::block_on(taken)?);
        }
        let gateway = &self.settings.gateway;
        let scheme = if gateway.tls.enabled { "https" } else { "http" };
        let url = running.as_ref().map_or_else(
            || {
                let ip = super::target::reachable(gateway.bind.ip());
                let address = std::net::SocketAddr::new(ip, gateway.port);
                format!("{scheme}://{address}/")
            },
            |run| run.url.clone(),
        );
        let next = self.next(running.as_ref());
        let token = Some(&self.made.token_path).filter(|path| path.exists());
        self.changed.dedup();
        let result = json!({
            "stateDir": self.state_dir, "configPath": self.file.path(), "tokenPath": token,
            "steps": self.steps, "changed": self.changed, "restartNeeded": self.restart,
            "warnings": self.settings.warnings, "notes": self.notes,
            "running": running.is_some(), "url": url, "next": next,
        });
        print(self.global.json, &result, |_| self.human(&url, &next))
    }

    fn next(&self, running: Option<&RunFile>) -> String {
        let elsewhere = default_state_dir().as_ref() != Some(&self.state_dir);
        let place = match elsewhere {
            true => format!(" --state-dir {}", self.state_dir.display()),
            false => String::new(),
        };
        match running {
            Some(_) if !self.restart.is_empty() => format!(
                "restart the gateway: {} cannot change while it runs",
                self.restart.join(", ")
            ),
            Some(_) => format!("open the address and paste the token, or run: gateway chat{place}"),
            None => format!("gateway serve{place}"),
        }
    }

    fn human(&self, url: &str, next: &str) -> String {
        let mut lines: Vec<String> = self
            .steps
            .iter()
            .filter_map(|step| {
                let name = step["step"].as_str()?;
                let what = step["text"].as_str().or(step["is"].as_str())?;
                Some(format!("{name:<9} {}", clean(what)))
            })
            .collect();
        lines.extend(match self.changed.is_empty() {
            true => vec!["changed   nothing".to_owned()],
            false => self
                .changed
                .iter()
                .map(|path| format!("changed   {}", clean(path)))
                .collect(),
        });
        let told = |word: &str, text: &String| format!("{word:<9} {}", clean_lines(text));
        lines.extend(self.settings.warnings.iter().map(|w| told("warning", w)));
        lines.extend(self.notes.iter().map(|n| told("note", n)));
        lines.push(told("open", &url.to_owned()));
        if self.made.token_path.exists() {
            lines.push(format!("token     in {}", self.made.token_path.display()));
        }
        lines.push(told("next", &next.to_owned()));
        lines.join("\n")
    }
}

/// The file's text as a value; nothing where it is not one.
fn plain(text: &Snapshot) -> Value {
    let text = text.text.strip_prefix('\u{feff}').unwrap_or(&text.text);
    parse_value(text).unwrap_or(Value::Null)
}

/// One edit.
fn set(steps: &[&str], value: Option<Value>) -> KeyEdit {
    KeyEdit {
        steps: steps.iter().map(|s| (*s).to_owned()).collect(),
        value,
    }
}

/// A secret in a variable of this command's environment.
fn from_env(flag: &str, name: &str) -> Result<String, Failure> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("{flag}: the environment variable {name} is not set"),
                format!("set it for this command: {name}=… gateway onboard …"),
            )
        })
}

/// A secret on standard input.
fn from_stdin(flag: &str) -> Result<String, Failure> {
    let text = super::secret::read_stdin()?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{flag}: standard input is empty"),
            "pipe the secret in: … < FILE",
        ));
    }
    Ok(text.to_owned())
}
