//! Making a pair, and putting the next one in the place of the one that is served.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use gateway_config::durable::{self, Existing};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{CERT_FILE, CertificateInfo, CertificatePair, KEY_FILE, PairFiles, TlsError};
use super::{next_dir, own_dir};
use crate::limits::{CERT_DAYS, MAX_CERT_NAMES};

const MS_PER_DAY: i64 = 86_400_000;

/// What a certificate that we make is for. A client that pins does not look at it; one that was told to trust it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateNames {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl CertificateNames {
    /// `localhost` and loopback, this machine's name, the host names that `settings` answer (those of tenants stay out:
    /// whoever connects sees the certificate), and the addresses that are listened on.
    #[must_use]
    pub fn of(settings: &gateway_config::GatewaySettings, bind: IpAddr) -> Self {
        let mut all = Self::default();
        all.names.insert("localhost".to_owned());
        all.names.extend(settings.allowed_hosts.iter().cloned());
        if let Some(host) = host_name() {
            all.names.insert(format!("{host}.local"));
            all.names.insert(host);
        }
        all.addresses.insert(IpAddr::from([127, 0, 0, 1]));
        all.addresses
            .insert(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
        if bind.is_unspecified() {
            // Without them the certificate is for names only.
            let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
            all.addresses
                .extend(interfaces.iter().map(if_addrs::Interface::ip));
        } else {
            all.addresses.insert(bind);
        }
        all
    }

    fn subject_alt_names(&self) -> Vec<SanType> {
        let names = self.names.iter().filter_map(|name| {
            Ia5String::try_from(name.as_str())
                .ok()
                .map(SanType::DnsName)
        });
        let addresses = self.addresses.iter().map(|ip| SanType::IpAddress(*ip));
        names.chain(addresses).take(MAX_CERT_NAMES).collect()
    }
}

/// The first label of this machine's name, in lower case, if it can stand in a host name.
pub(crate) fn host_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let label = name.split('.').next()?.to_ascii_lowercase();
    let sound = (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-');
    sound.then_some(label)
}

/// Makes the pair of a state directory if both of its files are missing; `false` if something is there already.
/// A change of pairs that was cut off is finished first.
///
/// # Errors
/// A folder that cannot be written.
pub fn make_own(state_dir: &Path, names: &CertificateNames, now_ms: i64) -> Result<bool, TlsError> {
    let own = PairFiles::own(state_dir);
    if own.cert.exists() || own.key.exists() {
        return Ok(false);
    }
    if PairFiles::next(state_dir).key.exists() && !own_dir(state_dir).exists() {
        finish_next(state_dir, now_ms)?;
        return Ok(false);
    }
    make(&own_dir(state_dir), names, now_ms)
}

/// Makes the pair that is to be served next, if there is none; what it is.
///
/// # Errors
/// A folder that cannot be written, or a prepared pair that is not sound.
pub fn prepare_next(
    state_dir: &Path,
    names: &CertificateNames,
    now_ms: i64,
) -> Result<CertificateInfo, TlsError> {
    make(&next_dir(state_dir), names, now_ms)?;
    CertificatePair::load(&PairFiles::next(state_dir), now_ms).map(|pair| pair.info)
}

/// Puts the prepared pair in the place of the served one; a running gateway takes it up by itself.
///
/// # Errors
/// No prepared pair, one that is not sound, or folders that cannot be renamed. What is served stays then.
pub fn finish_next(state_dir: &Path, now_ms: i64) -> Result<CertificateInfo, TlsError> {
    let (own, next) = (own_dir(state_dir), next_dir(state_dir));
    let files = PairFiles::next(state_dir);
    if !files.cert.exists() && !files.key.exists() {
        return Err(TlsError::new(
            &files.cert,
            "no certificate was prepared",
            "gateway tls rotate",
        ));
    }
    let pair = CertificatePair::load(&files, now_ms)?;
    let refuse = |e: io::Error| unwritable(&own, &e);
    let old = if own.exists() {
        let old = beside(&own, "old").map_err(refuse)?;
        std::fs::rename(&own, &old).map_err(refuse)?;
        Some(old)
    } else {
        None
    };
    // Cut off here, the next start (and the next `rotate --finish`) finds the place empty and goes on.
    std::fs::rename(&next, &own).map_err(refuse)?;
    sync_parent(&own).map_err(refuse)?;
    if let Some(old) = old {
        // A key that nothing uses any more; one that stays is as private as it was.
        let _ = std::fs::remove_dir_all(old);
    }
    Ok(pair.info)
}

/// Writes a new pair into a folder beside `dir` and renames that: both files appear at once, or none does.
fn make(dir: &Path, names: &CertificateNames, now_ms: i64) -> Result<bool, TlsError> {
    let files = PairFiles::in_dir(dir);
    if files.cert.exists() || files.key.exists() {
        return Ok(false);
    }
    let refuse = |e: io::Error| unwritable(dir, &e);
    let (cert, key) = self_signed(names, now_ms).map_err(|e| {
        TlsError::new(
            dir,
            format!("no certificate could be made ({e})"),
            "report this",
        )
    })?;
    if let Some(parent) = dir.parent() {
        durable::create_dirs(parent).map_err(refuse)?;
    }
    let temp = beside(dir, "tmp").map_err(refuse)?;
    let placed = (|| {
        durable::create_dirs(&temp)?;
        durable::write(&temp.join(KEY_FILE), key.as_bytes(), Existing::Keep)?;
        durable::write(&temp.join(CERT_FILE), cert.as_bytes(), Existing::Keep)?;
        std::fs::rename(&temp, dir)?;
        sync_parent(dir)
    })();
    match placed {
        Ok(()) => Ok(true),
        Err(error) => {
            // Another start may have been faster; its pair is as good.
            let _ = std::fs::remove_dir_all(&temp);
            if files.cert.exists() && files.key.exists() {
                return Ok(false);
            }
            Err(refuse(error))
        }
    }
}

fn self_signed(
    names: &CertificateNames,
    now_ms: i64,
) -> Result<(String, Zeroizing<String>), rcgen::Error> {
    let at = |ms: i64| {
        OffsetDateTime::from_unix_timestamp(ms.div_euclid(1_000))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    // ECDSA P-256: what every client of the last ten years takes.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.subject_alt_names();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "gateway");
    // A day back: clocks of clients differ.
    params.not_before = at(now_ms - MS_PER_DAY);
    params.not_after = at(now_ms + CERT_DAYS * MS_PER_DAY);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.self_signed(&key)?;
    Ok((
        pem("CERTIFICATE", cert.der()),
        Zeroizing::new(pem("PRIVATE KEY", key.serialized_der())),
    ))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 64);
    out.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A name beside `dir` that nothing has.
fn beside(dir: &Path, ending: &str) -> io::Result<PathBuf> {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let random = u64::from_be_bytes(random);
    Ok(dir.with_file_name(format!(".{name}.{random:016x}.{ending}")))
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn unwritable(dir: &Path, error: &io::Error) -> TlsError {
    TlsError::new(
        dir,
        format!("certificate and key cannot be put there ({error})"),
        "check the disk and the permissions; move other files out of this folder",
    )
}
