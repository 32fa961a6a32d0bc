//! A file of audio: it has a length, one that cannot be read is as long as its bytes may be, and whatever follows a file
//! makes it no shorter.

use tollgate::endpoint::audio::{LEAST_BIT_RATE, read};

/// Whole files, one of each format.
const WHOLE: [&[u8]; 6] = [
    include_bytes!("../../tests/audio/memo.m4a"),
    include_bytes!("../../tests/audio/memo.mp3"),
    include_bytes!("../../tests/audio/plain.wav"),
    include_bytes!("../../tests/audio/memo.flac"),
    include_bytes!("../../tests/audio/memo.opus"),
    include_bytes!("../../tests/audio/memo.webm"),
];

/// Tries a file.
///
/// # Panics
/// It breaks a promise.
pub fn check(file: &[u8]) {
    has_a_length(file);
    let dice = super::Dice::of(file).below(6);
    let whole = WHOLE[usize::try_from(dice).expect("small")];
    let longer = [whole, file].concat();
    has_a_length(&longer);
    let (before, after) = (read(whole), read(&longer));
    assert!(before.seconds <= after.seconds, "{before:?} {after:?}");
}

fn has_a_length(file: &[u8]) {
    let read = read(file);
    assert!(read.seconds >= 1);
    let bits = u64::try_from(file.len()).expect("small") * 8;
    assert!(read.is_counted || read.seconds >= bits / LEAST_BIT_RATE);
}
