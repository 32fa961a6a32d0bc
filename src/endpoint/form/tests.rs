use proptest::prelude::*;

use super::*;
use crate::endpoint::Route;
use crate::endpoint::json::{List, object};

object! {
    Fields {
        model = "model": String,
        n = "n": i64,
        speed = "speed": f64,
        stream = "stream": bool,
        include = "include": List<String, 2>,
    }
}

fn incoming(boundary: &str, body: impl Into<Bytes>) -> Incoming {
    let content_type = format!("multipart/form-data; boundary={boundary}");
    Incoming {
        route: Route::plain("/v1/images/edits"),
        content_type: Some(HeaderValue::try_from(content_type).unwrap()),
        body: body.into(),
    }
}

/// A form as curl sends it.
fn form(parts: &[(&str, &str)]) -> Incoming {
    let part = |(disposition, data): &(&str, &str)| {
        [
            "--x-1\r\nContent-Disposition: form-data; ",
            disposition,
            "\r\nContent-Type: text/plain\r\n\r\n",
            data,
            "\r\n",
        ]
        .concat()
    };
    let body: String = parts.iter().map(part).collect();
    incoming("x-1", body + "--x-1--\r\n")
}

fn told(result: Result<Fields, Refusal>) -> (Option<String>, String) {
    let refusal = result.err().unwrap();
    (refusal.param, refusal.message)
}

fn fields(parts: &[(&str, &str)]) -> Result<Fields, Refusal> {
    FormBody::read(&form(parts))?.into_fields()
}

#[test]
fn fields_are_read_as_what_they_are_and_files_are_taken_by_their_name() {
    let sent = form(&[
        ("name=\"stream\"", "true"),
        ("name=\"image[]\"; filename=\"a.png\"", "\r\n--x-2\0a"),
        ("name=\"include[]\"", "logprobs"),
        ("name=model", "gpt-image-2"),
        ("name=\"n\"", "3"),
        ("name=\"image\"; filename=\"b \\\" c.png\"", ""),
        ("name=\"speed\"", "0.25"),
    ]);
    let mut form = FormBody::read(&sent).unwrap();
    let files = form.take_files("image");
    let seen: Vec<_> = files
        .iter()
        .map(|file| (file.file_name.as_deref().unwrap_or_default(), &*file.data))
        .collect();
    assert_eq!(seen[0], ("a.png", &b"\r\n--x-2\0a"[..]));
    assert_eq!((seen.len(), seen[1].1), (2, &b""[..]));
    assert!(form.take_files("image").is_empty());
    let fields: Fields = form.into_fields().unwrap();
    assert_eq!(fields.model.as_deref(), Some("gpt-image-2"));
    assert_eq!(
        (fields.n, fields.stream, fields.speed),
        (Some(3), Some(true), Some(0.25))
    );
    assert_eq!(fields.include.unwrap().0, ["logprobs"]);
    assert!(fields.unknown.is_none());
}

#[test]
fn a_field_that_is_not_what_it_should_be_is_named() {
    for (parts, param, message) in [
        (&[("name=n", "three")][..], "n", "must be an integer"),
        (&[("name=n", "")], "n", "must be an integer"),
        (&[("name=stream", "yes")], "stream", "must be a boolean"),
        (
            &[("name=model", "a"), ("name=model", "b")],
            "model",
            "must be given only once",
        ),
        (
            &[
                ("name=include", "a"),
                ("name=\"include[]\"", "b"),
                ("name=include", "c"),
            ],
            "include",
            "at most 2 items",
        ),
    ] {
        let (at, text) = told(fields(parts));
        assert_eq!(at.as_deref(), Some(param), "{text}");
        assert!(text.contains(message), "{text}");
    }
    let unknown = fields(&[("name=\"seed[]\"", "1"), ("name=other", "")]).unwrap();
    assert_eq!(unknown.unknown.unwrap().name, "seed");
    let binary =
        [&b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\n\xff\xfe\r\n--x--"[..]]
            .concat();
    let read = FormBody::read(&incoming("x", binary)).unwrap();
    let (at, text) = told(read.into_fields());
    assert_eq!(at.as_deref(), Some("model"));
    assert!(text.contains("UTF-8"), "{text}");
}

#[test]
fn what_is_no_form_is_refused() {
    let named = "Content-Disposition: form-data; name=\"file\"";
    for (body, param, message) in [
        (String::new(), None, "breaks off"),
        ("{}".to_owned(), None, "breaks off"),
        ("--x".to_owned(), None, "breaks off"),
        ("--y--".to_owned(), None, "breaks off"),
        (format!("--x\r\n{named}"), None, "breaks off"),
        (
            format!("--x\r\n{named}\r\n\r\nabc"),
            Some("file"),
            "breaks off",
        ),
        (
            format!("--x\r\n{named}\r\n\r\nabc\r\n--y--"),
            Some("file"),
            "breaks off",
        ),
        (
            "--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--".to_owned(),
            None,
            "no name",
        ),
        (
            format!("--x\r\n{named}\r\n\r\n\r\n").repeat(129) + "--x--",
            None,
            "more than 128 parts",
        ),
    ] {
        let refusal = FormBody::read(&incoming("x", body.clone())).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidRequest);
        assert_eq!(refusal.param.as_deref(), param, "{body}");
        assert!(refusal.message.contains(message), "{}", refusal.message);
    }
    let mut without = incoming("x", "");
    without.content_type = Some(HeaderValue::from_static("multipart/form-data"));
    let refusal = FormBody::read(&without).unwrap_err();
    assert!(refusal.message.contains("boundary"), "{}", refusal.message);
    let empty: Fields = FormBody::read(&incoming("x", "--x--"))
        .unwrap()
        .into_fields()
        .unwrap();
    assert!(empty.model.is_none());
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(
        parts in prop::collection::vec(("[a-z\\[\\]\" ]{1,9}", prop::option::of("[ -~]{0,9}"), prop::collection::vec(any::<u8>(), 0..200)), 0..9),
    ) {
        let boundary = Boundary::random().unwrap();
        let mut writer = FormWriter::new(&boundary, 0);
        for (name, file_name, data) in &parts {
            match (file_name, std::str::from_utf8(data)) {
                (Some(file_name), _) => writer.file(name, (file_name, "image/png"), data),
                (None, Ok(text)) => writer.text(name, text),
                (None, Err(_)) => writer.file(name, ("f", "image/png"), data),
            }
        }
        let sent = Incoming {
            content_type: Some(boundary.content_type()),
            ..incoming("", writer.finish())
        };
        let read = FormBody::read(&sent).unwrap().parts;
        prop_assert_eq!(read.len(), parts.len());
        for (part, (name, _, data)) in read.iter().zip(&parts) {
            prop_assert_eq!(&*part.data, data.as_slice());
            prop_assert_eq!(&part.name, &name.replace('"', "%22"));
        }
    }

    #[test]
    fn no_body_breaks_the_reader(body in prop::collection::vec(prop::sample::select(b"--x\r\n:;=\"aname Content-Disposition: form-data".to_vec()), 0..300)) {
        let _read = FormBody::read(&incoming("x", body));
    }
}
