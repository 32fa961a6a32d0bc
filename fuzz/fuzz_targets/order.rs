//! The body of a request; what must hold is in `src/order.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::order::check(data));
