//! An image whose size is wanted; what must hold is in `src/image_size.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::image_size::check(data));
