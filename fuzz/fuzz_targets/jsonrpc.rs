//! See `gateway_fuzz::jsonrpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway_fuzz::jsonrpc(bytes));
