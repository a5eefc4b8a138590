//! The command line.

mod apikey;
mod audit;
mod backup;
mod boot;
mod call;
mod channels;
mod chat;
mod completion;
mod config;
mod cron;
mod devices;
mod discover;
mod doctor;
mod health;
mod man;
mod migrate;
mod node;
mod nodes;
mod onboard;
mod outbox;
pub mod output;
mod pair;
mod pairing;
mod plugin;
mod secret;
mod serve;
mod service;
mod status;
mod system;
mod target;
mod tls;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use gateway_config::{LoadRequest, Overrides, Settings, load};
use gateway_protocol::CertPin;
use output::{EXIT_CODES, Exit, Failure};

/// A gateway for AI agents: many tenants, channels in WASM sandboxes, one typed protocol.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about, after_long_help = EXIT_CODES, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// State directory: configuration, secrets, databases.
    #[arg(long, global = true, value_name = "DIR", env = "GATEWAY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Configuration file (default: gateway.json5 in the state directory).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tenant to work with.
    #[arg(long, global = true, value_name = "SLUG", default_value = "main")]
    tenant: String,
    /// Whether --tenant was given.
    #[arg(skip)]
    tenant_given: bool,
    /// Address of the gateway (ws://127.0.0.1:PORT, wss://HOST:PORT); never used with a configured credential.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Token of the gateway. Better in GATEWAY_TOKEN: other users can see command lines.
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,
    /// SHA-256 fingerprint of the gateway's certificate (`gateway tls show` prints it there); several separated by commas.
    #[arg(long, global = true, value_name = "SHA256", value_parser = Pins::parse)]
    tls_fingerprint: Option<Pins>,
    /// Print JSON, also for errors.
    #[arg(long, global = true)]
    json: bool,
    /// Longest wait for an answer, in milliseconds.
    #[arg(long, global = true, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout: u64,
}

/// Value of `--tls-fingerprint`.
#[derive(Debug, Clone)]
struct Pins(Vec<CertPin>);

impl Pins {
    fn parse(text: &str) -> Result<Self, String> {
        CertPin::parse_list(text)
            .map(Self)
            .map_err(|e| e.to_string())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the gateway; makes the state directory at the first start.
    Serve(serve::Args),
    /// First run: an agent that answers, a channel, who may connect, a service. Goes on where it was cut off.
    Onboard(onboard::Args),
    /// Call a method of the running gateway.
    Call(call::Args),
    /// What is running: version, agents, sessions, channels.
    Status,
    /// Whether the gateway and its parts are well.
    Health,
    /// Talk to an agent.
    Chat(chat::Args),
    /// Channel accounts.
    #[command(subcommand)]
    Channels(channels::Command),
    /// Senders who want to be let in.
    #[command(subcommand)]
    Pairing(pairing::Command),
    /// Pair this machine with a gateway by a setup code that was made there.
    Pair(pair::Args),
    /// Devices that connect: who waits, who is let in, and their tokens.
    #[command(subcommand)]
    Devices(devices::Command),
    /// Machines that offer commands: who is there, what was approved, and calls.
    #[command(subcommand)]
    Nodes(nodes::Command),
    /// This machine as a node of a gateway.
    #[command(subcommand)]
    Node(node::Command),
    /// Who did what: the audit log, and whether it is as it was written.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Replies on their way, and those whose fate is unknown.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Credentials for programs, each with its own scopes and end.
    #[command(subcommand)]
    Apikey(apikey::Command),
    /// Stored secrets.
    #[command(subcommand)]
    Secret(secret::Command),
    /// Boot scripts.
    #[command(subcommand)]
    Boot(boot::Command),
    /// The certificate of the gateway of this state directory.
    #[command(subcommand)]
    Tls(tls::Command),
    /// Jobs that come due by themselves.
    #[command(subcommand)]
    Cron(cron::Command),
    /// Texts for agents, and heartbeats.
    #[command(subcommand)]
    System(system::Command),
    /// Have an agent look at a text.
    Wake(system::WakeArgs),
    /// The configuration file: look, change, check, go back.
    #[command(subcommand)]
    Config(config::Command),
    /// Gateways that announce themselves in the local network: hints where to look, never a reason to trust.
    Discover(discover::Args),
    /// Names for the gateway in ordinary DNS.
    #[command(subcommand)]
    Dns(discover::DnsCommand),
    /// What is wrong with this gateway's place, and what mends it.
    Doctor(doctor::Args),
    /// Put another program in the place of the running gateway, without a lost request.
    Upgrade(upgrade::Args),
    /// The gateway as a service of systemd.
    #[command(subcommand)]
    Service(service::Command),
    /// Plugins, bundled and of the directory, and their digests.
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Archives of the state directory: make, check, put back.
    #[command(subcommand)]
    Backup(backup::Command),
    /// Take the settings of another gateway over.
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// Print the line that turns completion on in a shell.
    Completion(completion::Args),
    /// Write the manual pages into a directory: for packagers.
    #[command(hide = true)]
    Man(man::Args),
}

/// The command tree, for completion.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line, or ends the program with what is wrong with it.
pub fn parse() -> Cli {
    let matches = command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    cli.global.tenant_given =
        matches.value_source("tenant") == Some(clap::parser::ValueSource::CommandLine);
    cli
}

/// Does what the command line says.
pub fn run(cli: Cli) -> ExitCode {
    let global = &cli.global;
    let done = match cli.command {
        Command::Serve(args) => serve::run(global, args),
        Command::Onboard(args) => onboard::run(global, args),
        Command::Call(args) => block_on(call::run(global, args)),
        Command::Status => block_on(status::run(global)),
        Command::Health => block_on(health::run(global)),
        Command::Chat(args) => block_on(chat::run(global, args)),
        Command::Channels(command) => channels::run(global, command),
        Command::Pairing(command) => block_on(pairing::run(global, command)),
        Command::Pair(args) => block_on(pair::run(global, args)),
        Command::Devices(command) => block_on(devices::run(global, command)),
        Command::Nodes(command) => block_on(nodes::run(global, command)),
        Command::Node(command) => block_on(node::run(global, command)),
        Command::Audit(command) => block_on(audit::run(global, command)),
        Command::Outbox(command) => block_on(outbox::run(global, command)),
        Command::Apikey(command) => block_on(apikey::run(global, command)),
        Command::Secret(command) => secret::run(global, command),
        Command::Tls(command) => tls::run(global, command),
        Command::Boot(command) => block_on(boot::run(global, command)),
        Command::Cron(command) => block_on(cron::run(global, command)),
        Command::System(command) => block_on(system::run(global, command)),
        Command::Wake(args) => block_on(system::wake(global, args)),
        Command::Config(command) => config::run(global, command),
        Command::Discover(args) => block_on(discover::run(global, &args)),
        Command::Dns(command) => block_on(discover::dns(global, command)),
        Command::Doctor(args) => doctor::run(global, &args),
        Command::Upgrade(args) => upgrade::run(global, args),
        Command::Service(command) => service::run(global, command),
        Command::Plugin(command) => plugin::run(global, command),
        Command::Backup(command) => backup::run(global, command),
        Command::Migrate(command) => migrate::run(global, command),
        Command::Completion(args) => completion::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(global.json),
    }
}

/// Runs a client command: one thread is plenty for one connection.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    // A read of standard input that nobody waits for any more must not hold the end up.
    runtime.shutdown_background();
    done
}

impl Global {
    /// The settings of the state directory's configuration, with the environment of this command.
    fn settings(&self) -> Result<Settings, Failure> {
        Ok(load(LoadRequest {
            state_dir: std::path::absolute(self.state_dir()?)?,
            config_path: self.config.clone(),
            overrides: Overrides::default(),
            env: &|name| std::env::var(name).ok(),
        })?)
    }

    /// `--state-dir` or `GATEWAY_STATE_DIR`, else `$XDG_STATE_HOME/gateway`, else `~/.gateway`.
    fn state_dir(&self) -> Result<PathBuf, Failure> {
        state_dir(self.state_dir.clone(), |name| {
            std::env::var_os(name).map(PathBuf::from)
        })
    }
}

fn state_dir(
    given: Option<PathBuf>,
    env: impl Fn(&str) -> Option<PathBuf>,
) -> Result<PathBuf, Failure> {
    let set = |path: Option<PathBuf>| path.filter(|p| !p.as_os_str().is_empty());
    // A relative XDG path is to be ignored, says its specification.
    let xdg = || {
        set(env("XDG_STATE_HOME"))
            .filter(|p| p.is_absolute())
            .map(|p| p.join("gateway"))
    };
    let home = || set(env("HOME")).map(|p| p.join(".gateway"));
    set(given).or_else(xdg).or_else(home).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "there is no home directory to keep the state in",
            "name one with --state-dir DIR",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn the_command_line_of_the_issue() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for line in [
            "gateway serve",
            "gateway serve --wasm-dir D --state-dir S --port 18789 --bind loopback --token T",
            "gateway serve --bind 192.0.2.1 --upstream http://h/v1 --model m --api-key-env K",
            "gateway onboard --agent echo --channel none --non-interactive --json",
            "gateway onboard --upstream http://h/v1 --model m --api-key-stdin --channel telegram --channel-token-env T",
            "gateway onboard --bind lan --tls --port 1 --service user --no-start --again",
            "gateway call health",
            "gateway call chat.send --params {} --url ws://127.0.0.1:1 --token t --json",
            "gateway status --json",
            "gateway health --tenant acme",
            "gateway chat --message hi",
            "gateway channels list",
            "gateway channels add webhook",
            "gateway channels add telegram --account bot --tenant acme",
            "gateway channels start webhook",
            "gateway channels stop webhook default",
            "gateway channels status",
            "gateway pairing list",
            "gateway pairing approve ABCD-1234",
            "gateway devices list --json",
            "gateway devices approve 018f-x",
            "gateway devices reject 018f-x",
            "gateway devices remove ab12",
            "gateway devices rename ab12 laptop",
            "gateway devices rotate ab12 --scope read",
            "gateway devices revoke ab12 --role node",
            "gateway devices setup-code --access limited --public-url wss://h:1 --no-qr",
            "gateway pair oc-pair://abc",
            "gateway devices upgrade --scope admin --url wss://h:1",
            "gateway node run --display-name n --root D --write --commands system.which,file.stat",
            "gateway nodes list --json",
            "gateway nodes status",
            "gateway nodes pending",
            "gateway nodes approve 018f-x",
            "gateway nodes reject 018f-x",
            "gateway nodes describe laptop",
            "gateway nodes rename ab12 laptop",
            "gateway nodes remove ab12",
            "gateway nodes invoke laptop system.which --params {} --wait 5000 --idempotency-key k --progress --queue",
            "gateway outbox list --state unknown",
            "gateway audit list --before 7 --limit 10",
            "gateway audit verify --json",
            "gateway secret set NAME",
            "gateway apikey create --name ci --scope read --scope write --agent main --expires 30d",
            "gateway apikey list --json",
            "gateway apikey revoke ci",
            "gateway boot list",
            "gateway boot run",
            "gateway boot run greeting --json",
            "gateway serve --safe-mode",
            "gateway serve --no-safe-mode",
            "gateway serve --tls",
            "gateway status --url wss://192.0.2.1:1 --tls-fingerprint sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            "gateway tls show --json",
            "gateway discover --json --wait 500",
            "gateway dns zone --domain gw.example.org --address 192.0.2.7",
            "gateway tls rotate",
            "gateway tls rotate --finish",
            "gateway tls rotate --now",
            "gateway config get",
            "gateway config get gateway.port --json",
            "gateway config set logging.level debug",
            "gateway config unset logging.level",
            "gateway config edit",
            "gateway config validate FILE",
            "gateway config diff 1 file",
            "gateway config rollback 2",
            "gateway config history",
            "gateway config explain gateway.bind",
            "gateway config schema",
            "gateway migrate openclaw --from F --dry-run --json",
            "gateway completion bash",
            "gateway man DIR",
            "gateway doctor --fix --json",
            "gateway upgrade",
            "gateway upgrade --binary F --check --json",
            "gateway plugin list --wasm-dir D",
            "gateway service print --system",
            "gateway service install --no-start --unit-dir D",
            "gateway service status",
            "gateway backup create",
            "gateway backup create F --with-secrets --tenant acme --json",
            "gateway backup verify F",
            "gateway backup restore F --force",
            "gateway cron list --all --tz Europe/Berlin",
            "gateway cron add --name n --cron @daily --tz UTC --message hi --announce telegram --to direct:1",
            "gateway cron add --name n --every 30m --system-event tick --wake next-heartbeat",
            "gateway cron add --name n --at 20m --webhook https://h/x --secret s --catch-up none",
            "gateway cron edit ID --every 1h --no-deliver",
            "gateway cron rm ID",
            "gateway cron enable ID",
            "gateway cron disable ID",
            "gateway cron run ID --wait --json",
            "gateway cron runs ID --status error",
            "gateway cron next @hourly --tz Europe/Berlin --count 3",
            "gateway cron status",
            "gateway system event --text hi --mode now",
            "gateway system heartbeat last",
            "gateway system heartbeat disable",
            "gateway wake hello",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
        for line in [
            "gateway",
            "gateway serve --port 70000",
            "gateway serve --prot 1",
            "gateway call",
            "gateway outbox list --state lost",
            "gateway status --timeout 0",
            "gateway apikey create --name ci --expires soon",
            "gateway apikey create",
            "gateway devices revoke ab12 --role admin",
            "gateway nodes invoke laptop",
            "gateway node run --write",
            "gateway completion tcl",
            "gateway onboard --api-key-stdin --channel-token-stdin",
            "gateway onboard --tls --no-tls",
            "gateway onboard --no-api-key --api-key-env K",
            "gateway status --tls-fingerprint sha256:00",
            "gateway tls rotate --now --finish",
            "gateway cron add --name n --every 1h --at 20m --message hi",
            "gateway cron add --name n --every 1h --message hi --system-event x",
            "gateway cron edit ID --announce last --no-deliver",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_state_directory_is_found() {
        let find = |given: Option<&str>, xdg: Option<&str>, home: Option<&str>| {
            let env = |name: &str| match name {
                "XDG_STATE_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            };
            state_dir(given.map(PathBuf::from), env).map(|p| p.to_string_lossy().into_owned())
        };
        assert_eq!(find(Some("d"), Some("/x"), Some("/h")).unwrap(), "d");
        assert_eq!(find(None, Some("/x"), Some("/h")).unwrap(), "/x/gateway");
        assert_eq!(
            find(None, Some("relative"), Some("/h")).unwrap(),
            "/h/.gateway"
        );
        assert_eq!(find(Some(""), Some(""), Some("/h")).unwrap(), "/h/.gateway");
        assert_eq!(find(None, None, None).unwrap_err().exit, Exit::Usage);
    }
}
