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

/// Makes the module `bindings` for world `channel` and exports a type as its adapter. Failed requests and refusals of platforms
/// ([`answer::Refused`]) turn into the interface's errors by `From`.
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

        impl From<$crate::answer::Refused> for bindings::exports::gateway::channel::adapter::Error {
            fn from(cause: $crate::answer::Refused) -> Self {
                use $crate::answer::Refused;
                match cause {
                    Refused::Auth(why) => Self::Auth(why),
                    Refused::RateLimited(ms) => Self::RateLimited(ms),
                    Refused::NotFound(why) => Self::NotFound(why),
                    Refused::TooLarge(why) => Self::TooLarge(why),
                    Refused::Invalid(why) => Self::Invalid(why),
                    Refused::Network(why) => Self::Network(why),
                    Refused::Internal(why) => Self::Internal(why),
                }
            }
        }

        impl From<&bindings::gateway::types::http_types::Fault> for $crate::answer::Refused {
            fn from(fault: &bindings::gateway::types::http_types::Fault) -> Self {
                use bindings::gateway::types::http_types::FaultKind;
                let why = fault.text.clone();
                match fault.kind {
                    FaultKind::Denied | FaultKind::Invalid => Self::Invalid(why),
                    FaultKind::TooLarge => Self::TooLarge(why),
                    FaultKind::Limit | FaultKind::Internal => Self::Internal(why),
                    FaultKind::Dns
                    | FaultKind::Connect
                    | FaultKind::Tls
                    | FaultKind::Timeout
                    | FaultKind::Protocol
                    | FaultKind::Interrupted => Self::Network(why),
                }
            }
        }
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

/// Makes the module `bindings` for world `hook` and exports a type as its policy.
#[macro_export]
macro_rules! hook {
    ($policy:ident) => {
        #[allow(missing_docs, clippy::all, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
        mod bindings {
            $crate::wit_bindgen::generate!({
                path: "../../wit",
                world: "hook",
                runtime_path: "::gateway_guest::wit_bindgen::rt",
                pub_export_macro: true,
                generate_all,
            });
        }
        bindings::export!($policy with_types_in bindings);
    };
}
