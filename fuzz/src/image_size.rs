//! The size of an image from its headers: the same in base64, never zero, never less than a plain reader finds, and no less
//! for whatever follows the image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tollgate::endpoint::image_size::{size, size_of_file};

/// Whole images, one of each format.
const WHOLE: [&[u8]; 7] = [
    include_bytes!("../../src/endpoint/images/plain.png"),
    include_bytes!("../../src/endpoint/images/plain.jpg"),
    include_bytes!("../../src/endpoint/images/plain.gif"),
    include_bytes!("../../src/endpoint/images/lossy.webp"),
    include_bytes!("../../src/endpoint/images/lossless.webp"),
    include_bytes!("../../src/endpoint/images/animated.webp"),
    include_bytes!("../../src/endpoint/images/photo.heic"),
];

/// Tries a file.
///
/// # Panics
/// It breaks a promise.
pub fn check(file: &[u8]) {
    let found = has_one_size(file);
    if let (Some((width, height)), Some((least_width, least_height))) = (found, plain(file)) {
        assert!(width >= least_width && height >= least_height, "{found:?}");
    }
    let dice = super::Dice::of(file).below(7);
    let whole = WHOLE[usize::try_from(dice).expect("small")];
    for (image, size) in [(whole, size_of_file(whole)), (file, found)] {
        let Some((width, height)) = size else {
            continue;
        };
        let longer = [image, file].concat();
        let Some((wider, higher)) = has_one_size(&longer) else {
            // The last box of a HEIC that was cut off goes on in what follows, and may be none there.
            assert_eq!(
                image.get(4..8),
                Some(&b"ftyp"[..]),
                "what had a size has one"
            );
            continue;
        };
        assert!(wider >= width && higher >= height, "{size:?}");
    }
}

/// The size by both ways of reading.
fn has_one_size(file: &[u8]) -> Option<(u64, u64)> {
    let found = size_of_file(file);
    assert_eq!(found, size(&STANDARD.encode(file)));
    assert!(found.is_none_or(|(width, height)| width > 0 && height > 0));
    found
}

/// What stands at fixed places: a PNG's header, the screen of a GIF, the canvas of a WebP.
fn plain(file: &[u8]) -> Option<(u64, u64)> {
    let big = |at: usize| {
        Some(u64::from(u32::from_be_bytes(
            *file.get(at..)?.first_chunk()?,
        )))
    };
    let short = |at: usize| {
        Some(u64::from(u16::from_le_bytes(
            *file.get(at..)?.first_chunk()?,
        )))
    };
    let three = |at: usize| {
        let [a, b, c] = *file.get(at..)?.first_chunk()?;
        Some(u64::from(u32::from_le_bytes([a, b, c, 0])) + 1)
    };
    if file.starts_with(b"\x89PNG") {
        Some((big(16)?, big(20)?))
    } else if file.starts_with(b"GIF8") {
        Some((short(6)?, short(8)?))
    } else if file.starts_with(b"RIFF") && file.get(8..16) == Some(b"WEBPVP8X") {
        Some((three(24)?, three(27)?))
    } else {
        None
    }
}
