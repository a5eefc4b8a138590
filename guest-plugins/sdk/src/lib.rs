//! Small SDK for gateway guests in Rust.
//!
//! A guest is a crate of type `cdylib` for wasm32-unknown-unknown, two folders below the repository's root (so that `../../wit`
//! is the interface), with its logic in modules that know nothing of wasm and can be tested on the host, and one module
//! for wasm32 that joins them to the interface:
//!
//! ```ignore
//! #[cfg(target_arch = "wasm32")]
//! mod adapter {
//!     gateway_guest::channel!(Adapter);        // makes `bindings` and exports `Adapter`
//!     struct Adapter;
//!     impl bindings::exports::gateway::channel::adapter::Guest for Adapter { /* describe, init, on_event, send, edit, save */ }
//! }
//! ```
//!
//! An instance may be dropped after any call: keep nothing in memory that must last; use `kv`.

pub mod answer;
pub mod json;
pub mod text;

pub use serde_json;

#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub use wit_bindgen;

/// Makes the module `bindings` for world `channel` and exports a type as its adapter.
#[macro_export]
macro_rules! channel {
    ($adapter:ident) => {
        #[allow(missing_docs, clippy::all, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
        mod bindings {
            $crate::wit_bindgen::generate!({
                path: "../../wit",
                world: "channel",
                runtime_path: "::gateway_guest::wit_bindgen::rt",
                pub_export_macro: true,
                generate_all,
            });
        }
        bindings::export!($adapter with_types_in bindings);
    };
}

/// Makes the module `bindings` for world `boot-script` and exports a type as its script.
#[macro_export]
macro_rules! boot_script {
    ($script:ident) => {
        #[allow(missing_docs, clippy::all, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
        mod bindings {
            $crate::wit_bindgen::generate!({
                path: "../../wit",
                world: "boot-script",
                runtime_path: "::gateway_guest::wit_bindgen::rt",
                pub_export_macro: true,
                generate_all,
            });
        }
        bindings::export!($script with_types_in bindings);
    };
}
