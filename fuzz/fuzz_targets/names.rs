//! See `gateway_fuzz::names`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway_fuzz::names(bytes));
