//! The width and height of an image, from the headers of its base64. Pure.
//!
//! Nothing is decoded but those headers: a few bytes here and there, at most [`STEPS_MAX`] steps from one block of the
//! file to the next. Where a format says a size in two places, readers differ in which they believe: the larger counts.
//! A rotation (EXIF) swaps the sides; no rule of any model tells them apart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How many blocks of a file are stepped over before its size has to be found.
const STEPS_MAX: usize = 4096;

/// Width and height in pixels, neither of them zero.
pub type Size = (u64, u64);

/// The size of a PNG, JPEG, WebP or GIF. A HEIC is read too: apps are seen to send one under the name of a JPEG.
#[must_use]
pub fn size(encoded: &str) -> Option<Size> {
    size_of(File::Encoded(encoded.as_bytes()))
}

/// The same of a file as it is.
#[must_use]
pub fn size_of_file(file: &[u8]) -> Option<Size> {
    size_of(File::Plain(file))
}

fn size_of(file: File<'_>) -> Option<Size> {
    let head: [u8; 12] = file.read(0).or_else(|| Some(pad(file.read::<10>(0)?)))?;
    let size = match head {
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => png(file),
        [0xFF, 0xD8, ..] => jpeg(file),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif(file),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P'] => webp(file),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => heif(file),
        _ => None,
    };
    size.filter(|(width, height)| *width > 0 && *height > 0)
}

fn pad(head: [u8; 10]) -> [u8; 12] {
    let mut padded = [0; 12];
    padded
        .iter_mut()
        .zip(head)
        .for_each(|(to, from)| *to = from);
    padded
}

/// A file, of which any piece can be read.
#[derive(Clone, Copy)]
enum File<'a> {
    /// In padded base64.
    Encoded(&'a [u8]),
    Plain(&'a [u8]),
}

impl File<'_> {
    /// `N` bytes (at most 30) from a place on.
    fn read<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let encoded = match self {
            Self::Encoded(encoded) => encoded,
            Self::Plain(file) => return file.get(at..)?.first_chunk().copied(),
        };
        let (first, skipped) = ((at / 3).checked_mul(4)?, at % 3);
        let quads = skipped.saturating_add(N).div_ceil(3);
        let end = first.checked_add(quads.checked_mul(4)?)?.min(encoded.len());
        let mut decoded = [0; 33];
        let length = STANDARD
            .decode_slice(encoded.get(first..end)?, &mut decoded)
            .ok()?;
        decoded
            .get(..length)?
            .get(skipped..)?
            .first_chunk()
            .copied()
    }
}

fn u16be(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_be_bytes(bytes))
}

fn u16le(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_le_bytes(bytes))
}

fn u32be(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_be_bytes(bytes))
}

/// Three bytes, the least first.
fn u24le([a, b, c]: [u8; 3]) -> u64 {
    u64::from(u32::from_le_bytes([a, b, c, 0]))
}

fn larger((width, height): Size, (other_width, other_height): Size) -> Size {
    (width.max(other_width), height.max(other_height))
}

/// The first block has to be the header.
fn png(file: File<'_>) -> Option<Size> {
    let [b'I', b'H', b'D', b'R'] = file.read(12)? else {
        return None;
    };
    Some((u32be(file.read(16)?), u32be(file.read(20)?)))
}

/// The screen, or the first frame, which may be larger and then widens it.
fn gif(file: File<'_>) -> Option<Size> {
    let screen = (u16le(file.read(6)?), u16le(file.read(8)?));
    let [flags] = file.read(10)?;
    let colors = if flags & 0x80 == 0 {
        0_usize
    } else {
        3 << ((flags & 7).saturating_add(1))
    };
    let mut at = colors.saturating_add(13);
    for _ in 0..STEPS_MAX {
        match file.read(at)? {
            [b'!', _] => at = after_blocks(file, at.saturating_add(2))?,
            [b',', _] => {
                let [left, top, width, height] =
                    [1, 3, 5, 7].map(|field| file.read(at.saturating_add(field)).map(u16le));
                let frame = (left?.saturating_add(width?), top?.saturating_add(height?));
                return Some(larger(screen, frame));
            }
            _ => return None,
        }
    }
    None
}

/// What follows a chain of blocks, each with its length in front, the last one empty.
fn after_blocks(file: File<'_>, mut at: usize) -> Option<usize> {
    for _ in 0..STEPS_MAX {
        let [length] = file.read(at)?;
        at = at.saturating_add(1).saturating_add(usize::from(length));
        if length == 0 {
            return Some(at);
        }
    }
    None
}

/// The frame's header (SOF). Thumbnails are within other segments, which are stepped over whole.
fn jpeg(file: File<'_>) -> Option<Size> {
    let mut at = 2_usize;
    for _ in 0..STEPS_MAX {
        match file.read(at)? {
            [0xFF, 0xFF] => at = at.saturating_add(1),
            // Without a length: restarts and a lone 01.
            [0xFF, 0x01 | 0xD0..=0xD8] => at = at.saturating_add(2),
            [0xFF, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF] => {
                return Some((
                    u16be(file.read(at.saturating_add(7))?),
                    u16be(file.read(at.saturating_add(5))?),
                ));
            }
            // The image's data or its end, before any frame.
            [0xFF, 0xD9 | 0xDA] => return None,
            [0xFF, _] => {
                let length = usize::from(u16::from_be_bytes(file.read(at.saturating_add(2))?));
                at = at.saturating_add(2).saturating_add(length);
            }
            _ => return None,
        }
    }
    None
}

/// The canvas of the extended form, or the bitstream's own size.
fn webp(file: File<'_>) -> Option<Size> {
    let mut at = 12_usize;
    let mut canvas = (0, 0);
    for _ in 0..STEPS_MAX {
        let kind: [u8; 4] = file.read(at)?;
        let body = at.saturating_add(8);
        let field = |offset: usize| body.saturating_add(offset);
        match &kind {
            b"VP8X" => {
                let side = |offset| Some(u24le(file.read(field(offset))?).saturating_add(1));
                canvas = larger(canvas, (side(4)?, side(7)?));
            }
            b"VP8 " => {
                let [0x9D, 0x01, 0x2A] = file.read(field(3))? else {
                    return None;
                };
                let side = |offset| Some(u16le(file.read(field(offset))?) & 0x3FFF);
                return Some(larger(canvas, (side(6)?, side(8)?)));
            }
            b"VP8L" => {
                let bits = u32::from_le_bytes(file.read(field(1))?);
                let side = |shift: u32| u64::from(bits >> shift & 0x3FFF).saturating_add(1);
                return Some(larger(canvas, (side(0), side(14))));
            }
            // An animation: its frames are within the canvas.
            b"ANMF" => return Some(canvas),
            _ => {}
        }
        let length = usize::try_from(u32::from_le_bytes(file.read(at.saturating_add(4))?)).ok()?;
        at = body.saturating_add(length).saturating_add(length & 1);
    }
    None
}

/// The largest of the sizes of the images within: the whole of a photo, whose tiles and thumbnail are smaller.
fn heif(file: File<'_>) -> Option<Size> {
    let meta = find_box(file, (0, usize::MAX), *b"meta")?;
    let properties = find_box(file, (meta.0.saturating_add(4), meta.1), *b"iprp")?;
    let container = find_box(file, properties, *b"ipco")?;
    let (mut at, end) = container;
    let mut largest = None;
    for _ in 0..STEPS_MAX {
        if at >= end {
            break;
        }
        let Some((kind, body, next)) = next_box(file, at) else {
            break;
        };
        if kind == *b"ispe" {
            let size = (
                u32be(file.read(body.saturating_add(4))?),
                u32be(file.read(body.saturating_add(8))?),
            );
            largest = Some(larger(size, largest.unwrap_or_default()));
        }
        at = next;
    }
    largest
}

/// Where the body of the first box of a kind begins and ends, within the body of another.
fn find_box(
    file: File<'_>,
    (mut at, end): (usize, usize),
    wanted: [u8; 4],
) -> Option<(usize, usize)> {
    for _ in 0..STEPS_MAX {
        if at >= end {
            return None;
        }
        let (kind, body, next) = next_box(file, at)?;
        if kind == wanted {
            return Some((body, next));
        }
        at = next;
    }
    None
}

/// The kind of a box, where its body begins and where it ends. One that goes on to the end of the file, or has a length of
/// 64 bits, holds the image's data: what is looked for stands before it.
fn next_box(file: File<'_>, at: usize) -> Option<([u8; 4], usize, usize)> {
    let length = usize::try_from(u32be(file.read(at)?))
        .ok()
        .filter(|length| *length >= 8)?;
    Some((
        file.read(at.saturating_add(4))?,
        at.saturating_add(8),
        at.saturating_add(length),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 403 × 302 pixels each, written by Pillow.
    const FILES: [(&str, &[u8]); 9] = [
        ("png", include_bytes!("images/plain.png")),
        ("jpeg", include_bytes!("images/plain.jpg")),
        ("progressive jpeg", include_bytes!("images/progressive.jpg")),
        (
            "jpeg with a thumbnail of 160 × 120 in its EXIF",
            include_bytes!("images/thumbnail.jpg"),
        ),
        ("gif", include_bytes!("images/plain.gif")),
        ("lossy webp", include_bytes!("images/lossy.webp")),
        ("lossless webp", include_bytes!("images/lossless.webp")),
        ("animated webp", include_bytes!("images/animated.webp")),
        ("heic", include_bytes!("images/photo.heic")),
    ];

    fn of(file: &[u8]) -> Option<Size> {
        size(&STANDARD.encode(file))
    }

    #[test]
    fn the_size_of_each_kind_is_the_real_one() {
        for (kind, file) in FILES {
            // A HEIC is coded with even sides.
            let width = if kind == "heic" { 404 } else { 403 };
            assert_eq!(of(file), Some((width, 302)), "{kind}");
        }
    }

    #[test]
    fn a_file_without_its_header_has_no_size() {
        for (kind, file) in FILES {
            let cut = file.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(of(&file[..cut.min(15)]), None, "{kind}");
        }
        for file in [
            &b""[..],
            b"<svg width=\"1\" height=\"1\"/>",
            b"\x89PNG\r\n\x1a\n",
            b"\xFF\xD8\xFF\xDA\0\0\0\0",
            b"BM",
        ] {
            assert_eq!(of(file), None, "{file:?}");
        }
        let nothing = [&b"\x89PNG\r\n\x1a\n\0\0\0\x0DIHDR"[..], &[0; 8]].concat();
        assert_eq!(of(&nothing), None, "no pixels");
    }

    #[test]
    fn of_two_sizes_the_larger_counts() {
        // A screen of 1 × 1, a frame of 5000 × 4000 at 0, 0.
        let gif = b"GIF89a\x01\0\x01\0\0\0\0!\xFE\x02ab\0,\0\0\0\0\x88\x13\xA0\x0F\0";
        assert_eq!(of(gif), Some((5000, 4000)));
        // Two canvases, of 400 × 256 and of 1 × 1; readers differ in which they believe.
        let canvas = |[width, height]: [u8; 2]| {
            [&b"VP8X\x0A\0\0\0\0\0\0\0"[..], &[width, 1, 0, height, 0, 0]].concat()
        };
        let small = b"VP8X\x0A\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        let head = b"RIFF\xFF\0\0\0WEBP".to_vec();
        let end = b"ANMF\0\0\0\0".to_vec();
        let webp = [head, canvas([143, 255]), small, end].concat();
        assert_eq!(of(&webp), Some((400, 256)));
    }

    #[test]
    fn a_file_of_many_small_blocks_is_given_up() {
        let jpeg = [&b"\xFF\xD8"[..], &b"\xFF\xE0\0\x02".repeat(1_000_000)].concat();
        assert_eq!(of(&jpeg), None);
        let filled = [&b"\xFF\xD8"[..], &b"\xFF".repeat(1_000_000)].concat();
        assert_eq!(of(&filled), None);
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_reader(
            which in 0..FILES.len(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            length in any::<prop::sample::Index>(),
        ) {
            let mut file = FILES[which].1.to_vec();
            for (at, byte) in cuts {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file.truncate(length.index(file.len()).saturating_add(1));
            let _size = of(&file);
            let _size = size(&String::from_utf8_lossy(&file));
            prop_assert_eq!(size_of_file(&file), of(&file));
        }
    }
}
