//! Import of OpenClaw's `openclaw.json`: what has an equal here is taken over, and every key is accounted for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::network::Network;
use crate::path::join_path;
use crate::reload::look_up;
use crate::secret::Secret;
use crate::source;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Taken over as it is.
    Mapped,
    /// Taken over with another meaning, which the note tells.
    Changed,
    /// Not taken over; the note tells why.
    Unsupported,
}

impl Outcome {
    /// Lower-case word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Changed => "changed",
            Self::Unsupported => "unsupported",
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Path in `openclaw.json`.
    pub from: String,
    /// Path here, if it has one.
    pub to: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// What to know. Never holds a secret.
    pub note: String,
}

/// An import, not written yet.
#[derive(Debug)]
pub struct Import {
    /// Text of the new file.
    pub text: String,
    /// Secrets that stood in the old file in clear, by the name under which the new one refers to them.
    pub secrets: BTreeMap<String, Secret>,
    /// Every key of the old file.
    pub report: Vec<Imported>,
}

/// Reads the text of an `openclaw.json` (JSON5).
///
/// # Errors
/// Line, column and what is wrong, when it is not JSON5 or not an object.
pub fn import_openclaw(text: &str) -> Result<Import, (usize, usize, String)> {
    let old = source::plain_value(text.strip_prefix('\u{feff}').unwrap_or(text))?;
    if !old.is_object() {
        return Err((1, 1, "the file holds no object".to_owned()));
    }
    let mut cx = Importer {
        old,
        new: json!({}),
        secrets: BTreeMap::new(),
        report: Vec::new(),
        seen: Vec::new(),
    };
    cx.gateway();
    cx.agents();
    cx.session();
    cx.telegram();
    cx.rest();
    cx.report.sort_by(|a, b| a.from.cmp(&b.from));
    let text = format!(
        "// Imported from openclaw.json by `gateway migrate openclaw`. `gateway config explain KEY` says what a key means.\n{:#}\n",
        cx.new
    );
    Ok(Import {
        text,
        secrets: cx.secrets,
        report: cx.report,
    })
}

struct Importer {
    old: Value,
    new: Value,
    secrets: BTreeMap<String, Secret>,
    report: Vec<Imported>,
    /// Paths that are accounted for, with all that is below them.
    seen: Vec<String>,
}

impl Importer {
    fn get(&self, path: &[&str]) -> Option<Value> {
        crate::path::value_at(&self.old, path).cloned()
    }

    fn put(&mut self, path: &[&str], value: Value) {
        let mut here = &mut self.new;
        for step in path {
            if !here.is_object() {
                *here = json!({});
            }
            here = &mut here[*step];
        }
        *here = value;
    }

    fn note(&mut self, from: &[&str], to: Option<&[&str]>, outcome: Outcome, note: &str) {
        let from = join_path(from);
        self.seen.push(from.clone());
        self.report.push(Imported {
            from,
            to: to.map(join_path),
            outcome,
            note: note.to_owned(),
        });
    }

    fn copy(&mut self, from: &[&str], to: &[&str]) {
        if let Some(value) = self.get(from) {
            self.put(to, value);
            self.note(from, Some(to), Outcome::Mapped, "");
        }
    }

    /// Takes a key over if this gateway has the same one (by its path).
    fn copy_known(&mut self, path: &[&str]) {
        if look_up(&path.join(".")).is_some() {
            self.copy(path, path);
        }
    }

    fn unsupported(&mut self, from: &[&str], note: &str) {
        if self.get(from).is_some() {
            self.note(from, None, Outcome::Unsupported, note);
        }
    }

    /// A secret: a text goes into the store under `name`, a reference to the environment stays one.
    fn secret(&mut self, from: &[&str], to: &[&str], name: &str) -> bool {
        let Some(value) = self.get(from) else {
            return false;
        };
        let env = match &value {
            Value::String(text) => text
                .strip_prefix("${")
                .and_then(|t| t.strip_suffix('}'))
                .map(str::to_owned),
            Value::Object(map) if map.get("source") == Some(&json!("env")) => {
                map.get("id").and_then(Value::as_str).map(str::to_owned)
            }
            _ => None,
        };
        match (env, value) {
            (Some(env), _) => {
                self.put(to, json!({ "env": env }));
                self.note(from, Some(to), Outcome::Mapped, "read from the environment");
                true
            }
            (None, Value::String(text)) => {
                self.secrets.insert(name.to_owned(), Secret::new(text));
                self.put(to, json!({ "store": name }));
                let note = format!("moved into the secret store as {name}");
                self.note(from, Some(to), Outcome::Changed, &note);
                true
            }
            _ => {
                self.note(
                    from,
                    None,
                    Outcome::Unsupported,
                    "this reference to a secret is not known here: write {env}, {file}, {store} or {exec}",
                );
                false
            }
        }
    }

    fn gateway(&mut self) {
        self.copy(&["gateway", "port"], &["gateway", "port"]);
        let bind = ["gateway", "bind"];
        match self.get(&bind).as_ref().and_then(Value::as_str) {
            Some("loopback" | "lan") => self.copy(&bind, &bind),
            Some("auto") => {
                self.put(&bind, json!("loopback"));
                self.note(
                    &bind,
                    Some(&bind),
                    Outcome::Changed,
                    "auto became loopback: write lan to be reached by others",
                );
            }
            Some("custom") => {
                let host = self.get(&["gateway", "customBindHost"]);
                let host = host
                    .as_ref()
                    .and_then(Value::as_str)
                    .unwrap_or("loopback")
                    .to_owned();
                self.put(&bind, json!(host));
                self.note(&bind, Some(&bind), Outcome::Mapped, "the custom address");
                self.seen.push("gateway.customBindHost".to_owned());
            }
            Some(_) => {
                self.put(&bind, json!("loopback"));
                self.note(
                    &bind,
                    Some(&bind),
                    Outcome::Unsupported,
                    "only loopback, lan or one address: loopback was written",
                );
            }
            None => {}
        }
        let mode = ["gateway", "auth", "mode"];
        match self.get(&mode).as_ref().and_then(Value::as_str) {
            Some("none" | "token" | "password" | "trusted-proxy") => self.copy(&mode, &mode),
            Some(_) => self.unsupported(
                &mode,
                "only none, token, password or trusted-proxy: token counts",
            ),
            None => {}
        }
        for key in ["userHeader", "requiredHeaders"] {
            self.copy_known(&["gateway", "auth", "trustedProxy", key]);
        }
        let users = ["gateway", "auth", "trustedProxy", "allowUsers"];
        if self.get(&users).is_some_and(|users| users != json!([])) {
            self.copy_known(&users);
        }
        self.unsupported(
            &["gateway", "auth", "trustedProxy"],
            "an empty list of users is left out; a proxy on this machine needs gateway.auth.trustedProxy.secret",
        );
        self.secret(
            &["gateway", "auth", "token"],
            &["gateway", "auth", "token"],
            "gateway-token",
        );
        let password = ["gateway", "auth", "password"];
        if self.secret(&password, &password, "gateway-password")
            && self.get(&mode).is_none()
            && self.get(&["gateway", "auth", "token"]).is_none()
        {
            self.put(&mode, json!("password"));
        }
        for (from, to) in [
            ("maxAttempts", "authFailures"),
            ("windowMs", "authWindowMs"),
            ("lockoutMs", "authLockoutMs"),
        ] {
            self.copy(
                &["gateway", "auth", "rateLimit", from],
                &["gateway", "limits", to],
            );
        }
        self.copy(
            &["gateway", "controlUi", "allowedOrigins"],
            &["gateway", "allowedOrigins"],
        );
        for key in ["enabled", "autoGenerate", "certPath", "keyPath"] {
            self.copy_known(&["gateway", "tls", key]);
        }
        self.unsupported(&["gateway", "tls"], "no TLS settings of this kind here");
        if self.get(&["gateway", "mode"]) == Some(json!("local")) {
            self.note(
                &["gateway", "mode"],
                None,
                Outcome::Mapped,
                "a gateway of a state directory is always local",
            );
        }
        if self.get(&["gateway", "tailscale", "mode"]) == Some(json!("off")) {
            self.note(
                &["gateway", "tailscale"],
                None,
                Outcome::Mapped,
                "off, as here",
            );
        }
        for key in ["mode", "resetOnExit"] {
            self.copy_known(&["gateway", "tailscale", key]);
        }
        self.copy_known(&["gateway", "auth", "allowTailscale"]);
        self.unsupported(
            &["gateway", "tailscale"],
            "no Tailscale settings of this kind here",
        );
        if self
            .get(&["gateway", "http", "endpoints", "chatCompletions"])
            .is_some()
        {
            self.note(
                &["gateway", "http", "endpoints", "chatCompletions"],
                None,
                Outcome::Changed,
                "/v1/chat/completions is always on, behind the gateway's authentication",
            );
        }
        let proxies = ["gateway", "trustedProxies"];
        match self.get(&proxies) {
            Some(Value::Array(list)) => {
                let known = |v: &Value| v.as_str().is_some_and(|t| Network::parse(t).is_some());
                if list.iter().all(known) {
                    self.copy(&proxies, &proxies);
                } else {
                    self.unsupported(&proxies, "only addresses and networks like 10.0.0.0/8");
                }
            }
            _ => self.unsupported(&proxies, "a list of addresses is expected"),
        }
    }

    fn agents(&mut self) {
        let mut ids: Vec<(String, Vec<String>)> = Vec::new();
        if let Some(Value::Array(list)) = self.get(&["agents", "list"]) {
            for (i, agent) in list.iter().enumerate() {
                let id = agent
                    .get("id")
                    .and_then(Value::as_str)
                    .unwrap_or("main")
                    .to_lowercase();
                if agent.get("default") == Some(&json!(true)) {
                    self.put(&["agents", "default"], json!(id));
                }
                ids.push((id, vec!["agents".into(), "list".into(), i.to_string()]));
            }
        }
        if let Some(Value::Object(entries)) = self.get(&["agents", "entries"]) {
            for id in entries.keys() {
                ids.push((
                    id.to_lowercase(),
                    vec!["agents".into(), "entries".into(), id.clone()],
                ));
            }
        }
        if ids.is_empty() {
            ids.push(("main".to_owned(), Vec::new()));
        }
        let shared = self.model(&["agents", "defaults", "model"]);
        let single = ids.len() == 1;
        for (id, at) in ids {
            let at: Vec<&str> = at.iter().map(String::as_str).collect();
            let mut from = at.clone();
            from.push("model");
            let own = if at.is_empty() {
                None
            } else {
                self.model(&from)
            };
            let to = ["agents", "entries", id.as_str()];
            match own.clone().or_else(|| shared.clone()) {
                Some(name) => {
                    let source: Vec<&str> = if own.is_some() {
                        from
                    } else {
                        vec!["agents", "defaults", "model"]
                    };
                    self.upstream(&source, &to, &name);
                }
                None => self.put(&to, json!({ "backend": "echo" })),
            }
            if single && id != "main" {
                self.put(&["agents", "default"], json!(id));
            }
            if !at.is_empty() {
                for key in ["id", "default", "model"] {
                    let mut path = at.clone();
                    path.push(key);
                    self.seen.push(join_path(&path));
                }
            }
        }
        self.unsupported(
            &["agents", "defaults", "workspace"],
            "agents have no workspace here",
        );
    }

    /// `provider/model`, written as a text or as `{primary}`.
    fn model(&self, path: &[&str]) -> Option<String> {
        match self.get(path)? {
            Value::String(name) => Some(name),
            Value::Object(map) => map.get("primary")?.as_str().map(str::to_owned),
            _ => None,
        }
    }

    /// An agent that asks the provider of a model.
    fn upstream(&mut self, from: &[&str], to: &[&str; 3], name: &str) {
        let (provider, model) = name.split_once('/').unwrap_or(("openai", name));
        let at = ["models", "providers", provider];
        let field = |cx: &Self, key: &str| {
            let mut path = at.to_vec();
            path.push(key);
            cx.get(&path)
        };
        let speaks = match field(self, "api").as_ref().and_then(Value::as_str) {
            Some(api) => api == "openai-completions",
            None => true,
        };
        let known = match provider {
            "openai" => Some("https://api.openai.com/v1"),
            "openrouter" => Some("https://openrouter.ai/api/v1"),
            _ => None,
        };
        let base = field(self, "baseUrl").and_then(|v| v.as_str().map(str::to_owned));
        let base = base.or_else(|| known.map(str::to_owned));
        let Some(base) = base.filter(|_| speaks) else {
            self.put(to, json!({ "backend": "echo" }));
            let note = format!(
                "the provider {provider} does not speak the OpenAI protocol or has no address: the echo agent answers until backend, baseUrl and model are written"
            );
            self.note(from, Some(to), Outcome::Unsupported, &note);
            return;
        };
        self.put(
            to,
            json!({ "backend": "openai", "model": model, "baseUrl": base }),
        );
        self.note(
            from,
            Some(&[to[0], to[1], to[2], "model"]),
            Outcome::Mapped,
            "",
        );
        let key = ["models", "providers", provider, "apiKey"];
        let to_key = [to[0], to[1], to[2], "apiKey"];
        self.secret(&key, &to_key, &format!("{provider}-api-key"));
        for field in ["baseUrl", "api", "models"] {
            self.seen
                .push(join_path(&["models", "providers", provider, field]));
        }
    }

    fn session(&mut self) {
        let scope = ["session", "dmScope"];
        match self.get(&scope) {
            Some(_) => self.copy(&scope, &scope),
            None => {
                self.put(&scope, json!("main"));
                self.note(
                    &scope,
                    Some(&scope),
                    Outcome::Changed,
                    "the old default is written out: all direct messages share a session",
                );
            }
        }
        let from = ["messages", "queue", "mode"];
        let to = ["session", "queueMode"];
        match self.get(&from).as_ref().and_then(Value::as_str) {
            Some("followup" | "interrupt") => self.copy(&from, &to),
            Some(other) => {
                let note = format!("{other} became followup: a message waits for its turn");
                self.put(&to, json!("followup"));
                self.note(&from, Some(&to), Outcome::Changed, &note);
            }
            None => {}
        }
    }

    fn telegram(&mut self) {
        let at = ["channels", "telegram"];
        let Some(Value::Object(telegram)) = self.get(&at) else {
            return;
        };
        let accounts: Vec<String> = match telegram.get("accounts") {
            Some(Value::Object(map)) => map.keys().cloned().collect(),
            _ => Vec::new(),
        };
        if telegram.contains_key("botToken") || accounts.is_empty() {
            self.telegram_account(&at, "default");
        }
        for id in accounts {
            self.telegram_account(
                &["channels", "telegram", "accounts", &id],
                &id.to_lowercase(),
            );
        }
    }

    fn telegram_account(&mut self, at: &[&str], id: &str) {
        let to = ["channels", "telegram", "accounts", id];
        let path = |base: &[&str], key: &str| -> Vec<String> {
            base.iter()
                .copied()
                .chain([key])
                .map(str::to_owned)
                .collect()
        };
        let refs = |path: &[String]| -> Vec<String> { path.to_vec() };
        self.put(&to, json!({}));
        let copy = |cx: &mut Self, from: &str, to_key: &str| {
            let (from, to) = (refs(&path(at, from)), refs(&path(&to, to_key)));
            let from: Vec<&str> = from.iter().map(String::as_str).collect();
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            cx.copy(&from, &to);
        };
        copy(self, "enabled", "enabled");
        copy(self, "dmPolicy", "dmPolicy");
        copy(self, "groupPolicy", "groupPolicy");
        let token: Vec<&str> = at.iter().copied().chain(["botToken"]).collect();
        let secret_to = [to[0], to[1], to[2], to[3], "secrets", "token"];
        let has_token = self.secret(&token, &secret_to, &format!("telegram-{id}-token"));
        if !has_token {
            self.put(&[to[0], to[1], to[2], to[3], "enabled"], json!(false));
            self.note(
                &token,
                None,
                Outcome::Unsupported,
                "without a bot token the account stays off",
            );
        }
        let from: Vec<&str> = at.iter().copied().chain(["allowFrom"]).collect();
        if let Some(Value::Array(list)) = self.get(&from) {
            let ids: Vec<String> = list
                .iter()
                .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .collect();
            let star = ids.iter().any(|id| id == "*");
            let ids: Vec<String> = ids
                .into_iter()
                .filter(|id| id != "*")
                .map(|id| {
                    id.trim_start_matches("tg:")
                        .trim_start_matches("telegram:")
                        .to_owned()
                })
                .collect();
            self.put(&[to[0], to[1], to[2], to[3], "allowFrom"], json!(ids));
            let (outcome, note) = if star {
                (
                    Outcome::Changed,
                    "* is not an id here: dmPolicy \"open\" lets everyone in",
                )
            } else {
                (Outcome::Mapped, "")
            };
            self.note(
                &from,
                Some(&[to[0], to[1], to[2], to[3], "allowFrom"]),
                outcome,
                note,
            );
        }
        let from: Vec<&str> = at.iter().copied().chain(["groups"]).collect();
        if let Some(Value::Object(groups)) = self.get(&from) {
            let mention = groups
                .values()
                .filter_map(|g| g.get("requireMention"))
                .any(|m| m == &json!(false));
            let ids: Vec<&String> = groups.keys().filter(|id| *id != "*").collect();
            let all = groups.contains_key("*");
            let account = |key| [to[0], to[1], to[2], to[3], key];
            self.put(&account("groups"), json!(ids));
            if self
                .get(
                    &at.iter()
                        .copied()
                        .chain(["groupPolicy"])
                        .collect::<Vec<_>>(),
                )
                .is_none()
            {
                self.put(
                    &account("groupPolicy"),
                    json!(if all { "open" } else { "allowlist" }),
                );
            }
            if mention {
                self.put(&account("requireMention"), json!(false));
            }
            self.note(
                &from,
                Some(&account("groups")),
                Outcome::Changed,
                "settings of single groups are one for the account here",
            );
        }
    }

    /// Everything that nothing above accounted for.
    fn rest(&mut self) {
        let Value::Object(old) = self.old.clone() else {
            return;
        };
        for (key, value) in &old {
            match key.as_str() {
                "meta" | "$schema" | "wizard" => {
                    self.note(&[key], None, Outcome::Mapped, "not needed here");
                }
                "cron" | "hooks" | "discovery" if look_up(key).is_some() => {
                    self.known(value, &mut vec![key.clone()]);
                }
                _ => self.left(value, &mut vec![key.clone()]),
            }
        }
    }

    /// Takes over the leaves that have the same path here; the others are told.
    fn known(&mut self, value: &Value, steps: &mut Vec<String>) {
        if let Value::Object(map) = value
            && look_up(&steps.join(".")).is_some_and(|node| node.deep)
        {
            for (key, value) in map {
                steps.push(key.clone());
                self.known(value, steps);
                steps.pop();
            }
            return;
        }
        let path: Vec<&str> = steps.iter().map(String::as_str).collect();
        match look_up(&steps.join(".")) {
            Some(node) if node.secret => {
                self.secret(&path, &path, &steps.join("-"));
            }
            Some(_) => self.copy(&path, &path),
            None => self.left(value, steps),
        }
    }

    fn left(&mut self, value: &Value, steps: &mut Vec<String>) {
        let path = join_path(steps);
        let covered = |path: &str| {
            self.seen
                .iter()
                .any(|seen| crate::written::below(path, seen))
        };
        if covered(&path) {
            return;
        }
        // Something below it is accounted for: the others are told one by one.
        let deeper = self
            .seen
            .iter()
            .any(|seen| crate::written::below(seen, &path));
        match value {
            Value::Object(map) if deeper => {
                for (key, value) in map {
                    steps.push(key.clone());
                    self.left(value, steps);
                    steps.pop();
                }
            }
            Value::Array(list) if deeper => {
                for (i, value) in list.iter().enumerate() {
                    steps.push(i.to_string());
                    self.left(value, steps);
                    steps.pop();
                }
            }
            Value::Object(map) if map.is_empty() => {}
            _ => {
                let path: Vec<&str> = steps.iter().map(String::as_str).collect();
                self.note(&path, None, Outcome::Unsupported, why(steps));
            }
        }
    }
}

/// Why a part has no equal here.
fn why(steps: &[String]) -> &'static str {
    match steps.first().map(String::as_str) {
        Some("channels") => {
            "there is no plugin for this channel, or the setting is the plugin's own"
        }
        Some("cron") => "jobs are kept in the store and not in the file",
        Some("hooks") => "use the webhook channel",
        Some("models") => "an agent names its server and model itself",
        Some("plugins") => "plugins are WebAssembly components in the directory of plugins.dir",
        Some("tools" | "skills") => "an agent has the built-in tools that it names",
        Some("$include") => "included files are not followed: import them joined",
        _ => "there is no such setting here",
    }
}

/// A short view of a report: how many keys came to what.
pub fn count(report: &[Imported]) -> Map<String, Value> {
    [Outcome::Mapped, Outcome::Changed, Outcome::Unsupported]
        .into_iter()
        .map(|o| {
            let n = report.iter().filter(|r| r.outcome == o).count();
            (o.as_str().to_owned(), json!(n))
        })
        .collect()
}
