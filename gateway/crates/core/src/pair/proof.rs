//! The proof of a device identity: a key pair whose public half names the device, and a signature over this connection's nonce.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gateway_protocol::device::{ProofFields, ProofVersion, is_fresh};
use gateway_protocol::methods::connect::{ConnectParams, ProofFault};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};

/// What stands before the raw key in a PEM file (`SubjectPublicKeyInfo` of Ed25519).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The id of the device with this raw public key: lower-case hex SHA-256.
#[must_use]
pub fn device_id(raw_key: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut id = String::with_capacity(64);
    for byte in Sha256::digest(raw_key) {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// Base64 in either alphabet, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .or_else(|_| STANDARD.decode(text))
        .ok()
}

/// The raw key of base64 text or PEM.
fn raw_key(text: &str) -> Option<[u8; 32]> {
    let bytes = match text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----") {
        None => base64(text)?,
        Some(rest) => {
            let body = rest.split("-----END").next()?;
            let body: String = body.split_whitespace().collect();
            STANDARD
                .decode(body)
                .ok()?
                .strip_prefix(&SPKI_HEAD)?
                .to_vec()
        }
    };
    bytes.try_into().ok()
}

/// A device whose proof held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenDevice {
    /// Its id.
    pub id: String,
    /// Its raw public key, base64url without padding.
    pub public_key: String,
}

/// Checks the proof in the parameters of a `connect` against the nonce of its connection. `None`: it brought none.
///
/// # Errors
/// The first thing that is wrong with it, in the order of the protocol.
pub fn verify(
    params: &ConnectParams,
    role: &str,
    nonce: &str,
    now_ms: i64,
) -> Result<Option<ProvenDevice>, ProofFault> {
    let Some(device) = &params.device else {
        return Ok(None);
    };
    let key = raw_key(&device.public_key).ok_or(ProofFault::IdMismatch)?;
    let id = device_id(&key);
    if id != *device.id {
        return Err(ProofFault::IdMismatch);
    }
    if !is_fresh(device.signed_at, now_ms) {
        return Err(ProofFault::Stale);
    }
    match device.nonce.trim() {
        "" => return Err(ProofFault::NonceMissing),
        given if given != nonce => return Err(ProofFault::NonceMismatch),
        _ => {}
    }
    let signature = base64(&device.signature).ok_or(ProofFault::SignatureInvalid)?;
    let scopes: Vec<&str> = params.scopes.iter().flatten().map(|s| s.as_str()).collect();
    let auth = params.auth.as_ref();
    let (client_id, client_mode) = (params.client.id.as_str(), params.client.mode.as_str());
    let fields = ProofFields {
        device_id: &id,
        client_id: &client_id,
        client_mode: &client_mode,
        role,
        scopes: &scopes,
        signed_at: device.signed_at,
        token: auth
            .and_then(|a| {
                a.token
                    .as_deref()
                    .or(a.device_token.as_deref())
                    .or(a.bootstrap_token.as_deref())
            })
            .unwrap_or_default(),
        nonce,
        platform: &params.client.platform,
        device_family: params.client.device_family.as_deref().unwrap_or_default(),
    };
    let key = UnparsedPublicKey::new(&ED25519, key);
    ProofVersion::ORDER
        .into_iter()
        .any(|version| {
            key.verify(fields.text(version).as_bytes(), &signature)
                .is_ok()
        })
        .then(|| ProvenDevice {
            public_key: URL_SAFE_NO_PAD.encode(key.as_ref()),
            id: id.clone(),
        })
        .ok_or(ProofFault::SignatureInvalid)
        .map(Some)
}

#[cfg(test)]
mod tests;
