//! A streamed answer; what must hold is in `src/stream.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::stream::check(data));
