//! An answer of an upstream as bytes; what must hold is in `src/http1.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::http1::check(data));
