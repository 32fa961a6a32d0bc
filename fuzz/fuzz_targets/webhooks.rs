//! A webhook of any form; what must hold is in `src/webhooks.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::webhooks::check(data));
