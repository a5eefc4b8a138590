//! TLS for what goes out: rustls with ring, verification always on, no state shared between callers.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

pub use gateway_protocol::CertPin;

/// The pin of a certificate.
#[must_use]
pub fn pin_of(certificate: &CertificateDer<'_>) -> CertPin {
    CertPin::new(Sha256::digest(certificate.as_ref()).into())
}

/// The server showed another certificate than the pinned ones. Found inside of the TLS error by [`pin_mismatch`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate has the fingerprint sha256:{seen}, expected was {}", listed(.expected))]
pub struct PinMismatch {
    /// The pins that would have been accepted.
    pub expected: Vec<CertPin>,
    /// The pin of the certificate that was shown.
    pub seen: CertPin,
}

fn listed(pins: &[CertPin]) -> String {
    let pins: Vec<String> = pins.iter().map(|pin| format!("sha256:{pin}")).collect();
    pins.join(" or ")
}

/// The mismatch that made a handshake fail, if that was the reason.
#[must_use]
pub fn pin_mismatch(error: &std::io::Error) -> Option<&PinMismatch> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref()
        }
        _ => None,
    }
}

/// Whether a handshake failed because the certificate is not one that public roots vouch for under the wanted name.
#[must_use]
pub fn is_untrusted(error: &std::io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// A client configuration. With pins exactly these certificates are accepted as the server's own (the leaf; what else it
/// sends does not matter), also a self-signed one, of any name and date: the pin takes the place of authorities, names and
/// dates alike. Without, the chain must end in a public root or one of `extra_roots`, and name and date must fit.
///
/// # Errors
/// If an extra root is no certificate.
pub fn client_config(
    pins: &[CertPin],
    extra_roots: &[CertificateDer<'static>],
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let mut config = if pins.is_empty() {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for root in extra_roots {
            roots.add(root.clone())?;
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let pins = pins.to_vec();
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinVerifier { pins, provider }))
            .with_no_client_auth()
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session ticket would let a server link two tenants to one another.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct PinVerifier {
    pins: Vec<CertPin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = pin_of(end_entity);
        if self.pins.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = PinMismatch {
            expected: self.pins.clone(),
            seen,
        };
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(
            OtherError(Arc::new(mismatch)),
        )))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
