//! What a device signs to prove its identity in `connect`: one text per version, so that both sides build the same bytes.

use crate::limits::DEVICE_SIGNATURE_SKEW_MS;

/// Version of the signed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofVersion {
    /// Without platform and device family.
    V2,
    /// With platform and device family, so that neither can be changed on the way.
    V3,
}

impl ProofVersion {
    /// All, in the order in which a gateway tries them.
    pub const ORDER: [ProofVersion; 2] = [ProofVersion::V3, ProofVersion::V2];
}

/// The fields that a signature binds together.
#[derive(Clone, Copy, Debug)]
pub struct ProofFields<'a> {
    /// Lower-case hex SHA-256 of the raw public key.
    pub device_id: &'a str,
    /// `client.id`
    pub client_id: &'a str,
    /// `client.mode`
    pub client_mode: &'a str,
    /// The role, after the default.
    pub role: &'a str,
    /// Scopes in the order in which they are sent.
    pub scopes: &'a [&'a str],
    /// Milliseconds since the Unix epoch.
    pub signed_at: u64,
    /// `auth.token`, else `auth.deviceToken`, else `auth.bootstrapToken`, else empty. A password is never signed.
    pub token: &'a str,
    /// The nonce of the challenge.
    pub nonce: &'a str,
    /// `client.platform`
    pub platform: &'a str,
    /// `client.deviceFamily`, or empty.
    pub device_family: &'a str,
}

impl ProofFields<'_> {
    /// The text that is signed, as UTF-8.
    pub fn text(&self, version: ProofVersion) -> String {
        let head = match version {
            ProofVersion::V2 => "v2",
            ProofVersion::V3 => "v3",
        };
        let scopes = self.scopes.join(",");
        let signed_at = self.signed_at.to_string();
        let mut fields = vec![
            head,
            self.device_id,
            self.client_id,
            self.client_mode,
            self.role,
            &scopes,
            &signed_at,
            self.token,
            self.nonce,
        ];
        let (platform, family) = (plain(self.platform), plain(self.device_family));
        if version == ProofVersion::V3 {
            fields.extend([&*platform, &*family]);
        }
        fields.join("|")
    }
}

/// Platform and device family as they are signed and compared: trimmed, ASCII letters in lower case, everything else as it is
/// (so that no look-alike of another script becomes equal to a known name).
pub fn plain(text: &str) -> String {
    text.trim().to_ascii_lowercase()
}

/// Whether a signature of `signed_at` is fresh at `now_ms` (both milliseconds since the Unix epoch).
pub fn is_fresh(signed_at: u64, now_ms: i64) -> bool {
    let now = u64::try_from(now_ms).unwrap_or(0);
    now.abs_diff(signed_at) <= DEVICE_SIGNATURE_SKEW_MS
}
