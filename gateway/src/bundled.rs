//! Plugins that the program carries in itself, where it is built with the feature `bundled`.

use gateway_wasm::Bundled;

/// Id, manifest, component.
type Carried = (&'static str, &'static [u8], &'static [u8]);

#[cfg(feature = "bundled")]
const CARRIED: &[Carried] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));
#[cfg(not(feature = "bundled"))]
const CARRIED: &[Carried] = &[];

/// The plugins that this program carries: those of the release, none in a build without the feature `bundled`.
#[must_use]
pub fn bundled_plugins() -> Vec<Bundled> {
    CARRIED
        .iter()
        .map(|(id, manifest, wasm)| Bundled {
            id: (*id).into(),
            manifest: (*manifest).into(),
            wasm: (*wasm).into(),
        })
        .collect()
}
