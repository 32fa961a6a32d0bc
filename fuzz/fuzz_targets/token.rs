//! A bearer token of any form; what must hold is in `src/token.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::token::check(data));
