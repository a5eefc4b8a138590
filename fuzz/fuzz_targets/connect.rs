//! See `gateway_fuzz::connect`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway_fuzz::connect(bytes));
