//! `hello-ok`: what a new connection is told. The parts that never change are encoded once.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gateway_protocol::PROTOCOL_VERSION;
use gateway_protocol::methods::connect::{HelloFeatures, HelloPolicy, HelloSessionDefaults};
use gateway_protocol::scope::Scope;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};

use crate::cx::Role;
use crate::host::HelloInput;

/// The public half of the gateway's own key (made from the host's key, so it lasts as long as the state directory).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Lower-case hex SHA-256 of the raw public key.
    pub device_id: String,
    /// The raw public key, base64url without padding.
    pub public_key: String,
}

impl Identity {
    /// From a 32-byte seed.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        use std::fmt::Write as _;
        // Every 32-byte string is a valid seed.
        let public = Ed25519KeyPair::from_seed_unchecked(seed)
            .map(|pair| pair.public_key().as_ref().to_vec())
            .unwrap_or_default();
        let mut device_id = String::with_capacity(64);
        for byte in Sha256::digest(&public) {
            let _ = write!(device_id, "{byte:02x}");
        }
        Self {
            device_id,
            public_key: URL_SAFE_NO_PAD.encode(public),
        }
    }
}

/// The parts of `hello-ok` that are the same for everybody.
#[derive(Debug)]
pub(crate) struct HelloParts {
    /// `{"type":"hello-ok",…,"connId":` (the id follows).
    head: Vec<u8>,
    /// `,"bootId":…},"features":…,"snapshot":{"presence":`.
    features: Vec<u8>,
    policy: Vec<u8>,
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

impl HelloParts {
    pub(crate) fn new(version: &str, boot_id: &str) -> Self {
        let mut head =
            format!(r#"{{"type":"hello-ok","protocol":{PROTOCOL_VERSION},"server":{{"version":"#)
                .into_bytes();
        head.extend(json(&version));
        head.extend(br#","bootId":"#);
        head.extend(json(&boot_id));
        head.extend(br#","connId":"#);
        let mut features = br#"},"features":"#.to_vec();
        features.extend(json(&HelloFeatures::ours()));
        features.extend(br#","snapshot":{"presence":"#);
        let mut policy = br#"},"policy":"#.to_vec();
        policy.extend(json(&HelloPolicy::OURS));
        policy.push(b'}');
        Self {
            head,
            features,
            policy,
        }
    }

    pub(crate) fn encode(&self, input: &HelloInput<'_>) -> Bytes {
        let tenant = input.tenant;
        let conn = input.conn;
        let reads = conn.role == Role::Operator && conn.scopes.allows(Scope::Read);
        let presence = if reads {
            tenant.presence().encoded()
        } else {
            Bytes::from_static(b"[]")
        };
        let health = tenant.health().greeting(tenant);
        let (presence_version, health_version) = tenant.presence().state_version();
        let uptime = tenant
            .now_ms()
            .saturating_sub(tenant.shared().started_ms)
            .max(0);
        let mut out = Vec::with_capacity(
            self.head.len() + self.features.len() + presence.len() + health.len() + 1024,
        );
        out.extend_from_slice(&self.head);
        out.extend(json(&conn.conn.as_str()));
        out.extend_from_slice(&self.features);
        out.extend_from_slice(&presence);
        out.extend_from_slice(br#","health":"#);
        out.extend_from_slice(&health);
        out.extend_from_slice(
            format!(
                r#","stateVersion":{{"presence":{presence_version},"health":{health_version}}},"uptimeMs":{uptime}"#
            )
            .as_bytes(),
        );
        if conn.role == Role::Operator {
            let agents = tenant.agents();
            let settings = tenant.settings();
            let defaults = HelloSessionDefaults {
                default_agent_id: agents.default_id().to_owned(),
                model_configured: Some(agents.get(agents.default_id()).is_some()),
                main_key: "main".to_owned(),
                main_session_key: format!("agent:{}:main", agents.default_id()),
                scope: Some("per-sender".to_owned()),
            };
            out.extend_from_slice(br#","sessionDefaults":"#);
            out.extend(json(&defaults));
            if conn.scopes.allows(Scope::Admin) {
                out.extend_from_slice(br#","authMode":"#);
                out.extend(json(&settings.auth.mode.as_str()));
            }
        }
        out.extend_from_slice(br#"},"auth":{"role":"#);
        out.extend(json(&conn.role.as_str()));
        out.extend_from_slice(br#","scopes":"#);
        let scopes: Vec<&str> = conn.scopes.iter().map(Scope::as_str).collect();
        out.extend(json(&scopes));
        out.extend_from_slice(br#","method":"#);
        out.extend(json(&input.auth_method));
        if let Some(paired) = input.device {
            out.extend_from_slice(br#","deviceToken":"#);
            out.extend(json(&paired.token));
            out.extend_from_slice(br#","issuedAtMs":"#);
            out.extend(json(&paired.issued_at_ms));
            if !paired.others.is_empty() {
                out.extend_from_slice(br#","deviceTokens":"#);
                out.extend(json(&paired.others));
            }
        }
        out.extend_from_slice(&self.policy);
        Bytes::from(out)
    }
}
