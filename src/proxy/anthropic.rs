//! `anthropic-beta`: what a caller asks for of Anthropic's API beside the plain one, and what of it passes. Pure.

use http::HeaderMap;

use crate::config::UpstreamConfig;
use crate::endpoint::Spec;

const HEADER: &str = "anthropic-beta";
/// How much of the header is read.
const BYTES_MAX: usize = 4096;

/// What is asked for, where it is Anthropic's API that is called.
pub(super) fn betas(spec: &Spec, headers: &HeaderMap) -> String {
    if !spec.is_anthropics() {
        return String::new();
    }
    let said = headers.get_all(HEADER).iter();
    let said = said.filter_map(|value| value.to_str().ok());
    let said: Vec<&str> = said.filter(|text| text.len() <= BYTES_MAX).collect();
    said.join(",")
}

/// What of it passes to an upstream: what its settings name, each once. None where it is another API.
pub(super) fn passing(spec: &Spec, asked: &str, to: &UpstreamConfig) -> Option<String> {
    if !spec.is_anthropics() {
        return None;
    }
    let asked: Vec<&str> = asked.split(',').map(str::trim).collect();
    let passing = to.anthropic_beta.iter().map(String::as_str);
    let passing: Vec<&str> = passing.filter(|name| asked.contains(name)).collect();
    Some(passing.join(","))
}
