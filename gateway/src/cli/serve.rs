//! `gateway serve`

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use gateway::{GatewayServer, GatewayServerOptions, HostOptions, ServeError, start_gateway_server};
use gateway_config::{
    AuthMode, ConfigError, ConfigFile, InitReport, LogFormat, LogLevel, Overrides, Secret,
    Settings, Started, init_state_dir,
};
use gateway_core::host::StartError;
use gateway_core::logs::Redactor;
use gateway_core::safe_mode::SafeModeChoice;
use gateway_server::tls::CertificateStatus;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Global;
use super::output::{Exit, Failure, clean, print_text};
use crate::logs::{self, LogControl, LogGuard};
use crate::run_file::RunFile;
use crate::systemd::{self, Notify, watchdog_period};
use crate::upgrade::{Ahead, Handover, Heir, Role, Stage, Upgrades};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of plugin folders (channels, boot scripts). They count instead of bundled ones of the same name.
    #[arg(long, value_name = "DIR")]
    wasm_dir: Option<PathBuf>,
    /// Port; 0 lets the system choose [default: 18789].
    #[arg(long)]
    port: Option<u16>,
    /// Where to listen: loopback, lan or one IP address [default: loopback].
    #[arg(long, value_name = "WHERE")]
    bind: Option<String>,
    /// Speak TLS; a certificate is made at the first start, if the configuration names none.
    #[arg(long)]
    tls: bool,
    /// Address of an OpenAI-compatible server; the default agent then asks it.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Model of the upstream.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Environment variable that holds the upstream's key.
    #[arg(long, value_name = "VAR")]
    api_key_env: Option<String>,
    /// Start with the control plane only: no guests, and every tenant held.
    #[arg(long, conflicts_with = "no_safe_mode")]
    safe_mode: bool,
    /// Do not look for crash loops, and start tenants that were kept off after one.
    #[arg(long)]
    no_safe_mode: bool,
    /// Lowest level that is logged.
    #[arg(long, value_enum)]
    log_level: Option<Level>,
    /// Form of the log.
    #[arg(long, value_enum)]
    log_format: Option<Format>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let role = Role::from_env(|name| std::env::var(name).ok())?;
    let done = run_as(global, args, role);
    if let (Some(Role::Heir { .. }), Err(failure)) = (role, &done) {
        Heir::fails(failure);
    }
    done
}

fn run_as(global: &Global, args: Args, role: Option<Role>) -> Result<(), Failure> {
    if global.url.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "--url names a gateway to talk to",
            "say where to listen with --bind and --port",
        ));
    }
    let safe_mode = match (args.safe_mode, args.no_safe_mode) {
        (true, _) => SafeModeChoice::On,
        (_, true) => SafeModeChoice::Off,
        _ => SafeModeChoice::Auto,
    };
    let state_dir = global.state_dir()?;
    // Made absolute once: what is printed stays true wherever it is read.
    let state_dir = std::path::absolute(&state_dir)?;
    let made = init_state_dir(&state_dir)?;
    let token_given = global.token.is_some() || std::env::var_os("GATEWAY_TOKEN").is_some();
    let file = Arc::new(ConfigFile::new(
        state_dir.clone(),
        global.config.clone(),
        overrides(global, args),
        Arc::new(|name| std::env::var(name).ok()),
    ));
    let Started { settings, refused } = file.start()?;
    let heir = Heir::of(role);
    if let Some(heir) = &heir {
        heir.check_schemas()?;
        if let Some(error) = refused {
            return Err(error.into());
        }
    }
    if settings.gateway.remote_mode {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "{}: gateway.mode is \"remote\": commands of this machine talk to a gateway elsewhere, none runs here",
                settings.config_path.display()
            ),
            "remove `mode`, or write mode: \"local\"",
        ));
    }
    if let Some(dir) = settings.plugins_dir.as_ref().filter(|d| !d.is_dir()) {
        return Err(Failure::new(
            Exit::Config,
            format!("the plugin directory {} is not there", dir.display()),
            "name another with --wasm-dir, or build the plugins (`cargo xtask guests`)",
        ));
    }
    let logs = start_logs(&settings)?;
    if let Some(error) = &refused {
        tracing::error!(%error, "the configuration is broken: the last good one counts until it is mended");
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let listener = systemd::listener()?;
    if heir.is_some() && listener.is_none() {
        return Err(Failure::new(
            Exit::Usage,
            "no socket was handed over",
            "upgrade with `gateway upgrade`",
        ));
    }
    if let Some(address) = listener.as_ref().and_then(|l| l.local_addr().ok())
        && settings.gateway.bind.is_loopback()
        && !address.ip().is_loopback()
    {
        return Err(Failure::new(
            Exit::Config,
            format!(
                "the listener that is handed over is on {address}, and gateway.bind is \"loopback\""
            ),
            "set gateway.bind to what the socket unit says, so that the rules for it count; after a change of gateway.bind restart instead of upgrading",
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let place = Place {
        state_dir,
        made,
        token_given,
        json: global.json,
        file,
        refused,
        safe_mode,
        role,
        heir,
    };
    let done = runtime.block_on(serve(settings, place, listener, logs.control()));
    // The end is not to wait for work that blocks a thread: what has to last is in the store.
    runtime.shutdown_background();
    let End::Resumes(again) = done? else {
        return Ok(());
    };
    drop(logs);
    let error = again.upgrades.resume(again.program, again.socket);
    Err(Failure::new(
        Exit::Failure,
        format!("the gateway cannot be started again: {error}"),
        "start it; what was accepted is not lost",
    ))
}

/// How serving ended.
enum End {
    Stopped,
    /// The program that should have gone on did not.
    Resumes(Box<Again>),
}

/// What takes the place of this process.
struct Again {
    upgrades: Upgrades,
    /// `None`: the program that this process is of.
    program: Option<PathBuf>,
    socket: std::net::TcpListener,
}

struct Place {
    state_dir: PathBuf,
    made: InitReport,
    token_given: bool,
    json: bool,
    file: Arc<ConfigFile>,
    refused: Option<ConfigError>,
    safe_mode: SafeModeChoice,
    role: Option<Role>,
    heir: Option<Heir>,
}

fn overrides(global: &Global, args: Args) -> Overrides {
    let token = global
        .token
        .clone()
        .or_else(|| std::env::var("GATEWAY_TOKEN").ok());
    Overrides {
        port: args.port,
        bind: args.bind,
        tls: args.tls,
        token: token.map(Secret::new),
        upstream: args.upstream,
        model: args.model,
        api_key_env: args.api_key_env,
        plugins_dir: args.wasm_dir,
        log_level: args.log_level.map(|l| match l {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        }),
        log_format: args.log_format.map(|f| match f {
            Format::Text => LogFormat::Text,
            Format::Json => LogFormat::Json,
        }),
    }
}

fn start_logs(settings: &Settings) -> Result<LogGuard, Failure> {
    let secrets = settings
        .secrets()
        .into_iter()
        .map(|s| s.expose().to_owned());
    logs::start(&settings.logging, Redactor::new(secrets)).map_err(|error| {
        Failure::new(
            Exit::Config,
            error.to_string(),
            "name a place that can be written with logging.file.path, or leave the key out",
        )
    })
}

/// Path → flag of what flags override.
fn flags(o: &Overrides) -> BTreeMap<String, String> {
    [
        ("gateway.port", "--port", o.port.is_some()),
        ("gateway.bind", "--bind", o.bind.is_some()),
        ("gateway.auth.token", "--token", o.token.is_some()),
        ("plugins.dir", "--wasm-dir", o.plugins_dir.is_some()),
        ("logging.level", "--log-level", o.log_level.is_some()),
        ("logging.format", "--log-format", o.log_format.is_some()),
    ]
    .into_iter()
    .filter(|(.., set)| *set)
    .map(|(path, flag, _)| (path.to_owned(), flag.to_owned()))
    .collect()
}

async fn serve(
    mut settings: Settings,
    mut place: Place,
    listener: Option<std::net::TcpListener>,
    logs: LogControl,
) -> Result<End, Failure> {
    gateway_server::raise_descriptor_limit();
    let env = |name: &str| std::env::var(name).ok();
    let notify = Notify::from_env(env)?;
    let mut signs_of_life = watchdog_period(env).map(tokio::time::interval);
    // Before the start, so that a stop during it is not lost.
    let mut stops = Stops::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut upgrades = Upgrades::new(&place.state_dir)?;
    let (mut locked, mut guests_ahead) = (None, None);
    if let Some(heir) = &place.heir {
        let inherits = async {
            let ahead = Ahead::load(&place.state_dir, &settings).await;
            let locked = heir.inherit(&place.state_dir).await;
            Ok::<_, StartError>((ahead, locked?))
        };
        let (ahead, lock) = tokio::select! {
            inherited = inherits => inherited.map_err(|e| start_failure(e.into()))?,
            () = stops.next() => return Ok(End::Stopped),
        };
        // It may have changed while the other gateway ended its work.
        let Started {
            settings: now,
            refused,
        } = place.file.start()?;
        set_redactor(&logs, &now, &settings);
        logs.set_levels(&now.logging);
        (settings, place.refused) = (now, refused);
        (locked, guests_ahead) = (Some(lock), ahead.for_settings(&settings));
    }
    let mut host = HostOptions::new(place.state_dir.clone(), settings);
    host.bundled_plugins = gateway::bundled_plugins();
    host.locked = locked;
    host.guests_ahead = guests_ahead;
    host.plugin_cache = Some(place.state_dir.join("cache").join("plugins"));
    host.log_sink = Some(Arc::new(logs.tenant_lines()));
    host.config = Some(place.file.clone());
    host.refused.clone_from(&place.refused);
    host.safe_mode = place.safe_mode;
    host.on_settings = Some(Arc::new(move |new, old| {
        set_redactor(&logs, new, old);
        logs.set_levels(&new.logging);
    }));
    let mut options = GatewayServerOptions::new(host);
    options.listener = listener;
    // Clients have waited in the kernel since the gateway before; they can do so a little longer.
    options.accept_when_ready = place.role.is_some();
    let stop = options.shutdown.clone();
    let server = tokio::select! {
        started = start_gateway_server(options) => started.map_err(start_failure)?,
        () = stops.next() => return Ok(End::Stopped),
    };
    let mut certificate = server.certificate();
    let mut run = RunFile {
        pid: std::process::id(),
        port: server.local_addr().port(),
        address: server.local_addr(),
        url: server.url(),
        version: gateway::VERSION.to_owned(),
        tls_fingerprints: fingerprints(&mut certificate),
        flags: flags(place.file.overrides()),
        hands_over: true,
    };
    run.write(&place.state_dir)?;
    tracing::info!(address = %server.local_addr(), version = gateway::VERSION, "listening");
    if place.role.is_none() {
        announce(&server, &place)?;
    }
    let mut ready = server.host().ready();
    let mut told_ready = false;
    let mut aborted = server.host().boot_aborted();
    let mut failure = None;
    let mut told_serving = false;
    loop {
        tokio::select! {
            () = server.accepting(), if !told_serving => {
                told_serving = true;
                if let Some(heir) = &place.heir {
                    heir.serves();
                }
            }
            _ = upgrade.recv() => upgrades.begin(server.socket()),
            handover = upgrades.next() => {
                let over = HandingOver { server, upgrades, notify, signs_of_life, stops, run };
                return over.to(handover, &place.state_dir).await;
            }
            () = is_ready(&mut ready), if !told_ready => {
                told_ready = true;
                notify.tell(&format!("READY=1\nSTATUS=listening on {}", server.local_addr()));
            }
            // From the task that also takes signals: when the runtime hangs, nothing is told.
            () = due(&mut signs_of_life) => notify.tell("WATCHDOG=1"),
            () = stops.next() => break,
            Ok(abort) = aborted.wait_for(Option::is_some) => {
                failure = abort.as_ref().map(|abort| {
                    Failure::new(Exit::Failure, abort.to_string(), abort.next_step())
                });
                break;
            }
            () = server.stopped() => break,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reading the configuration and the certificate again");
                server.recheck_certificate();
                server.host().reload_config().await;
            }
            () = changed(&mut certificate) => {
                run.tls_fingerprints = fingerprints(&mut certificate);
                if let Err(error) = run.write(&place.state_dir) {
                    tracing::warn!(%error, "run/gateway.json not written: commands of this machine may not know the new certificate");
                }
            }
        }
    }
    // With it a program that was about to go on.
    drop(upgrades);
    notify.tell("STOPPING=1");
    tracing::info!("stopping; a second signal ends at once");
    stop.cancel();
    let orderly = tokio::select! {
        () = server.stopped() => true,
        () = stops.next() => false,
    };
    run.remove(&place.state_dir);
    if orderly {
        tracing::info!("stopped");
        return failure.map_or(Ok(End::Stopped), Err);
    }
    Err(second_signal())
}

fn second_signal() -> Failure {
    Failure::new(
        Exit::Failure,
        "stopped by a second signal",
        "start it again; what was accepted is not lost",
    )
}

fn set_redactor(logs: &LogControl, new: &Settings, old: &Settings) {
    let secrets = new.secrets().into_iter().chain(old.secrets());
    logs.set_redactor(Redactor::new(secrets.map(|s| s.expose().to_owned())));
}

/// A gateway that ends for another program.
struct HandingOver {
    server: GatewayServer,
    upgrades: Upgrades,
    notify: Notify,
    signs_of_life: Option<tokio::time::Interval>,
    stops: Stops,
    run: RunFile,
}

impl HandingOver {
    async fn to(mut self, handover: Handover, state_dir: &Path) -> Result<End, Failure> {
        let Handover {
            mut progress,
            mut successor,
        } = handover;
        let pid = successor.pid();
        tracing::info!(pid, version = successor.version, "upgrade: handing over");
        self.notify.tell("STATUS=handing over to another program");
        progress.stage = Stage::Draining;
        self.upgrades.tell(&progress);
        let closed = {
            let mut left = std::pin::pin!(self.server.hand_over());
            loop {
                tokio::select! {
                    left = left.as_mut() => break left,
                    () = due(&mut self.signs_of_life) => self.notify.tell("WATCHDOG=1"),
                    () = self.stops.next() => {
                        drop(successor);
                        progress.stage = Stage::Refused;
                        progress.message = Some("the gateway was told to stop".to_owned());
                        progress.next = Some("start the new program".to_owned());
                        self.upgrades.tell(&progress);
                        self.notify.tell("STOPPING=1");
                        let orderly = tokio::select! {
                            _ = left.as_mut() => true,
                            () = self.stops.next() => false,
                        };
                        self.run.remove(state_dir);
                        return if orderly { Ok(End::Stopped) } else { Err(second_signal()) };
                    }
                }
            }
        };
        let closed = match closed {
            Ok(closed) => closed,
            Err(error) => {
                tracing::warn!(%error, "upgrade: the state directory is free when this process has ended");
                self.notify.tell(&format!("MAINPID={pid}"));
                successor.let_go();
                return Ok(End::Stopped);
            }
        };
        progress.stage = Stage::Starting;
        self.upgrades.tell(&progress);
        let served = loop {
            tokio::select! {
                served = successor.serves() => break served,
                () = due(&mut self.signs_of_life) => self.notify.tell("WATCHDOG=1"),
                () = self.stops.next() => {
                    drop(successor);
                    self.run.remove(state_dir);
                    return Ok(End::Stopped);
                }
            }
        };
        match served {
            Ok(()) => {
                let gap = u64::try_from(closed.elapsed().as_millis()).unwrap_or(u64::MAX);
                // From here on the service is the other process.
                self.notify.tell(&format!("MAINPID={pid}"));
                successor.let_go();
                progress.stage = Stage::Done;
                progress.gap_ms = Some(gap);
                self.upgrades.tell(&progress);
                tracing::info!(
                    pid,
                    version = successor.version,
                    gap_ms = gap,
                    "upgrade: done"
                );
                Ok(End::Stopped)
            }
            Err(refusal) => {
                // What has changed the stores has to go on with them.
                let program = (!successor.keeps_schemas()).then(|| progress.program.clone());
                tracing::error!(
                    why = refusal.message,
                    next = refusal.next,
                    forward = program.is_some(),
                    "upgrade: the program does not serve; a gateway is started again"
                );
                progress.stage = Stage::RolledBack;
                progress.message = Some(refusal.message);
                progress.next = Some(refusal.next);
                self.upgrades.tell(&progress);
                let Some(socket) = successor.take_back() else {
                    return Ok(End::Stopped);
                };
                Ok(End::Resumes(Box::new(Again {
                    upgrades: self.upgrades,
                    program,
                    socket,
                })))
            }
        }
    }
}

type Certificate = Option<watch::Receiver<CertificateStatus>>;

fn fingerprints(certificate: &mut Certificate) -> Vec<String> {
    let Some(status) = certificate else {
        return Vec::new();
    };
    let status = status.borrow_and_update();
    status.pins().map(|pin| pin.to_string()).collect()
}

/// The next change of the certificate; never, without TLS.
async fn changed(certificate: &mut Certificate) {
    if let Some(status) = certificate
        && status.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn is_ready(ready: &mut watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The next sign of life; never, where nobody watches.
async fn due(period: &mut Option<tokio::time::Interval>) {
    match period {
        Some(period) => {
            period.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// SIGTERM and SIGINT.
struct Stops {
    term: Signal,
    int: Signal,
}

impl Stops {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn start_failure(e: ServeError) -> Failure {
    match e {
        ServeError::Bind {
            address,
            next,
            source,
        } => Failure::new(
            Exit::Failure,
            format!("cannot listen on {address}: {source}"),
            next,
        ),
        ServeError::Tls { error } => Failure::from(error),
        ServeError::Core(e) => Failure::new(Exit::Failure, e.to_string(), e.next_step()),
        other => Failure::new(Exit::Failure, other.to_string(), "see the log above"),
    }
}

/// One address, where the token is, one next step.
fn announce(server: &GatewayServer, place: &Place) -> Result<(), Failure> {
    let url = server.url();
    let fingerprint = server
        .certificate()
        .map(|status| status.borrow().served.fingerprint);
    let token = (!place.token_given).then(|| token_source(&place.made.token_path));
    if place.json {
        let line = json!({
            "url": url, "port": server.local_addr().port(), "pid": std::process::id(),
            "stateDir": place.state_dir, "tokenPath": token, "configPath": place.file.path(),
            "tlsFingerprint": fingerprint,
            "configRefused": place.refused.as_ref().map(ToString::to_string),
        });
        return print_text(&line.to_string());
    }
    let mut out = String::new();
    if place.made.config_created {
        out.push_str(&format!(
            "made    {} (with comments: an edit counts at once)\n",
            place.made.config_path.display()
        ));
    }
    if let Some(error) = &place.refused {
        out.push_str(&format!(
            "config  broken, the last good one counts until it is mended: {}\n",
            clean(error.to_string().lines().next().unwrap_or_default())
        ));
    }
    out.push_str(&format!("open    {url}\n"));
    if let Some(pin) = fingerprint {
        out.push_str(&format!(
            "pin     sha256:{pin} (the fingerprint that clients check: --tls-fingerprint)\n"
        ));
    }
    let mode = server.host().settings().main().auth.mode;
    out.push_str(&match (mode, token) {
        (AuthMode::Token, Some(path)) => format!("token   in {path}\n"),
        (AuthMode::Token, None) => "token   as given with --token or GATEWAY_TOKEN\n".to_owned(),
        (AuthMode::Password, _) => {
            "sign in with the password of gateway.auth.password\n".to_owned()
        }
        (AuthMode::TrustedProxy, _) => {
            "sign in through the proxy (gateway.trustedProxies)\n".to_owned()
        }
        (AuthMode::None, _) => "sign in with nothing, from this machine only\n".to_owned(),
    });
    out.push_str(match mode {
        AuthMode::Token => "next    open the address and paste the token, or run: gateway chat",
        _ => "next    run: gateway chat",
    });
    if default_state_dir() != Some(place.state_dir.clone()) {
        out.push_str(&format!(" --state-dir {}", place.state_dir.display()));
    }
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{out}").and_then(|()| stdout.flush()) {
        // Nobody reads: the gateway serves all the same.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn token_source(path: &Path) -> String {
    path.display().to_string()
}

/// The state directory of a command that names none.
pub(super) fn default_state_dir() -> Option<PathBuf> {
    super::state_dir(None, |name| std::env::var_os(name).map(PathBuf::from)).ok()
}
