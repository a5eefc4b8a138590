//! The settings as `config.get` shows them: everything but secrets.

use serde_json::{Map, Value, json};

use crate::secret::Secret;
use crate::settings::*;

/// Stands where a secret is set (the word that clients of the protocol know).
pub const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// Secrets shorter than this are not looked for inside other texts (they would hit by chance), in bytes.
const MIN_SEARCHED_BYTES: usize = 8;

/// Nothing where there is none: what is shown can be written back, and this may not be written from elsewhere.
fn tailscale(gateway: &GatewaySettings) -> Option<Value> {
    let listed = matches!(gateway.tailscale_logins, TailscaleLogins::Listed(_));
    let mut shown = match &gateway.tailscale {
        None if !listed => return None,
        None => json!({ "mode": "off" }),
        Some(t) => json!({
            "mode": t.mode.as_str(), "resetOnExit": t.reset_on_exit, "program": t.program,
            "httpsPort": t.https_port,
        }),
    };
    if let TailscaleLogins::Listed(logins) = &gateway.tailscale_logins {
        shown["logins"] = json!(logins);
    }
    Some(shown)
}

/// The resolved settings of one tenant in the shape of the file, with [`REDACTED`] for every secret. Values of
/// free-form plugin configuration whose key sounds like a secret are hidden too, and so is any text that contains a
/// secret of the settings. Nothing of other tenants is in it.
pub fn redacted_tenant_json(settings: &Settings, tenant: &TenantSettings) -> Value {
    let mut gateway = json!({
        "port": settings.gateway.port,
        "bind": settings.gateway.bind.label(),
        "auth": auth(&tenant.auth),
        "allowedOrigins": settings.gateway.allowed_origins,
    });
    if tenant.slug == MAIN_TENANT
        && let Some(map) = gateway.as_object_mut()
    {
        let l = &settings.gateway.limits;
        map.insert(
            "allowedHosts".to_owned(),
            json!(settings.gateway.allowed_hosts),
        );
        map.insert(
            "trustedProxies".to_owned(),
            json!(settings.gateway.trusted_proxies),
        );
        map.insert("tls".to_owned(), tls(&settings.gateway.tls));
        if let Some(shown) = tailscale(&settings.gateway) {
            map.insert("tailscale".to_owned(), shown);
        }
        if let Some(auth) = map.get_mut("auth") {
            auth["allowTailscale"] =
                json!(settings.gateway.tailscale_logins != TailscaleLogins::Nobody);
        }
        map.insert(
            "nodes".to_owned(),
            json!({
                "pairing": { "autoApproveLocal": settings.gateway.pair_local_silently },
                "commands": node_commands(tenant),
            }),
        );
        map.insert(
            "mode".to_owned(),
            json!(if settings.gateway.remote_mode {
                "remote"
            } else {
                "local"
            }),
        );
        map.insert(
            "limits".to_owned(),
            json!({
                "maxConnections": l.max_connections, "memoryMb": l.memory_mb, "preauthPerIp": l.preauth_per_ip, "preauthTotal": l.preauth_total,
                "handshakeTimeoutMs": l.handshake_timeout_ms, "authFailures": l.auth_failures,
                "authWindowMs": l.auth_window_ms, "authLockoutMs": l.auth_lockout_ms,
                "drainTimeoutMs": l.drain_timeout_ms, "safeModeRetryMs": l.safe_mode_retry_ms,
            }),
        );
    }
    let mut shown = tenant_json(tenant);
    if let Some(map) = shown.as_object_mut() {
        map.remove("auth");
        if tenant.slug == MAIN_TENANT {
            // The top level has no such key: what is shown could not be written back.
            map.remove("hosts");
            map.remove("nodes");
        }
        map.insert("gateway".to_owned(), gateway);
        if tenant.slug == MAIN_TENANT {
            if let Some(otlp) = &settings.otlp {
                map.insert(
                    "telemetry".to_owned(),
                    json!({ "otlp": {
                        "endpoint": otlp.endpoint,
                        "token": otlp.token.as_ref().map(|_| REDACTED),
                    } }),
                );
            }
            map.insert(
                "discovery".to_owned(),
                json!({
                    "mdns": { "mode": settings.discovery.mode.as_str() },
                    "wideArea": { "domain": settings.discovery.wide_area_domain },
                }),
            );
        }
        map.insert(
            "logging".to_owned(),
            json!({
                "level": settings.logging.level.as_str(),
                "format": match settings.logging.format { LogFormat::Text => "text", LogFormat::Json => "json" },
                "targets": settings.logging.targets.iter().map(|(target, level)| (target.clone(), json!(level.as_str()))).collect::<Map<String, Value>>(),
                "file": settings.logging.file.as_ref().filter(|_| tenant.slug == MAIN_TENANT).map(|file| json!({
                    "path": file.path.to_string_lossy(), "maxBytes": file.max_bytes, "keep": file.keep,
                })),
            }),
        );
    }
    hide(&mut shown, &all_secrets(settings));
    drop_null(&mut shown);
    shown
}

/// The whole resolved settings (all tenants): for the host's operator, never for a tenant.
pub fn redacted_json(settings: &Settings) -> Value {
    let mut shown = redacted_tenant_json(settings, settings.main());
    let tenants: Map<String, Value> = settings
        .tenants
        .values()
        .filter(|t| t.slug != MAIN_TENANT)
        .map(|t| (t.slug.clone(), tenant_json(t)))
        .collect();
    if let Some(map) = shown.as_object_mut() {
        map.insert("tenants".to_owned(), Value::Object(tenants));
        let mut plugins = Map::new();
        if let Some(dir) = &settings.plugins_dir {
            plugins.insert("dir".to_owned(), json!(dir.to_string_lossy()));
        }
        if !settings.plugin_pins.is_empty() {
            plugins.insert("pins".to_owned(), json!(settings.plugin_pins));
        }
        if settings.plugins_pinned_only {
            plugins.insert("pinnedOnly".to_owned(), json!(true));
        }
        if !settings.plugins_bundled {
            plugins.insert("bundled".to_owned(), json!(false));
        }
        if !plugins.is_empty() {
            map.insert("plugins".to_owned(), Value::Object(plugins));
        }
    }
    hide(&mut shown, &all_secrets(settings));
    drop_null(&mut shown);
    shown
}

fn tls(t: &TlsSettings) -> Value {
    match &t.source {
        TlsSource::Own { generate } => json!({ "enabled": t.enabled, "autoGenerate": generate }),
        TlsSource::Files { cert, key } => json!({
            "enabled": t.enabled, "certPath": cert.to_string_lossy(), "keyPath": key.to_string_lossy(),
        }),
    }
}

fn node_commands(t: &TenantSettings) -> Value {
    json!({ "allow": t.node_commands.allow, "deny": t.node_commands.deny })
}

fn tenant_json(t: &TenantSettings) -> Value {
    let entries: Map<String, Value> = t
        .agents
        .entries
        .values()
        .map(|a| (a.id.clone(), agent(a)))
        .collect();
    let mut channels: Map<String, Value> = Map::new();
    for a in &t.channels {
        let kind = channels
            .entry(a.kind.clone())
            .or_insert_with(|| json!({ "accounts": {} }));
        kind["accounts"][&a.account] = account(a);
    }
    let scripts: Map<String, Value> = t
        .boot
        .iter()
        .map(|s| {
            (
                s.id.clone(),
                json!({
                    "enabled": s.enabled, "onError": s.on_error.map(BootOnError::as_str), "config": s.config,
                }),
            )
        })
        .collect();
    json!({
        "hosts": t.hosts,
        "nodes": { "commands": node_commands(t) },
        "auth": auth(&t.auth),
        "agents": { "default": t.agents.default, "entries": entries },
        "session": {
            "dmScope": match t.session.dm_scope {
                DmScope::Main => "main",
                DmScope::PerPeer => "per-peer",
                DmScope::PerChannelPeer => "per-channel-peer",
                DmScope::PerAccountChannelPeer => "per-account-channel-peer",
            },
            "queueMode": match t.session.queue_mode {
                QueueMode::Followup => "followup",
                QueueMode::Interrupt => "interrupt",
            },
        },
        "channels": channels,
        "boot": { "scripts": scripts },
    })
}

fn auth(a: &AuthSettings) -> Value {
    let mut shown = json!({ "mode": a.mode.as_str() });
    for (key, secret) in [("token", &a.token), ("password", &a.password)] {
        if secret.is_some() {
            shown[key] = json!(REDACTED);
        }
    }
    if let Some(proxy) = &a.proxy {
        shown["trustedProxy"] = json!({
            "userHeader": proxy.user_header,
            "requiredHeaders": proxy.required_headers,
            "allowUsers": proxy.allow_users,
            "allowLoopback": proxy.allow_loopback,
        });
        if proxy.secret.is_some() {
            shown["trustedProxy"]["secret"] = json!(REDACTED);
        }
    }
    shown
}

fn agent(a: &AgentSettings) -> Value {
    let mut shown = match &a.backend {
        AgentBackend::Echo => json!({ "backend": "echo" }),
        AgentBackend::OpenAi(o) => {
            let mut shown = json!({
                "backend": "openai", "model": o.model, "baseUrl": o.base_url,
                "firstByteTimeoutMs": o.first_byte_timeout_ms, "idleTimeoutMs": o.idle_timeout_ms,
            });
            if let Some(model) = &o.embedding_model {
                shown["embeddingModel"] = json!(model);
            }
            if o.api_key.is_some() {
                shown["apiKey"] = json!(REDACTED);
            }
            shown
        }
    };
    shown["tools"] = json!(a.tools);
    if let Some(prompt) = &a.system_prompt {
        shown["systemPrompt"] = json!(prompt);
    }
    shown
}

fn account(a: &AccountSettings) -> Value {
    let secrets: Map<String, Value> = a
        .secrets
        .keys()
        .map(|k| (k.clone(), json!(REDACTED)))
        .collect();
    json!({
        "enabled": a.enabled,
        "agent": a.agent,
        "dmPolicy": match a.dm_policy {
            DmPolicy::Pairing => "pairing",
            DmPolicy::Allowlist => "allowlist",
            DmPolicy::Open => "open",
            DmPolicy::Disabled => "disabled",
        },
        "groupPolicy": match a.group_policy {
            GroupPolicy::Disabled => "disabled",
            GroupPolicy::Allowlist => "allowlist",
            GroupPolicy::Open => "open",
        },
        "allowFrom": a.allow_from,
        "groups": a.groups,
        "requireMention": a.require_mention,
        "secrets": secrets,
        "config": a.config,
        "http": { "allow": a.http.allow, "allowPrivate": a.http.allow_private },
    })
}

/// Takes out what is not set: null is nowhere a value, and what is shown can be written back.
fn drop_null(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            for (key, value) in map {
                // What is given to plugins as it is may hold it.
                if key != "config" {
                    drop_null(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// Options as they are written, with every secret text replaced; references to secrets stay.
pub(crate) fn hidden_options(written: &Value) -> Value {
    let mut shown = written.clone();
    let root = crate::schema::options_schema();
    crate::schema::each_secret(&root, &root, &mut shown, "", &mut |_, value| {
        let reference = match &*value {
            Value::String(text) => text.starts_with("${"),
            other => other.is_object() && other.get("exec").is_none(),
        };
        if !reference {
            *value = json!(REDACTED);
        }
    });
    // A reference names where a secret is, and its key sounds like one: only texts beside it are hidden.
    hide(&mut shown, &[]);
    shown
}

/// The secrets that are long enough to be looked for.
fn all_secrets(settings: &Settings) -> Vec<&Secret> {
    let mut all = settings.secrets();
    all.retain(|s| s.len() >= MIN_SEARCHED_BYTES);
    all
}

/// Hides texts that contain a secret, and values of keys that sound like one.
fn hide(value: &mut Value, secrets: &[&Secret]) {
    match value {
        Value::String(text) if secrets.iter().any(|s| text.contains(s.expose())) => {
            *text = REDACTED.to_owned();
        }
        Value::Array(items) => items.iter_mut().for_each(|v| hide(v, secrets)),
        Value::Object(map) => {
            let leaked: Vec<String> = map
                .keys()
                .filter(|k| secrets.iter().any(|s| k.contains(s.expose())))
                .cloned()
                .collect();
            for key in leaked {
                map.remove(&key);
                map.insert(REDACTED.to_owned(), json!(REDACTED));
            }
            for (key, v) in map.iter_mut() {
                let scalar = v.is_string() || v.is_number();
                if scalar && sounds_secret(key) {
                    *v = json!(REDACTED);
                } else {
                    hide(v, secrets);
                }
            }
        }
        _ => {}
    }
}

/// Whether a key of free-form configuration names a secret.
fn sounds_secret(key: &str) -> bool {
    let key: String = key
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect();
    [
        "token",
        "secret",
        "password",
        "passwd",
        "apikey",
        "privatekey",
        "credential",
        "authorization",
    ]
    .iter()
    .any(|word| key.ends_with(word))
}
