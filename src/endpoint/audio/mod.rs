//! How long a file of audio is: by its frames, packets or sample table, not by what its header claims. Pure.
//!
//! What is told is never less than what a decoder makes of the file: where two readings differ the longer counts, and a file
//! whose reading would be a guess is not read at all, but bounded by its bytes and the least bit rate of all. Padding
//! that an encoder adds (up to a tenth of a second) is counted. Formats are told apart by their bytes, as decoders do, and
//! not by a name. One pass; memory is bounded; takes some milliseconds for a file of 25 MiB.

mod bytes;
mod ebml;
mod flac;
mod mp3;
mod mp4;
mod mp4_tracks;
mod ogg;
mod packets;
mod span;
#[cfg(test)]
mod tests;
mod vorbis;
mod wav;
mod webm;

use self::bytes::{count, piece_there};
use self::span::AudioSpan;

/// The fewest bits a second of a file that cannot be read: the least that any codec makes speech of (Codec 2's 450). What
/// its own format makes at least is not known of a file that may be of none.
pub const LEAST_BIT_RATE: u64 = 450;

/// A file of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioFile {
    /// What it is.
    pub format: AudioFormat,
    /// At least as long as it is, in seconds, rounded up; at least 1.
    pub seconds: u64,
    /// They were counted; else they are what its bytes may come to.
    pub is_counted: bool,
}

/// A format of files, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioFormat {
    /// MP4, and `QuickTime`: `.m4a`.
    Mp4,
    /// RIFF with WAVE.
    Wav,
    /// MPEG audio of any layer.
    Mp3,
    /// FLAC.
    Flac,
    /// Ogg, with Opus, Vorbis or FLAC.
    Ogg,
    /// `WebM` and Matroska.
    Webm,
    /// Anything else.
    Unknown,
}

impl AudioFormat {
    /// By the first bytes.
    fn of(file: &[u8]) -> Self {
        match file {
            [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..]
                if piece_there(file, 8, 4) == b"WAVE" =>
            {
                Self::Wav
            }
            [b'f', b'L', b'a', b'C', ..] => Self::Flac,
            [b'O', b'g', b'g', b'S', ..] => Self::Ogg,
            [0x1A, 0x45, 0xDF, 0xA3, ..] => Self::Webm,
            [b'I', b'D', b'3', ..] if flac::is_after(file, mp3::tag_end(file)) => Self::Flac,
            [b'I', b'D', b'3', ..] => Self::Mp3,
            _ if mp4::BEGINNINGS.contains(&piece_there(file, 4, 4)) => Self::Mp4,
            _ if mp3::begins(file) => Self::Mp3,
            _ => Self::Unknown,
        }
    }

    /// The endings that the names of such files have. The first is the usual one.
    #[must_use]
    pub const fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Mp4 => &["m4a", "mp4", "mov", "3gp"],
            Self::Wav => &["wav"],
            Self::Mp3 => &["mp3", "mpga", "mpeg"],
            Self::Flac => &["flac"],
            Self::Ogg => &["ogg", "oga", "opus"],
            Self::Webm => &["webm", "mkv", "mka"],
            Self::Unknown => &["bin", "aac", "amr", "aiff", "aif", "caf", "wma"],
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Mp4 => "audio/mp4",
            Self::Wav => "audio/wav",
            Self::Mp3 => "audio/mpeg",
            Self::Flac => "audio/flac",
            Self::Ogg => "audio/ogg",
            Self::Webm => "audio/webm",
            Self::Unknown => "application/octet-stream",
        }
    }
}

/// Reads a file: what it is, and how long.
#[must_use]
pub fn read(file: &[u8]) -> AudioFile {
    let format = AudioFormat::of(file);
    let counted = match format {
        AudioFormat::Mp4 => mp4::span(file),
        AudioFormat::Wav => wav::span(file),
        AudioFormat::Mp3 => mp3::span(file),
        AudioFormat::Flac => flac::span(file),
        AudioFormat::Ogg => ogg::span(file),
        AudioFormat::Webm => webm::span(file),
        AudioFormat::Unknown => None,
    };
    // A file in which nothing is to be heard was not understood.
    let counted = counted.filter(|span| *span > AudioSpan::NONE);
    let bits = count(file.len()).saturating_mul(8);
    let bound = || AudioSpan::of(bits, LEAST_BIT_RATE);
    AudioFile {
        format,
        seconds: counted.unwrap_or_else(bound).seconds().max(1),
        is_counted: counted.is_some(),
    }
}
