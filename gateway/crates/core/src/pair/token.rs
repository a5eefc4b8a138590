//! Tokens of devices. None is kept: it is computed from the host's key and the salt in its row, so that a device is told the
//! same one at each connect, and who gets hold of a database alone has no token.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_protocol::scope::ScopeSet;
use gateway_store::{DeviceTokenRow, SetupCodeRow, TenantId};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::RwLock;
use sha2::Sha256;

use crate::auth::{CredentialHash, credential_hash};
use crate::cx::Role;

/// Whose a token is.
#[derive(Debug, Clone)]
pub struct TokenOwner {
    /// The tenant.
    pub tenant: TenantId,
    /// The device.
    pub device: Arc<str>,
    /// The role that it is for.
    pub role: Role,
    /// The most that it may do.
    pub scopes: ScopeSet,
}

/// The tokens in force of all tenants by keyed hash, so that a connect costs no query and an ended token is unknown at once.
pub struct DeviceTokens {
    secret: [u8; 32],
    hash_key: [u8; 32],
    index: RwLock<HashMap<CredentialHash, TokenOwner>>,
    /// Unused setup codes: whose they are and when they end.
    codes: RwLock<HashMap<CredentialHash, (TenantId, i64)>>,
}

impl std::fmt::Debug for DeviceTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceTokens({})", self.index.read().len())
    }
}

impl DeviceTokens {
    /// None yet. `secret` makes tokens, `hash_key` is that of all credentials.
    #[must_use]
    pub fn new(secret: [u8; 32], hash_key: [u8; 32]) -> Self {
        Self {
            secret,
            hash_key,
            index: RwLock::default(),
            codes: RwLock::default(),
        }
    }

    /// The token of this salt: 43 characters of base64url.
    #[must_use]
    pub fn token(&self, tenant: &TenantId, device: &str, role: &str, salt: &[u8; 16]) -> String {
        // HMAC takes keys of any length, so this cannot fail; the fallback matches nothing.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else {
            return String::new();
        };
        for part in [
            tenant.as_str().as_bytes(),
            device.as_bytes(),
            role.as_bytes(),
            salt,
        ] {
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            mac.update(part);
        }
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// Its keyed hash.
    #[must_use]
    pub fn hash(&self, token: &str) -> CredentialHash {
        credential_hash(&self.hash_key, token)
    }

    /// Whose the token of this hash is.
    #[must_use]
    pub fn find(&self, hash: &CredentialHash) -> Option<TokenOwner> {
        self.index.read().get(hash).cloned()
    }

    /// The tenant of the setup code whose credential has this hash, if it is good still.
    #[must_use]
    pub fn find_code(&self, hash: &CredentialHash, now_ms: i64) -> Option<TenantId> {
        let codes = self.codes.read();
        let (tenant, expires_at) = codes.get(hash)?;
        (*expires_at > now_ms).then(|| tenant.clone())
    }

    /// Takes the setup codes of `old` out and the unused ones of `new` in.
    pub(crate) fn replace_codes<'a>(
        &self,
        tenant: &TenantId,
        old: impl Iterator<Item = &'a SetupCodeRow>,
        new: impl Iterator<Item = &'a SetupCodeRow>,
    ) {
        let mut codes = self.codes.write();
        for code in old {
            codes.remove(&code.hash.0);
        }
        for code in new.filter(|c| c.used_at.is_none()) {
            codes.insert(code.hash.0, (tenant.clone(), code.expires_at));
        }
    }

    /// Takes the tokens of `old` out and those of `new` in. Gives whether any ended.
    pub(crate) fn replace<'a>(
        &self,
        tenant: &TenantId,
        old: impl Iterator<Item = &'a DeviceTokenRow>,
        new: impl Iterator<Item = &'a DeviceTokenRow>,
    ) -> bool {
        let mut index = self.index.write();
        let mut ended: Vec<CredentialHash> = old
            .filter(|t| t.revoked_at.is_none())
            .map(|t| t.hash.0)
            .collect();
        for token in new.filter(|t| t.revoked_at.is_none()) {
            let Some(role) = role_of(&token.role) else {
                continue;
            };
            ended.retain(|hash| *hash != token.hash.0);
            index.insert(
                token.hash.0,
                TokenOwner {
                    tenant: tenant.clone(),
                    device: token.device_id.as_str().into(),
                    role,
                    scopes: ScopeSet::parse(&token.scopes),
                },
            );
        }
        for hash in &ended {
            index.remove(hash);
        }
        !ended.is_empty()
    }
}

/// The role of this name.
pub(crate) fn role_of(name: &str) -> Option<Role> {
    [Role::Operator, Role::Node]
        .into_iter()
        .find(|role| role.as_str() == name)
}
