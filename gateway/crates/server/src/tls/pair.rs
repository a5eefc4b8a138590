//! Reading a pair: everything that would make handshakes fail later is told at once, with the way out.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use gateway_protocol::CertPin;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{PairFiles, TlsError, der};
use crate::limits::{MAX_CERT_CHAIN, MAX_PEM_BYTES};

/// What a certificate says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// SHA-256 of its DER form; shown as lower-case hex.
    pub fingerprint: CertPin,
    /// Its subject, such as `CN=gateway`.
    pub subject: String,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// First moment of validity, Unix epoch ms.
    pub not_before_ms: i64,
    /// Last moment of validity, Unix epoch ms.
    pub not_after_ms: i64,
    /// Whether it vouches for itself: only a pin makes it trusted.
    pub self_signed: bool,
}

/// A checked pair, ready to be served.
#[derive(Clone)]
pub struct CertificatePair {
    /// What the leaf says.
    pub info: CertificateInfo,
    config: Arc<ServerConfig>,
    digest: [u8; 32],
}

// The configuration holds the key.
impl std::fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificatePair")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl CertificatePair {
    /// Reads and checks a pair.
    ///
    /// # Errors
    /// A missing or foreign-readable file, a key that is not of this certificate, a certificate out of its time.
    pub fn load(files: &PairFiles, now_ms: i64) -> Result<Self, TlsError> {
        both_there(files)?;
        private(&files.key)?;
        let cert_pem = read(&files.cert)?;
        let key_pem = read(&files.key)?;
        let chain = chain(&files.cert, &cert_pem)?;
        let leaf = chain
            .first()
            .ok_or_else(|| TlsError::new(&files.cert, "no certificate in it", PEM))?;
        let info = CertificateInfo::of(leaf)
            .ok_or_else(|| TlsError::new(&files.cert, "not an X.509 certificate", PEM))?;
        in_time(files, &info, now_ms)?;
        let key = key(&files.key, &key_pem)?;
        let config = server_config(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::new(
                &files.key,
                "this key does not belong to the certificate (the gateway's own certificate must be the first in its file)",
                "put the key of this certificate there, or both files of one pair",
            ),
            other => TlsError::new(
                &files.key,
                format!("certificate and key cannot be used ({other})"),
                "use a key of the kind ECDSA P-256, P-384, Ed25519 or RSA (2048 bits or more)",
            ),
        })?;
        let mut hash = Sha256::new();
        hash.update(&*cert_pem);
        hash.update(Sha256::digest(&*key_pem));
        Ok(Self {
            info,
            config: Arc::new(config),
            digest: hash.finalize().into(),
        })
    }

    /// What handshakes are made with. Sessions of another pair are not resumed with it.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether the files hold the same bytes.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl CertificateInfo {
    /// Reads a certificate in DER form; `None` if it is none.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let fields = der::read(certificate.as_ref())?;
        Some(Self {
            fingerprint: CertPin::new(Sha256::digest(certificate.as_ref()).into()),
            subject: fields.subject,
            names: fields.names,
            not_before_ms: fields.not_before_ms,
            not_after_ms: fields.not_after_ms,
            self_signed: fields.self_issued,
        })
    }

    /// The day (UTC) on which it ends, as `2036-11-23`.
    #[must_use]
    pub fn last_day(&self) -> String {
        time::OffsetDateTime::from_unix_timestamp(self.not_after_ms.div_euclid(1_000))
            .map_or_else(|_| "-".to_owned(), |at| at.date().to_string())
    }

    /// Reads the first certificate of a PEM file, whatever its date and wherever its key.
    ///
    /// # Errors
    /// If it cannot be read, or holds none.
    pub fn read(file: &Path) -> Result<Self, TlsError> {
        let pem = read(file)?;
        let chain = chain(file, &pem)?;
        chain
            .first()
            .and_then(Self::of)
            .ok_or_else(|| TlsError::new(file, "no certificate in it", PEM))
    }
}

const PEM: &str =
    "write the certificate chain in PEM (BEGIN CERTIFICATE), the gateway's own certificate first";

fn both_there(files: &PairFiles) -> Result<(), TlsError> {
    let next = "put both files of one pair there; where the gateway makes them itself, remove the other one too and it makes a new pair";
    match (files.cert.exists(), files.key.exists()) {
        (true, true) => Ok(()),
        (true, false) => Err(TlsError::new(
            &files.key,
            "the certificate is there, its key is not",
            next,
        )),
        (false, true) => Err(TlsError::new(
            &files.cert,
            "the key is there, its certificate is not",
            next,
        )),
        (false, false) => Err(TlsError::new(
            &files.cert,
            "there is neither certificate nor key",
            "put both files there; or leave gateway.tls.certPath, keyPath and autoGenerate out and the gateway makes a pair",
        )),
    }
}

/// A key that others can read (or replace) is no secret.
fn private(key: &Path) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(key)
        .map_err(|e| unreadable(key, &e))?
        .permissions()
        .mode();
    if mode & 0o027 != 0 {
        return Err(TlsError::new(
            key,
            format!(
                "other users can read or change this key (mode {:04o})",
                mode & 0o7777
            ),
            format!(
                "chmod 600 {}; if others could read it, make a new one",
                key.display()
            ),
        ));
    }
    Ok(())
}

fn unreadable(file: &Path, error: &std::io::Error) -> TlsError {
    TlsError::new(
        file,
        format!("cannot be read ({error})"),
        "check the path and the permissions",
    )
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let meta = std::fs::metadata(file).map_err(|e| unreadable(file, &e))?;
    if !meta.is_file() {
        return Err(TlsError::new(file, "not a regular file", PEM));
    }
    let mut bytes = Zeroizing::new(Vec::new());
    std::fs::File::open(file)
        .and_then(|f| f.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| unreadable(file, &e))?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(TlsError::new(
            file,
            format!("larger than {MAX_PEM_BYTES} bytes"),
            PEM,
        ));
    }
    Ok(bytes)
}

fn chain(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERT_CHAIN + 1)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::new(file, format!("not PEM ({e})"), PEM))?;
    if chain.len() > MAX_CERT_CHAIN {
        return Err(TlsError::new(
            file,
            format!("more than {MAX_CERT_CHAIN} certificates"),
            "leave out what is not of the gateway's own chain",
        ));
    }
    Ok(chain)
}

fn key(file: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let encrypted = pem.windows(9).any(|w| w == b"ENCRYPTED");
        match error {
            _ if encrypted => TlsError::new(
                file,
                "this key is encrypted; the gateway has nobody to ask for its passphrase",
                "write it without: openssl pkey -in OLD -out NEW, then chmod 600 NEW",
            ),
            pem::Error::NoItemsFound => TlsError::new(
                file,
                "no private key in it",
                "write the key in PEM: PKCS#8 (BEGIN PRIVATE KEY), SEC1 or PKCS#1",
            ),
            // What the parser says may repeat bytes of the file.
            _ => TlsError::new(
                file,
                "not a PEM file",
                "write the key in PEM: PKCS#8 (BEGIN PRIVATE KEY), SEC1 or PKCS#1",
            ),
        }
    })
}

fn in_time(files: &PairFiles, info: &CertificateInfo, now_ms: i64) -> Result<(), TlsError> {
    if now_ms > info.not_after_ms {
        return Err(TlsError::new(
            &files.cert,
            "the certificate has expired",
            "put a renewed pair there; one that the gateway made: gateway tls rotate --now",
        ));
    }
    if now_ms < info.not_before_ms {
        return Err(TlsError::new(
            &files.cert,
            "the certificate is not valid yet",
            "check the clock of this machine, or use the pair that is valid now",
        ));
    }
    Ok(())
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
