//! See `gateway_fuzz::session_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway_fuzz::session_key(bytes));
