use std::fs;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// A file of `tests/audio`, made by ffmpeg or sox.
fn file(name: &str) -> Vec<u8> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audio/");
    fs::read(format!("{directory}{name}")).unwrap()
}

/// Every file that is counted, and how long it is to the ear, in milliseconds.
const FILES: [(&str, AudioFormat, u64); 14] = [
    ("memo.m4a", AudioFormat::Mp4, 2500),
    ("fragments.mp4", AudioFormat::Mp4, 2500),
    ("lossless.m4a", AudioFormat::Mp4, 2500),
    ("video.mp4", AudioFormat::Mp4, 2500),
    ("plain.wav", AudioFormat::Wav, 1500),
    ("sox.wav", AudioFormat::Wav, 1250),
    ("memo.mp3", AudioFormat::Mp3, 2500),
    ("vbr.mp3", AudioFormat::Mp3, 2500),
    ("memo.flac", AudioFormat::Flac, 2500),
    ("flac.ogg", AudioFormat::Ogg, 2500),
    ("memo.opus", AudioFormat::Ogg, 2500),
    ("memo.ogg", AudioFormat::Ogg, 2500),
    ("memo.webm", AudioFormat::Webm, 2500),
    ("vorbis.webm", AudioFormat::Webm, 2500),
];

fn counted(file: &[u8]) -> u64 {
    let read = read(file);
    assert!(read.is_counted, "{read:?}");
    read.seconds
}

fn is_bounded(file: &[u8]) -> bool {
    let read = read(file);
    !read.is_counted && read.seconds >= count(file.len()).saturating_mul(8) / LEAST_BIT_RATE
}

#[test]
fn every_container_is_as_long_as_its_frames() {
    for (name, format, millis) in FILES {
        let file = file(name);
        let read = read(&file);
        assert_eq!((read.format, read.is_counted), (format, true), "{name}");
        assert_eq!(read.seconds, millis.div_ceil(1000), "{name}");
    }
    // Its length was not known when it was begun.
    assert_eq!(counted(&file("live.webm")), 3);
}

#[test]
fn what_is_counted_is_at_most_a_fifth_of_a_second_too_long() {
    for (name, format, millis) in FILES {
        let file = file(name);
        let span = match format {
            AudioFormat::Mp4 => mp4::span(&file),
            AudioFormat::Wav => wav::span(&file),
            AudioFormat::Mp3 => mp3::span(&file),
            AudioFormat::Flac => flac::span(&file),
            AudioFormat::Ogg => ogg::span(&file),
            AudioFormat::Webm => webm::span(&file),
            AudioFormat::Unknown => None,
        };
        let most = AudioSpan::of(millis + 200, 1000);
        let span = span.unwrap();
        assert!(
            span >= AudioSpan::of(millis, 1000) && span <= most,
            "{name}: {span:?}"
        );
    }
}

#[test]
fn what_cannot_be_read_is_bounded_by_its_bytes() {
    for bytes in [
        file("gsm.wav"),
        b"a text and no sound".repeat(100),
        b"RIFF\0\0\0\0WAVE".to_vec(),
        b"fLaC".repeat(40),
        b"OggS".repeat(40),
        b"\x1A\x45\xDF\xA3".repeat(40),
        b"\0\0\0\x08ftyp".repeat(40),
        b"ID3\x04\0\0\0\0\0\0".repeat(40),
        // AAC without a container begins nearly as MPEG audio does.
        [0xFF, 0xF1, 0x50, 0x80].repeat(100),
    ] {
        assert!(is_bounded(&bytes), "{:?}", read(&bytes));
    }
    assert_eq!(read(b"").seconds, 1);
}

#[test]
fn a_lower_claim_of_a_header_shortens_nothing() {
    // The number of samples in STREAMINFO.
    let mut flac = file("memo.flac");
    flac[22..26].fill(0);
    assert_eq!(counted(&flac), 3);
    // The length of RIFF's `data`, where more samples follow.
    let mut wav = file("sox.wav");
    let at = memchr::memmem::find(&wav, b"data").unwrap() + 4;
    wav[at..at + 4].copy_from_slice(&100_u32.to_le_bytes());
    assert!(counted(&wav) >= 2);
    wav[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(counted(&wav), 2, "to the end of the file");
    wav[at..at + 4].copy_from_slice(&0_u32.to_le_bytes());
    assert_eq!(counted(&wav), 2, "to the end of the file");
    // The durations of `mvhd`, `tkhd` and `mdhd` are not even looked at; the times of the samples are.
    let mut m4a = file("memo.m4a");
    let at = memchr::memmem::find(&m4a, b"stts").unwrap() + 8;
    m4a[at..at + 4].fill(0);
    assert_eq!(counted(&m4a), 3, "by the samples of `stsz`");
    // A faster clock.
    let mut m4a = file("memo.m4a");
    let at = memchr::memmem::find(&m4a, b"mdhd").unwrap() + 16;
    m4a[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(counted(&m4a), 3, "by the frames");
    // Positions of pages.
    let mut opus = file("memo.opus");
    let pages: Vec<_> = memchr::memmem::find_iter(&opus, b"OggS").collect();
    for page in pages {
        opus[page + 6..page + 14].fill(0);
    }
    assert_eq!(counted(&opus), 3, "by the packets");
    // Times of clusters and blocks.
    let mut webm = file("memo.webm");
    let at = memchr::memmem::find(&webm, b"\x2A\xD7\xB1\x83").unwrap() + 4;
    webm[at..at + 3].copy_from_slice(&[0, 0, 1]);
    assert_eq!(counted(&webm), 3, "by the packets");
}

#[test]
fn a_higher_claim_of_a_table_counts() {
    let mut m4a = file("memo.m4a");
    let at = memchr::memmem::find(&m4a, b"stsz").unwrap() + 12;
    m4a[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(counted(&m4a) > 100_000_000);
    let mut m4a = file("memo.m4a");
    let at = memchr::memmem::find(&m4a, b"elst").unwrap();
    // The same twice over, in the place of one edit and what follows it.
    m4a[at + 8..at + 12].copy_from_slice(&2_u32.to_be_bytes());
    let entry = m4a[at + 12..at + 24].to_vec();
    m4a.splice(at + 24..at + 24, entry);
    for (name, back) in [("moov", 4), ("trak", 4), ("edts", 4), ("elst", 4)] {
        let place = memchr::memmem::find(&m4a, name.as_bytes()).unwrap() - back;
        let length = u32::from_be_bytes(m4a[place..place + 4].try_into().unwrap());
        m4a[place..place + 4].copy_from_slice(&(length + 12).to_be_bytes());
    }
    assert_eq!(counted(&m4a), 6, "a decoder plays it twice");
}

#[test]
fn of_a_file_that_was_cut_what_is_there_counts() {
    for name in ["sox.wav", "memo.mp3", "memo.flac", "memo.opus", "memo.webm"] {
        let whole = file(name);
        let half = read(&whole[..whole.len() * 6 / 10]);
        assert!((1..=2).contains(&half.seconds), "{name}: {half:?}");
        assert!(half.is_counted, "{name}");
    }
    // Its table stands at the end.
    let m4a = file("memo.m4a");
    assert!(is_bounded(&m4a[..m4a.len() / 2]));
}

#[test]
fn a_tag_with_a_picture_before_the_sound_is_no_sound() {
    let sound = file("memo.mp3");
    let start = mp3::tag_end(&sound);
    let length = 200_000_u32;
    let mut tagged = b"ID3\x04\0\0".to_vec();
    tagged.extend([21, 14, 7, 0].map(|shift| u8::try_from(length >> shift & 0x7F).unwrap()));
    let noise = (0..length).map(|place| {
        let mixed = place.wrapping_mul(2_654_435_761).rotate_left(13) ^ place;
        u8::try_from(mixed.wrapping_mul(0x9E37_79B9) >> 24).unwrap()
    });
    tagged.extend(noise);
    tagged.extend_from_slice(&sound[start..]);
    assert_eq!(counted(&tagged), 3);
    // FLAC behind such a tag is FLAC.
    let mut flac = b"ID3\x04\0\0\0\0\0\x05hello".to_vec();
    flac.extend(file("memo.flac"));
    assert_eq!(read(&flac).format, AudioFormat::Flac);
    assert_eq!(counted(&flac), 3);
}

#[test]
fn a_few_frames_before_something_else_are_no_proof() {
    let mut mixed = file("memo.mp3");
    mixed.extend(vec![0; mixed.len() * 2]);
    assert!(is_bounded(&mixed));
}

#[test]
fn the_worst_files_take_linear_time() {
    let megabyte = |pattern: &[u8]| pattern.repeat(1024 * 1024 / pattern.len());
    let with_head = |head: &[u8], pattern: &[u8]| [head, &megabyte(pattern)].concat();
    let flac_head = &file("memo.flac")[..42];
    let webm_head = &file("memo.webm")[..300];
    for worst in [
        with_head(flac_head, b"\xFF\xF8\x11\x00\xFE\x80\x80\x80\x80\x80\x80"),
        megabyte(b"\xFF\xFB\x00\x00"),
        with_head(b"ID3\x04\0\0\x7F\x7F\x7F\x7F", b"\xFF\xFB\x90\x00"),
        megabyte(b"\0\0\0\x08moov"),
        megabyte(b"\0\x10\0\0moov\0\x0F\0\0trak"),
        megabyte(b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        megabyte(b"OggS"),
        with_head(webm_head, b"\xA3\x80"),
        with_head(webm_head, b"\x1F\x43\xB6\x75\x80\x00"),
        with_head(b"RIFF\0\0\0\0WAVE", b"fmt \0\0\0\0"),
        with_head(b"RIFF\0\0\0\0WAVE", b"data\x01\0\0\0"),
    ] {
        let begun = Instant::now();
        let read = read(&worst);
        let taken = begun.elapsed();
        // Some milliseconds in a build for users; quadratic time would be minutes.
        assert!(taken.as_millis() < 2000, "{taken:?} {read:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_it(
        name in prop::sample::select(FILES.map(|(name, ..)| name).to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = file(name);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len().saturating_add(1)).max(4));
        bytes.extend(&noise);
        prop_assert!(read(&bytes).seconds >= 1);
        prop_assert!(read(&noise).seconds >= 1);
    }
}
