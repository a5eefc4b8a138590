//! The identity of a device: a key pair that its user's directory keeps, and the tokens that gateways gave it.
//!
//! `device.json` has the layout of OpenClaw's identity file, so that either program can go on with the other's.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gateway_egress::CertPin;
use gateway_protocol::device::{ProofFields, ProofVersion};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limits::{MAX_IDENTITY_FILE_BYTES, MAX_KEPT_DEVICE_TOKENS};

/// What stands before the raw keys in PEM: `SubjectPublicKeyInfo` and PKCS#8 of Ed25519.
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const KEY_FILE: &str = "device.json";
const TOKEN_FILE: &str = "device-auth.json";
const NODE: &str = "node";

/// Why an identity is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory cannot be used.
    #[error("{path}: {why}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        why: String,
    },
    /// The file is not an identity.
    #[error("{path} is not a device identity: {why}")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// A key pair. `Debug` shows its public half only.
pub struct DeviceIdentity {
    pair: Ed25519KeyPair,
    id: String,
}

impl fmt::Debug for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceIdentity({})", self.id)
    }
}

/// What of a connection is signed besides the identity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignedParts<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) client_mode: &'a str,
    pub(crate) role: &'a str,
    pub(crate) scopes: &'a [String],
    pub(crate) token: &'a str,
    pub(crate) platform: &'a str,
    pub(crate) nonce: &'a str,
    pub(crate) signed_at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    version: u32,
    device_id: String,
    public_key_pem: String,
    private_key_pem: String,
    created_at_ms: u64,
}

impl DeviceIdentity {
    /// From the 32 secret bytes of the key pair.
    ///
    /// # Errors
    /// None that is known: every 32 bytes are a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| IdentityError::Unfit {
            path: "the seed".to_owned(),
            why: "no Ed25519 key follows from it",
        })?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        let id = digest.as_ref().iter().fold(String::new(), |mut id, byte| {
            id.push_str(&format!("{byte:02x}"));
            id
        });
        Ok(Self { pair, id })
    }

    /// The identity of this directory; made (0600, in a directory of 0700) if there is none. Two programs that make it at the
    /// same time end with the same one.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn load_or_make(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(KEY_FILE);
        if let Some(found) = Self::load(dir)? {
            return Ok(found);
        }
        let mut seed = [0_u8; 32];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| IdentityError::Io {
                path: path.display().to_string(),
                why: "the system has no randomness".to_owned(),
            })?;
        let made = Self::from_seed(&seed)?;
        let file = KeyFile {
            version: 1,
            device_id: made.id.clone(),
            public_key_pem: pem(
                "PUBLIC KEY",
                &[&SPKI_HEAD[..], made.pair.public_key().as_ref()].concat(),
            ),
            private_key_pem: pem("PRIVATE KEY", &[&PKCS8_HEAD[..], &seed[..]].concat()),
            created_at_ms: now_ms(),
        };
        let text = serde_json::to_string_pretty(&file).unwrap_or_default();
        match place(dir, &path, text.as_bytes(), true) {
            Ok(()) => Ok(made),
            // Another program was faster: its identity is the one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(dir)?.ok_or_else(|| io_error(&path, &e))
            }
            Err(e) => Err(io_error(&path, &e)),
        }
    }

    /// The identity of this directory, if there is one.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(KEY_FILE);
        let Some(text) = read(&path)? else {
            return Ok(None);
        };
        let unfit = |why| IdentityError::Unfit {
            path: path.display().to_string(),
            why,
        };
        let file: KeyFile =
            serde_json::from_str(&text).map_err(|_| unfit("it has another shape"))?;
        let der = unpem("PRIVATE KEY", &file.private_key_pem)
            .ok_or_else(|| unfit("its private key is not PEM"))?;
        let seed: [u8; 32] = der
            .strip_prefix(&PKCS8_HEAD)
            .and_then(|seed| seed.try_into().ok())
            .ok_or_else(|| unfit("its private key is not an Ed25519 key in PKCS#8"))?;
        let found = Self::from_seed(&seed)?;
        if found.id != file.device_id {
            return Err(unfit("its id is not that of its key"));
        }
        Ok(Some(found))
    }

    /// Lower-case hex SHA-256 of the raw public key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The raw public key, base64url without padding.
    pub fn public_key(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// The `device` of `connect`.
    pub(crate) fn prove(&self, parts: &SignedParts<'_>) -> Value {
        let scopes: Vec<&str> = parts.scopes.iter().map(String::as_str).collect();
        let fields = ProofFields {
            device_id: &self.id,
            client_id: parts.client_id,
            client_mode: parts.client_mode,
            role: parts.role,
            scopes: &scopes,
            signed_at: parts.signed_at,
            token: parts.token,
            nonce: parts.nonce,
            platform: parts.platform,
            device_family: "",
        };
        let signature = self.pair.sign(fields.text(ProofVersion::V3).as_bytes());
        json!({
            "id": self.id,
            "publicKey": self.public_key(),
            "signature": URL_SAFE_NO_PAD.encode(signature.as_ref()),
            "signedAt": parts.signed_at,
            "nonce": parts.nonce,
        })
    }
}

/// A token that a gateway gave this device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceToken {
    /// The token.
    pub token: String,
    /// The role that it is for.
    pub role: String,
    /// The scopes that the connection had which it came with.
    pub scopes: Vec<String>,
    /// When it was made, milliseconds since the Unix epoch.
    pub issued_at_ms: u64,
}

impl fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceToken({}, {:?})", self.role, self.scopes)
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenFile {
    version: u32,
    device_id: String,
    /// Tokens as an operator, by address.
    gateways: BTreeMap<String, DeviceToken>,
    /// Tokens as a node, by address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nodes: BTreeMap<String, DeviceToken>,
    /// The only certificates that the gateway at an address may show.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pins: BTreeMap<String, Vec<String>>,
}

impl TokenFile {
    fn tokens(&mut self, role: &str) -> &mut BTreeMap<String, DeviceToken> {
        match role {
            NODE => &mut self.nodes,
            _ => &mut self.gateways,
        }
    }
}

/// The identity and the tokens of one directory.
#[derive(Debug)]
pub struct DeviceStore {
    dir: PathBuf,
    identity: Arc<DeviceIdentity>,
}

impl DeviceStore {
    /// Opens a directory; what is missing is made.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let dir = dir.into();
        let identity = DeviceIdentity::load_or_make(&dir)?.into();
        Ok(Self { dir, identity })
    }

    /// Opens a directory that has an identity.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn existing(dir: impl Into<PathBuf>) -> Result<Option<Self>, IdentityError> {
        let dir = dir.into();
        let found = DeviceIdentity::load(&dir)?;
        Ok(found.map(|identity| Self {
            dir,
            identity: identity.into(),
        }))
    }

    /// The identity.
    pub fn identity(&self) -> &Arc<DeviceIdentity> {
        &self.identity
    }

    fn file(&self) -> Result<TokenFile, IdentityError> {
        let path = self.dir.join(TOKEN_FILE);
        let found = read(&path)?
            .and_then(|text| serde_json::from_str::<TokenFile>(&text).ok())
            // Tokens of another key are worth nothing, and so are those of a file that cannot be read.
            .filter(|file| file.device_id == self.identity.id);
        Ok(found.unwrap_or_else(|| TokenFile {
            version: 1,
            device_id: self.identity.id.clone(),
            ..TokenFile::default()
        }))
    }

    /// The token for the gateway at this address, as an operator.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn token(&self, url: &str) -> Result<Option<DeviceToken>, IdentityError> {
        self.token_as(url, "operator")
    }

    /// The token for the gateway at this address in a role, `operator` or `node`.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn token_as(&self, url: &str, role: &str) -> Result<Option<DeviceToken>, IdentityError> {
        Ok(self.file()?.tokens(role).remove(url))
    }

    /// Keeps the token for an address, as that of its role; `None` forgets the one as an operator. What is kept already is not
    /// written again.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn keep(&self, url: &str, token: Option<DeviceToken>) -> Result<(), IdentityError> {
        let mut file = self.file()?;
        let role = token.as_ref().map_or("operator", |t| &*t.role).to_owned();
        let kept = file.tokens(&role);
        if kept.get(url) == token.as_ref() {
            return Ok(());
        }
        match token {
            Some(token) => {
                while kept.len() >= MAX_KEPT_DEVICE_TOKENS && !kept.contains_key(url) {
                    let oldest = kept.iter().min_by_key(|(_, t)| t.issued_at_ms);
                    let Some(oldest) = oldest.map(|(url, _)| url.clone()) else {
                        break;
                    };
                    kept.remove(&oldest);
                }
                kept.insert(url.to_owned(), token);
            }
            None => drop(kept.remove(url)),
        }
        self.write(file)
    }

    /// The only certificates that gateways may show, by address: what a setup code said, and what the gateway announced since.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn pins(&self) -> Result<BTreeMap<String, Vec<CertPin>>, IdentityError> {
        let file = self.file()?;
        Ok(file
            .pins
            .into_iter()
            .map(|(url, pins)| {
                // One that cannot be read still says that not every certificate will do: it stands for none.
                let none = CertPin::new([0; 32]);
                let read = pins.iter().map(|pin| CertPin::parse(pin).unwrap_or(none));
                (url, read.collect())
            })
            .collect())
    }

    /// Keeps the certificates that the gateway at an address may show; none: any that public authorities vouch for.
    ///
    /// # Errors
    /// [`IdentityError`]
    pub fn keep_pins(&self, url: &str, pins: &[CertPin]) -> Result<(), IdentityError> {
        let mut file = self.file()?;
        let pins: Vec<String> = pins.iter().map(ToString::to_string).collect();
        if file.pins.get(url).map_or(&[][..], Vec::as_slice) == pins {
            return Ok(());
        }
        if pins.is_empty() {
            file.pins.remove(url);
        } else {
            file.pins.insert(url.to_owned(), pins);
        }
        self.write(file)
    }

    fn write(&self, mut file: TokenFile) -> Result<(), IdentityError> {
        // A pin without a token is for an address that nobody goes to any more.
        let (gateways, nodes) = (&file.gateways, &file.nodes);
        let known = |url: &String| gateways.contains_key(url) || nodes.contains_key(url);
        file.pins.retain(|url, _| known(url));
        let path = self.dir.join(TOKEN_FILE);
        let text = serde_json::to_string_pretty(&file).unwrap_or_default();
        place(&self.dir, &path, text.as_bytes(), false).map_err(|e| io_error(&path, &e))
    }
}

fn io_error(path: &Path, e: &io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.display().to_string(),
        why: e.to_string(),
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A small file; `None` where there is none. One that others can read is refused: what is in it is known to them.
fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, &e)),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file
            .metadata()
            .map_err(|e| io_error(path, &e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(IdentityError::Unfit {
                path: path.display().to_string(),
                why: "other users can read it (chmod 600 it, or remove it: a new one is made and has to be approved)",
            });
        }
    }
    let mut text = String::new();
    file.take(MAX_IDENTITY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| io_error(path, &e))?;
    Ok(Some(text))
}

/// Puts a file (0600) into its place, whole or not at all; with `fresh` only where there is none.
fn place(dir: &Path, path: &Path, bytes: &[u8], fresh: bool) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        builder.mode(0o700);
        options.mode(0o600);
    }
    builder.create(dir)?;
    let mut random = [0_u8; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system has no randomness"))?;
    let beside = dir.join(format!(".{}.new", URL_SAFE_NO_PAD.encode(random)));
    let placed = (|| {
        let mut file = options.open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if fresh {
            // A link does not replace what is there.
            std::fs::hard_link(&beside, path)
        } else {
            std::fs::rename(&beside, path)
        }
    })();
    if fresh || placed.is_err() {
        // It may not even have been made.
        let _ = std::fs::remove_file(&beside);
    }
    placed
}

fn pem(what: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {what}-----\n{}\n-----END {what}-----\n",
        STANDARD.encode(der)
    )
}

fn unpem(what: &str, text: &str) -> Option<Vec<u8>> {
    let body = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {what}-----"))?
        .strip_suffix(&format!("-----END {what}-----"))?;
    let body: String = body.split_whitespace().collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The signature of the protocol's test vector.
    #[test]
    fn the_vector_of_the_protocol() {
        let identity = DeviceIdentity::from_seed(&[7; 32]).unwrap();
        assert_eq!(
            identity.id(),
            "fe812c12f3ab4ce6ac5db69ac352f906cb1b11ef43fb33e252ef7ff552263889"
        );
        assert_eq!(
            identity.public_key(),
            "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw"
        );
        let scopes = ["operator.read", "operator.write"];
        let mut fields = ProofFields {
            device_id: identity.id(),
            client_id: "cli",
            client_mode: "cli",
            role: "operator",
            scopes: &scopes,
            signed_at: 1_737_264_000_000,
            token: "example-token",
            nonce: "11111111-2222-3333-4444-555555555555",
            platform: " Linux ",
            device_family: "LINUX",
        };
        let sign = |fields: &ProofFields<'_>, version| {
            let text = fields.text(version);
            URL_SAFE_NO_PAD.encode(identity.pair.sign(text.as_bytes()).as_ref())
        };
        assert_eq!(
            sign(&fields, ProofVersion::V3),
            "Fw2551oHBT7DRzZg1LltuC4TiXqsH5qGGNLf9l4NZnU3hWsdEbdZZ3nmGoiYdCUpnRED10OTKSNBKndRfBjuAg"
        );
        fields.platform = "not signed";
        assert_eq!(
            sign(&fields, ProofVersion::V2),
            "ySEprhshZwOxo3F-AQhgoXK5a6bjXyFsD36KACDy1DQK3Qw1OE-94zUJ3LiK_-yaPpYvBp8Efdk4NmpYmgOuDw"
        );
    }

    #[test]
    fn an_identity_stays_and_only_its_user_can_read_it() {
        let dir = std::env::temp_dir().join(format!("gateway-identity-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let store = DeviceStore::open(dir.join("client")).unwrap();
        let again = DeviceStore::open(dir.join("client")).unwrap();
        assert_eq!(store.identity().id(), again.identity().id());
        let token = DeviceToken {
            token: "t".to_owned(),
            role: "operator".to_owned(),
            scopes: vec!["operator.read".to_owned()],
            issued_at_ms: 1,
        };
        store.keep("wss://a/", Some(token.clone())).unwrap();
        assert_eq!(again.token("wss://a/").unwrap(), Some(token.clone()));
        assert_eq!(again.token("wss://b/").unwrap(), None);
        store.keep("wss://a/", None).unwrap();
        assert_eq!(again.token("wss://a/").unwrap(), None);
        for n in 0..MAX_KEPT_DEVICE_TOKENS + 5 {
            let issued_at_ms = u64::try_from(n).unwrap();
            let token = DeviceToken {
                issued_at_ms,
                ..token.clone()
            };
            store.keep(&format!("wss://{n}/"), Some(token)).unwrap();
        }
        assert_eq!(
            store.token("wss://0/").unwrap(),
            None,
            "the oldest made room"
        );
        assert_eq!(store.file().unwrap().gateways.len(), MAX_KEPT_DEVICE_TOKENS);
        // A role has a token of its own, and a pin goes with the last one.
        let pin = CertPin::new([7; 32]);
        let node = DeviceToken {
            role: NODE.to_owned(),
            ..token.clone()
        };
        store.keep("wss://n/", Some(node.clone())).unwrap();
        store.keep_pins("wss://n/", &[pin]).unwrap();
        store.keep_pins("wss://nobody/", &[pin]).unwrap();
        assert_eq!(store.token("wss://n/").unwrap(), None);
        assert_eq!(store.token_as("wss://n/", NODE).unwrap(), Some(node));
        let pins = BTreeMap::from([("wss://n/".to_owned(), vec![pin])]);
        assert_eq!(store.pins().unwrap(), pins);
        let path = dir.join("client").join(TOKEN_FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&pin.to_string(), "garbage")).unwrap();
        assert_eq!(
            store.pins().unwrap()["wss://n/"],
            [CertPin::new([0; 32])],
            "what cannot be read pins all the same"
        );
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            for name in [KEY_FILE, TOKEN_FILE] {
                let path = dir.join("client").join(name);
                let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode(&path) & 0o777, 0o600, "{name}");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            }
            assert!(matches!(
                DeviceStore::open(dir.join("client")),
                Err(IdentityError::Unfit { .. })
            ));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
