//! What answers. A server is asked for a real completion before its address, model and key are written.

use std::time::Duration;

use gateway_config::{AgentBackend, OpenAiSettings, Secret, Settings, secret_set, value_at};
use gateway_core::agent::{ProbeError, ProbeFault, TurnSink, TurnStatus, probe};
use serde_json::{Value, json};

use super::progress::{Progress, Step};
use super::{AgentChoice, Args, Setup, ask, from_env, from_stdin, plain, set};
use crate::cli::block_on;
use crate::cli::output::{Exit, Failure, clean};
use crate::cli::secret::note;

/// Models that a failure names.
const NAMED_MODELS: usize = 12;
/// Characters of the server's answer that are shown.
const SHOWN_ANSWER_CHARS: usize = 60;
/// Example of an address, for who is asked.
const EXAMPLE_URL: &str = "http://127.0.0.1:11434/v1";

/// Where the server's key is from.
#[derive(Clone)]
enum Key {
    /// It wants none.
    None,
    /// What the configuration says already.
    Kept,
    /// A variable of the gateway's environment.
    Env(String, Secret),
    /// Given now, to be stored.
    Given(Secret),
}

/// One server to ask.
#[derive(Clone)]
struct Server {
    url: String,
    model: String,
    key: Key,
}

fn given(args: &Args) -> bool {
    args.agent.is_some()
}

fn current(settings: &Settings) -> Option<&OpenAiSettings> {
    let agents = &settings.main().agents;
    match &agents.entries.get(&agents.default)?.backend {
        AgentBackend::OpenAi(openai) => Some(openai),
        AgentBackend::Echo => None,
    }
}

/// The flags that are needed where nobody can be asked.
pub fn missing(args: &Args, progress: &Progress, settings: Option<&Settings>) -> Vec<&'static str> {
    match args.agent {
        None if progress.has(Step::Agent) => Vec::new(),
        None => vec!["--agent echo, or --agent openai with --upstream, --model and a key"],
        Some(AgentChoice::Echo) => Vec::new(),
        Some(AgentChoice::Openai) => {
            let had = settings.and_then(current);
            let mut missing = Vec::new();
            if args.upstream.is_none() && had.is_none() {
                missing.push("--upstream URL");
            }
            if args.model.is_none() && had.is_none() {
                missing.push("--model NAME");
            }
            // A key is kept for the server that it belongs to, and for no other.
            let same = had.is_some_and(|had| {
                args.upstream
                    .as_deref()
                    .is_none_or(|url| url.trim_end_matches('/') == had.base_url)
            });
            if args.api_key_env.is_none() && !args.api_key_stdin && !args.no_api_key && !same {
                missing.push("--api-key-env VAR, --api-key-stdin or --no-api-key");
            }
            missing
        }
    }
}

pub fn step(setup: &mut Setup<'_>) -> Result<(), Failure> {
    let had = current(&setup.settings).cloned();
    if setup.decided(Step::Agent, given(&setup.args)) {
        let text = match &had {
            Some(openai) => format!(
                "openai: {} at {} (as before)",
                openai.model, openai.base_url
            ),
            None => "echo (as before)".to_owned(),
        };
        setup.steps.push(
            json!({ "step": "agent", "is": word(had.is_some()), "changed": false, "text": text }),
        );
        return Ok(());
    }
    let choice = match setup.args.agent {
        Some(choice) => choice,
        None => match ask::choice(
            "What is to answer?",
            &[
                (
                    "echo",
                    "repeats what it is told; needs nothing, good for a first look",
                ),
                ("openai", "a model behind any OpenAI-compatible server"),
            ],
            word(had.is_some()),
        )? {
            "openai" => AgentChoice::Openai,
            _ => AgentChoice::Echo,
        },
    };
    match choice {
        AgentChoice::Echo => echo(setup, had.is_some()),
        AgentChoice::Openai => openai(setup, had),
    }
}

fn word(openai: bool) -> &'static str {
    if openai { "openai" } else { "echo" }
}

fn echo(setup: &mut Setup<'_>, had: bool) -> Result<(), Failure> {
    let mut changed = false;
    if had {
        let id = setup.settings.main().agents.default.clone();
        let at = |key: &str, value: Option<Value>| set(&["agents", "entries", &id, key], value);
        let mut edits = vec![at("backend", Some(json!("echo")))];
        for key in [
            "model",
            "embeddingModel",
            "baseUrl",
            "apiKey",
            "firstByteTimeoutMs",
            "idleTimeoutMs",
        ] {
            edits.push(at(key, None));
        }
        changed = setup.write(edits)?;
    }
    setup.done(
        Step::Agent,
        json!({ "step": "agent", "is": "echo", "changed": changed, "text": "echo: repeats what it is told" }),
    )
}

fn openai(setup: &mut Setup<'_>, had: Option<OpenAiSettings>) -> Result<(), Failure> {
    let mut offered = had
        .as_ref()
        .map(|had| (had.base_url.clone(), had.model.clone()));
    loop {
        let server = choose(setup, had.as_ref(), offered.as_ref())?;
        if !setup.args.again && is_there(setup, had.as_ref(), &server)? {
            return over(setup, &server, false, None);
        }
        match check(setup, had.as_ref(), &server) {
            Ok(answer) => {
                let changed = write(setup, &server)?;
                return over(setup, &server, changed, Some(answer));
            }
            Err(failure) if setup.terminal => {
                ask::say(&format!("\n{}\n{}", failure.message, failure.next))?;
                if !ask::yes("try again with other answers?", true)? {
                    return Err(failure);
                }
                // What a flag said was wrong as well: now it is asked.
                setup.args.upstream = None;
                setup.args.model = None;
                setup.args.api_key_env = None;
                setup.args.no_api_key = false;
                offered = Some((server.url, server.model));
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn over(
    setup: &mut Setup<'_>,
    server: &Server,
    changed: bool,
    answer: Option<(String, String)>,
) -> Result<(), Failure> {
    let mut text = format!("openai: {} at {}", server.model, server.url);
    if let Some((_, answer)) = &answer {
        text.push_str(&format!(" answered {answer:?}"));
    }
    let heartbeat = setup
        .settings
        .main()
        .agents
        .entries
        .get(&setup.settings.main().agents.default)
        .map(|agent| agent.heartbeat.every_ms)
        .filter(|every| changed && *every > 0);
    if let Some(every) = heartbeat {
        setup.notes.push(format!(
            "the agent looks by itself every {} min whether something is due, which asks the model: heartbeat.every of the agent changes that",
            every / 60_000
        ));
    }
    if let Key::Env(name, _) = &server.key {
        setup.notes.push(format!(
            "the gateway has to get {name} in its environment; a service gets none of this shell's: --api-key-stdin stores the key instead"
        ));
    }
    let told = json!({
        "step": "agent", "is": "openai", "changed": changed, "baseUrl": server.url, "model": server.model,
        "checked": answer.is_some(), "answeredBy": answer.map(|(model, _)| model), "text": text,
    });
    setup.done(Step::Agent, told)
}

fn choose(
    setup: &Setup<'_>,
    had: Option<&OpenAiSettings>,
    offered: Option<&(String, String)>,
) -> Result<Server, Failure> {
    let args = &setup.args;
    // Without a terminal what is missing was refused before.
    let line =
        |given: &Option<String>, question: &str, default: Option<&str>| match (given, default) {
            (Some(given), _) => Ok(given.clone()),
            (None, Some(default)) if !setup.terminal => Ok(default.to_owned()),
            (None, default) => ask::line(question, default),
        };
    let url = line(
        &args.upstream,
        "address of the server",
        Some(offered.map_or(EXAMPLE_URL, |(url, _)| url))
            .filter(|_| setup.terminal || had.is_some()),
    )?;
    let url = url.trim().trim_end_matches('/').to_owned();
    let model = line(
        &args.model,
        "model",
        offered.map(|(_, model)| model.as_str()),
    )?;
    let kept = had.filter(|had| had.base_url == url);
    let key = if args.no_api_key {
        Key::None
    } else if let Some(name) = &args.api_key_env {
        Key::Env(name.clone(), Secret::new(from_env("--api-key-env", name)?))
    } else if args.api_key_stdin {
        Key::Given(Secret::new(from_stdin("--api-key-stdin")?))
    } else if !setup.terminal {
        Key::Kept
    } else {
        ask_key(kept)?
    };
    Ok(Server {
        url,
        model: model.trim().to_owned(),
        key,
    })
}

fn ask_key(kept: Option<&OpenAiSettings>) -> Result<Key, Failure> {
    let mut options = vec![
        ("none", "the server wants none"),
        (
            "type",
            "type or paste it now; it is stored beside the configuration, readable by you alone",
        ),
        (
            "variable",
            "an environment variable of the gateway holds it",
        ),
    ];
    if kept.is_some_and(|kept| kept.api_key.is_some()) {
        options.insert(0, ("keep", "the one that is set"));
    }
    let default = options[0].0;
    match ask::choice("The server's key?", &options, default)? {
        "keep" => Ok(Key::Kept),
        "type" => Ok(Key::Given(Secret::new(ask::secret("key")?))),
        "variable" => loop {
            let name = ask::line("name of the variable", Some("OPENAI_API_KEY"))?;
            match from_env("variable", &name) {
                Ok(value) => return Ok(Key::Env(name, Secret::new(value))),
                Err(failure) => ask::say(&failure.message)?,
            }
        },
        _ => Ok(Key::None),
    }
}

/// The name under which a key is stored.
fn secret_name(setup: &Setup<'_>) -> String {
    format!("agent-{}-key", setup.settings.main().agents.default)
}

/// Whether all of it is set already, the key included.
fn is_there(
    setup: &Setup<'_>,
    had: Option<&OpenAiSettings>,
    server: &Server,
) -> Result<bool, Failure> {
    let Some(had) = had else { return Ok(false) };
    let id = &setup.settings.main().agents.default;
    let written = plain(&setup.file.read()?);
    let written = value_at(&written, &["agents", "entries", id, "apiKey"]);
    let key = match &server.key {
        Key::None => had.api_key.is_none(),
        Key::Kept => true,
        Key::Env(name, _) => written == Some(&json!({ "env": name })),
        Key::Given(secret) => {
            written == Some(&json!({ "store": secret_name(setup) }))
                && had.api_key.as_ref().map(Secret::expose) == Some(secret.expose())
        }
    };
    Ok(key && had.base_url == server.url && had.model == server.model)
}

/// A real completion. Gives the model as the server names it, and what it said.
fn check(
    setup: &Setup<'_>,
    had: Option<&OpenAiSettings>,
    server: &Server,
) -> Result<(String, String), Failure> {
    let api_key = match &server.key {
        Key::None => None,
        Key::Kept => had.and_then(|had| had.api_key.clone()),
        Key::Env(_, secret) | Key::Given(secret) => Some(secret.clone()),
    };
    let patience = Duration::from_millis(setup.global.timeout);
    let settings = OpenAiSettings {
        base_url: server.url.clone(),
        model: server.model.clone(),
        embedding_model: None,
        api_key,
        first_byte_timeout_ms: setup.global.timeout,
        idle_timeout_ms: setup.global.timeout,
    };
    if setup.terminal {
        ask::say(&format!("asking {} at {} …", server.model, server.url))?;
    }
    let asked = Told {
        terminal: setup.terminal,
    };
    match block_on(async { Ok(probe(&settings, patience, &asked).await) })? {
        Ok(probed) => {
            let text: String = probed
                .text
                .trim()
                .chars()
                .take(SHOWN_ANSWER_CHARS)
                .collect();
            Ok((probed.model, clean(&text)))
        }
        Err(error) => Err(failure(server, &error)),
    }
}

fn failure(server: &Server, error: &ProbeError) -> Failure {
    let next = match &error.fault {
        ProbeFault::Key => match &server.key {
            Key::None => "give its key: --api-key-stdin, or --api-key-env VAR".to_owned(),
            Key::Env(name, _) => format!("look at the value of {name}"),
            Key::Kept | Key::Given(_) => "give another key: --api-key-stdin < FILE".to_owned(),
        },
        ProbeFault::Model(models) => {
            let named: Vec<&str> = models.iter().take(NAMED_MODELS).map(String::as_str).collect();
            let more = match models.len().saturating_sub(NAMED_MODELS) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            format!("name a model that it has with --model: {}{more}", named.join(", "))
        }
        ProbeFault::Unreachable => {
            "start the server, or correct --upstream; nothing was changed".to_owned()
        }
        ProbeFault::Slow => {
            "try again (a model that is loaded for the first time takes long), or wait longer: --timeout 120000".to_owned()
        }
        ProbeFault::Settings => {
            format!("write --upstream like {EXAMPLE_URL}; nothing was changed")
        }
        ProbeFault::Answer => {
            "check --upstream (as a rule it ends in /v1) and --model; nothing was changed".to_owned()
        }
    };
    Failure::new(
        Exit::Failure,
        format!("{} gave no answer: {}", server.url, error.message),
        next,
    )
}

fn write(setup: &mut Setup<'_>, server: &Server) -> Result<bool, Failure> {
    let id = setup.settings.main().agents.default.clone();
    let name = secret_name(setup);
    let mut stored = false;
    let reference = match &server.key {
        Key::None => Some(None),
        Key::Kept => None,
        Key::Env(name, _) => Some(Some(json!({ "env": name }))),
        Key::Given(secret) => {
            // First: a configuration that names a secret which is not there would be refused.
            let set = secret_set(&setup.state_dir, &setup.global.tenant, &name, secret)?;
            note(&setup.state_dir, &setup.global.tenant, &name, set.replaced)?;
            setup
                .notes
                .extend(set.warning.map(|w| format!("the server's key: {w}")));
            stored = true;
            Some(Some(json!({ "store": name })))
        }
    };
    let at = |key: &str, value: Option<Value>| set(&["agents", "entries", &id, key], value);
    let mut edits = vec![
        at("backend", Some(json!("openai"))),
        at("baseUrl", Some(json!(server.url))),
        at("model", Some(json!(server.model))),
    ];
    if let Some(reference) = reference {
        edits.push(at("apiKey", reference));
    }
    let changed = setup.write(edits)?;
    if stored && !changed {
        setup.changed.push(format!("agents.entries.{id}.apiKey"));
    }
    Ok(changed || stored)
}

/// Tells of pauses while the server is asked.
struct Told {
    terminal: bool,
}

impl TurnSink for Told {
    fn text_delta(&self, _: &str) {}

    fn status(&self, status: &TurnStatus) {
        if let (true, TurnStatus::Waiting { ms, why }) = (self.terminal, status) {
            // A line that is lost changes nothing.
            let _ = ask::say(&format!("{why}; once more in {ms} ms"));
        }
    }
}
