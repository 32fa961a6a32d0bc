//! The form that is sent: every field as it was understood, and the file under a name of ours. Pure.

use bytes::Bytes;
use http::HeaderValue;

use super::check::Fields;
use crate::endpoint::audio::AudioFormat;
use crate::endpoint::form::{Boundary, FormPart, FormWriter};
use crate::error::Refusal;

/// The longest name of a file, without its ending.
const NAME_CHARS_MAX: usize = 64;

/// A form on its way out.
pub(super) struct Upload {
    pub(super) content_type: HeaderValue,
    pub(super) body: Bytes,
}

impl Upload {
    /// Writes it.
    ///
    /// # Errors
    /// There is no boundary to be had.
    pub(super) fn write(
        fields: &Fields,
        file: &FormPart,
        format: AudioFormat,
    ) -> Result<Self, Refusal> {
        let boundary = Boundary::random()?;
        let mut writer = FormWriter::new(&boundary, file.data.len());
        writer.texts(fields);
        let name = file_name(file.file_name.as_deref(), format);
        writer.file("file", (&name, format.media_type()), &file.data);
        Ok(Self {
            content_type: boundary.content_type(),
            body: writer.finish(),
        })
    }
}

/// The name that the caller gave, of plain letters, with an ending that says what the file is: providers go by that.
fn file_name(sent: Option<&str>, format: AudioFormat) -> String {
    let sent = sent.unwrap_or_default();
    let sent = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let (stem, ending) = sent.rsplit_once('.').unwrap_or((sent, ""));
    let plain = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '-' {
            letter
        } else {
            '_'
        }
    };
    let stem: String = stem.chars().take(NAME_CHARS_MAX).map(plain).collect();
    let stem = if stem.is_empty() { "audio" } else { &stem };
    let ending = ending.to_ascii_lowercase();
    let usual = format.endings().first().copied().unwrap_or_default();
    let known = format.endings().iter().find(|known| **known == ending);
    format!("{stem}.{}", known.copied().unwrap_or(usual))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_plain_name_that_says_what_it_is() {
        for (sent, format, name) in [
            (Some("Memo 1.m4a"), AudioFormat::Mp4, "Memo_1.m4a"),
            (Some("clip.MP4"), AudioFormat::Mp4, "clip.mp4"),
            (Some("clip.mp3"), AudioFormat::Wav, "clip.wav"),
            (Some("../../etc/passwd"), AudioFormat::Mp3, "passwd.mp3"),
            (Some("C:\\a\\b.webm"), AudioFormat::Webm, "b.webm"),
            (Some("a\"\r\nX: y.ogg"), AudioFormat::Ogg, "a___X__y.ogg"),
            (Some("é.flac"), AudioFormat::Flac, "_.flac"),
            (Some(".ogg"), AudioFormat::Ogg, "audio.ogg"),
            (Some("x.exe"), AudioFormat::Unknown, "x.bin"),
            (Some("x.amr"), AudioFormat::Unknown, "x.amr"),
            (None, AudioFormat::Mp4, "audio.m4a"),
        ] {
            assert_eq!(file_name(sent, format), name);
        }
        let long = "x".repeat(900);
        assert_eq!(file_name(Some(&long), AudioFormat::Mp3).len(), 68);
    }
}
