//! A form with files; what must hold is in `src/multipart.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::multipart::check(data));
