//! See `gateway_fuzz::manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway_fuzz::manifest(bytes));
