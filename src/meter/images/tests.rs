//! The events of images, and their answers in either form.

use serde_json::Value;

use super::super::Meter;
use super::*;

const ORDER: ImageOrder = ImageOrder {
    operation: "image_generation",
    count: 1,
    takes_images: false,
    has_token_price: true,
    has_image_price: false,
};
const BY_THE_PIECE: ImageOrder = ImageOrder {
    has_token_price: false,
    has_image_price: true,
    ..ORDER
};
const PARTIAL: &str = "event: image_generation.partial_image\ndata: {\"type\":\"image_generation.partial_image\",\"b64_json\":\"AAAA\",\"partial_image_index\":0}\n\n";
const COMPLETED: &str = "event: image_generation.completed\ndata: {\"type\":\"image_generation.completed\", \"b64_json\":\"BBBB\",\"created_at\":7,\"size\":\"1024x1024\",\"usage\":{\"input_tokens\":9,\"output_tokens\":272,\"total_tokens\":281}}\n\n";

fn usage(input: u64, output: u64, images: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        image_output_tokens: output,
        images,
        ..Usage::default()
    }
}

fn stream(order: ImageOrder, text: &str) -> (Result<(), Fault>, String, Measured) {
    let mut meter = Meter::images(order);
    let mut out = BytesMut::new();
    let read = meter
        .push(text.as_bytes(), &mut out)
        .and_then(|()| meter.finish(&mut out));
    (
        read,
        String::from_utf8(out.to_vec()).unwrap(),
        meter.into_measured(),
    )
}

#[test]
fn events_pass_byte_for_byte_and_the_last_one_is_charged() {
    let text = format!("{PARTIAL}{COMPLETED}");
    let (read, told, measured) = stream(ORDER, &text);
    assert_eq!((read, told.as_str()), (Ok(()), text.as_str()));
    assert_eq!(measured.usage, Some(usage(9, 272, 1)));
    assert!(measured.done && !measured.text_overflow);
}

#[test]
fn several_images_are_added_up_and_a_lack_of_one_is_not_guessed() {
    let order = ImageOrder { count: 2, ..ORDER };
    let (read, _, measured) = stream(order, &format!("{COMPLETED}{COMPLETED}"));
    assert_eq!((read, measured.usage), (Ok(()), Some(usage(18, 544, 2))));
    let silent = COMPLETED.replace("usage", "other");
    let (_, _, measured) = stream(order, &format!("{COMPLETED}{silent}"));
    assert_eq!((measured.usage, measured.text_overflow), (None, true));
    let (_, _, measured) = stream(BY_THE_PIECE, &silent);
    assert_eq!(measured.usage, Some(usage(0, 0, 1)));
}

#[test]
fn what_ends_before_its_image_is_cut_and_nothing_of_it_is_known() {
    let (read, _, measured) = stream(ORDER, PARTIAL);
    assert_eq!(read, Err(Fault::Cut));
    assert_eq!((measured.usage, measured.text_overflow), (None, true));
    let order = ImageOrder { count: 2, ..ORDER };
    let mut meter = Meter::images(order);
    meter
        .push(COMPLETED.as_bytes(), &mut BytesMut::new())
        .unwrap();
    assert_eq!(
        meter.measured().usage,
        None,
        "of the other nothing is known"
    );
}

#[test]
fn errors_are_told_from_images() {
    for error in [
        "event: error\ndata: {\"message\":\"No.\"}\n\n",
        "data: {\"type\":\"error\",\"error\":{\"message\":\"No.\"}}\n\n",
        "{\"error\":{\"message\":\"No.\"}}",
    ] {
        let (read, told, measured) = stream(ORDER, error);
        assert_eq!((read, told.as_str()), (Err(Fault::Upstream), ""), "{error}");
        assert!(measured.is_error && !measured.text_overflow);
    }
    let (read, ..) = stream(ORDER, "{\"data\":[]}");
    assert_eq!(read, Err(Fault::Nonsense));
}

#[test]
fn each_form_becomes_the_other() {
    let whole = "{\"created\":7,\"size\":\"1024x1024\",\"data\":[{\"b64_json\":\"BBBB\"}],\"usage\":{\"input_tokens\":9,\"output_tokens\":272,\"total_tokens\":281}}";
    let (read, told, measured) = stream(ORDER, whole);
    assert_eq!((read, measured.usage), (Ok(()), Some(usage(9, 272, 1))));
    let data = told.lines().nth(1).unwrap().strip_prefix("data: ").unwrap();
    let event: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        (
            &event["type"],
            &event["b64_json"],
            &event["usage"]["input_tokens"]
        ),
        (
            &json!("image_generation.completed"),
            &json!("BBBB"),
            &json!(9)
        )
    );

    let read = super::read(Bytes::from(format!("{PARTIAL}{COMPLETED}")), &ORDER);
    assert_eq!(read.measured.usage, Some(usage(9, 272, 1)));
    let body: Value = serde_json::from_slice(&read.body.unwrap()).unwrap();
    let expected: Value = serde_json::from_str(whole).unwrap();
    assert_eq!(body, expected);
}

#[test]
fn a_whole_answer_passes_as_it_came() {
    let body = Bytes::from_static(
        b"{\"created\": 7, \"data\": [{\"url\":\"https://a\"}, {\"b64_json\":\"AA\"}]}",
    );
    let read = super::read(body.clone(), &BY_THE_PIECE);
    assert_eq!(read.body, Ok(body.clone()));
    assert_eq!(read.measured.usage, Some(usage(0, 0, 2)));
    let read = super::read(body, &ORDER);
    assert_eq!(
        (read.measured.usage, read.measured.text_overflow),
        (None, true)
    );
    for nonsense in ["", "{}", "[]", "{\"data\":[]}", "{\"data\":{}}"] {
        let read = super::read(Bytes::from_static(nonsense.as_bytes()), &ORDER);
        assert!(
            read.body.is_err() && read.measured.usage.is_none(),
            "{nonsense}"
        );
    }
}
