//! A file of audio, and how long it is; what must hold is in `src/audio.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::audio::check(data));
