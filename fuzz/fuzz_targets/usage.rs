//! A whole answer, and what is charged for it; what must hold is in `src/usage.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::usage::check(data));
