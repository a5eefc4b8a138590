//! A secret value that cannot be printed by accident.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A resolved secret. `Debug` shows only the word `Secret`; there is no `Display`, no `Serialize` and no `==`
/// (secrets are compared as hashes, see [`Secret::digest`]). The bytes are overwritten when the last clone is
/// dropped (best effort: copies made by [`Secret::expose`] callers are theirs).
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a value. The caller's own copy is moved in, not duplicated.
    pub fn new(value: String) -> Self {
        Self(Arc::new(Zeroizing::new(value)))
    }

    /// The clear value. Call it only where the value is put on a wire or hashed.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the UTF-8 bytes: fixed size, so it can be compared in constant time.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for the empty string (which `load` never lets through).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
