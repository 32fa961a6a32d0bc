//! A streamed response; what must hold is in `src/responses.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::responses::check(data));
